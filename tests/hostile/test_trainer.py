"""The outer loop: each update is along the gradient at the module as it is, whatever was done to it between steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import RTOL, assert_answer, episodes, method_of, mlp, refused, tasks_of, with_threads
from hostile.test_moment import Rich, new

BETA = 0.05
Change = Callable[[nn.Module], object]


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=BETA)


def in_place(net: Rich) -> None:
    with torch.no_grad():
        net.first.weight.mul_(2)


def by_data(net: Rich) -> None:
    net.first.weight.data = new(net.first.weight, 3)


def load(net: Rich) -> None:
    net.load_state_dict({name: new(t, 3) for name, t in net.state_dict().items()})


def load_by_assignment(net: Rich) -> None:
    net.load_state_dict({name: new(t, 3) for name, t in net.state_dict().items()}, assign=True)


def freeze(net: Rich) -> None:
    net.first.requires_grad_(False)


def unfreeze(net: Rich) -> None:
    net.first.requires_grad_(not net.first.weight.requires_grad)


def add_a_parameter(net: Rich) -> None:
    net.added = nn.Parameter(torch.ones(2).double())


def add_a_layer(net: Rich) -> None:
    net.act = nn.PReLU().double()


def replace_a_parameter(net: Rich) -> None:
    net.second.weight = nn.Parameter(new(net.second.weight, 4))


def replace_a_layer(net: Rich) -> None:
    net.second = nn.Linear(4, 2).double()


def evaluate(net: Rich) -> None:
    net.eval()


def set_an_attribute(net: Rich) -> None:
    net.scale = 3.0


def set_an_element(net: Rich) -> None:
    net.scales[0] = 3.0


def set_a_buffer(net: Rich) -> None:
    net.shift = torch.full((2,), 3.0).double()


def fill_a_buffer(net: Rich) -> None:
    net.shift.fill_(3.0)


def assign_a_constant(net: Rich) -> None:
    net.constant = torch.full((1,), 2.0).double()


def register_a_hook(net: Rich) -> None:
    net.second.register_forward_hook(lambda module, inputs, output: output * 2)


def tie(net: Rich) -> None:
    net.extra = net.second.bias


def put_gradients(net: Rich) -> None:
    for p in net.parameters():
        p.grad = torch.full_like(p, 9.0)


def turn_to_float(net: Rich) -> None:
    net.float()


CHANGES: list[Change] = [
    in_place,
    by_data,
    load,
    load_by_assignment,
    freeze,
    unfreeze,
    add_a_parameter,
    add_a_layer,
    replace_a_parameter,
    replace_a_layer,
    evaluate,
    set_an_attribute,
    set_an_element,
    set_a_buffer,
    fill_a_buffer,
    assign_a_constant,
    register_a_hook,
    tie,
    put_gradients,
    turn_to_float,
]


def stepped_as_in_a_plain_loop(trainer: il.MetaTrainer, net: nn.Module, call: int, tasks: int = 2) -> None:
    """One step; every parameter of the module as it is moves along the oracle's gradient, or the step is refused."""
    episode = episodes(call, tasks=tasks)
    dtype = next(net.parameters()).dtype
    episode = episode.map(lambda t: t.to(dtype) if t.is_floating_point() else t)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    grads = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy).grads
    if refused(lambda: trainer.step(episode)):
        after = {name: p.detach() for name, p in net.named_parameters()}
        assert all(torch.equal(after[name], before[name]) for name in before), "refused, but something was updated"
        raise Refused
    rtol = RTOL if dtype == torch.float64 else 1e-4
    after = {name: p.detach() for name, p in net.named_parameters()}
    right = {name: value - BETA * grads[name] if name in grads else value for name, value in before.items()}
    assert_answer(after, right, call, rtol)


class Refused(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    ("when", "execution", "threads"),
    [(0, "auto", 1), (0, 1, 2), (3, "serial", 1), (8, "auto", 1)],
    ids=["before the first step", "before the first step, on 2", "after three steps, serially", "after eight steps"],
)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.replace("_", " "))
def test_a_change_of_the_module(change: Change, when: int, execution: Any, threads: int) -> None:
    net = Rich()
    with with_threads(threads):
        trainer = il.MetaTrainer(net, method_of("maml"), sgd, execution=execution, unused="ignore")
        refused_at = None
        for call in range(when + 4):
            if call == when:
                change(net)
            try:
                stepped_as_in_a_plain_loop(trainer, net, call)
            except Refused:
                refused_at = call if refused_at is None else refused_at
        assert refused_at is None or refused_at >= when


def test_a_parameter_frozen_between_steps_is_not_updated_by_momentum() -> None:
    net = Rich()
    trainer = il.MetaTrainer(net, method_of("maml"), lambda p: torch.optim.SGD(p, BETA, momentum=0.9), unused="ignore")
    for call in range(4):
        trainer.step(episodes(call))
    net.first.requires_grad_(False)
    frozen = net.first.weight.detach().clone()
    for call in range(4):
        refused(lambda call=call: trainer.step(episodes(call)))
    assert torch.equal(net.first.weight, frozen)


@pytest.mark.parametrize("threads", [1, 2])
def test_autocast_around_a_step_is_that_of_all_tasks(threads: int) -> None:
    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, bias=False)  # under vmap, PyTorch adds a bias in float32

        def forward(self, x: Tensor) -> Tensor:
            outputs = self.layer(x)
            return outputs.float() * (3.0 if outputs.dtype == torch.bfloat16 else 1.0)

    torch.manual_seed(0)
    net = Sees()
    with with_threads(threads):
        trainer = il.MetaTrainer(net, method_of("maml"), sgd, execution=1)
        for call in range(6):
            episode = episodes(call, tasks=4).map(lambda t: t.float() if t.is_floating_point() else t)
            with torch.autocast("cpu", torch.bfloat16, enabled=call % 2 == 0):
                right = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy)
                info = trainer.step(episode)
            torch.testing.assert_close(info.loss.float(), torch.stack(right.losses).float(), rtol=3e-2, atol=1e-2)


def test_two_trainers_of_one_module() -> None:
    net = mlp()
    one, other = (il.MetaTrainer(net, method_of("maml", steps=k), sgd) for k in (1, 2))
    for call in range(8):
        for trainer, steps in ((one, 1), (other, 2)):
            before = copy.deepcopy(net)
            trainer.step(episodes(call))
            grads = oracle.meta_gradient(before, tasks_of(episodes(call)), F.cross_entropy, steps=steps).grads
            for name, p in net.named_parameters():
                torch.testing.assert_close(p.detach(), before.get_parameter(name) - BETA * grads[name])


def test_a_rate_of_the_optimizer_that_changes() -> None:
    net = mlp()
    trainer = il.MetaTrainer(net, method_of("maml"), sgd)
    for call in range(8):
        rate = 0.01 * (1 + call)
        trainer.optimizer.param_groups[0]["lr"] = rate
        before = copy.deepcopy(net)
        trainer.step(episodes(call))
        grads = oracle.meta_gradient(before, tasks_of(episodes(call)), F.cross_entropy).grads
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), before.get_parameter(name).detach() - rate * grads[name])


def test_a_loss_whose_number_changes() -> None:
    net, scale = mlp(), [1.0]
    loss = lambda outputs, y: F.cross_entropy(outputs, y) * scale[0]  # noqa: E731
    trainer = il.MetaTrainer(net, method_of("maml"), sgd, loss_fn=loss)
    for call in range(24):
        scale[0] = 1.0 + (call > 8) + (call > 19)
        before = copy.deepcopy(net)
        trainer.step(episodes(call))
        grads = oracle.meta_gradient(before, tasks_of(episodes(call)), loss).grads
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), before.get_parameter(name).detach() - BETA * grads[name])


def test_a_fit_that_is_the_plain_loop() -> None:
    net = mlp()
    own, sampler = copy.deepcopy(net), lambda generator: episodes(int(torch.randint(1000, (), generator=generator)))
    seen: list[il.Episode] = []

    def watched(generator: torch.Generator) -> il.Episode:
        seen.append(sampler(generator))
        return seen[-1]

    trainer = il.MetaTrainer(net, method_of("maml"), sgd)
    trainer.fit(watched, iterations=12, progress=False)
    for episode in seen[-12:]:
        grads = oracle.meta_gradient(own, tasks_of(episode), F.cross_entropy).grads
        with torch.no_grad():
            for name, p in own.named_parameters():
                p.sub_(BETA * grads[name])
    for name, p in net.named_parameters():
        torch.testing.assert_close(p, own.get_parameter(name), rtol=1e-9, atol=1e-12)


def test_the_learner_of_a_trainer_does_not_follow_it() -> None:
    net = mlp()
    trainer = il.MetaTrainer(net, method_of("maml"), sgd)
    trainer.step(episodes(0))
    e, learner, then = episodes(5), trainer.learner(), copy.deepcopy(net)
    found = learner.adapt(e.support_x[0], e.support_y[0]).predict_proba(e.query_x[0])
    for call in range(4):
        trainer.step(episodes(call))
    again = learner.adapt(e.support_x[0], e.support_y[0]).predict_proba(e.query_x[0])
    assert torch.equal(found, again)
    params = oracle.adapted(then, e.support_x[0], e.support_y[0], F.cross_entropy)
    torch.testing.assert_close(again, oracle.call(then.eval(), params, e.query_x[0]).softmax(-1).detach())
