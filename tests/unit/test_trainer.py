"""The outer loop."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import innerloop as il


def sinusoid_trainer(method: il.Method, make_optimizer: object = None, **settings: object) -> il.MetaTrainer:
    torch.manual_seed(0)
    make = make_optimizer or (lambda params: torch.optim.SGD(params, lr=0.1))
    return il.MetaTrainer(il.nets.mlp(hidden=(8,)), method, make, loss_fn=F.mse_loss, **settings)


def test_an_outer_step_is_the_optimizers_and_nothing_else() -> None:
    trainer = sinusoid_trainer(il.maml(0.01))
    before = {name: p.detach().clone() for name, p in trainer.meta_params.items()}
    episode = il.data.sinusoids().episodes(tasks=4)(torch.Generator().manual_seed(0))
    grads, _ = il.meta_gradient(trainer.net, il.maml(0.01), episode, F.mse_loss)
    trainer.step(episode)
    for name, parameter in trainer.net.named_parameters():
        assert parameter is trainer.meta_params[name]
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * grads[name])


def test_reptile_moves_a_fraction_beta_of_the_way_to_the_mean_of_the_adapted() -> None:
    beta, tasks = 0.3, 3
    method = il.reptile(0.02, inner_steps=4, inner_batch=None, inner_optimizer="sgd", test_steps=None)
    trainer = sinusoid_trainer(method, lambda params: torch.optim.SGD(params, lr=beta))
    episode = il.data.sinusoids().episodes(tasks=tasks, queries=0)(torch.Generator().manual_seed(0))
    theta = {name: p.detach().clone() for name, p in trainer.meta_params.items()}
    adapted = [
        il.adapt(trainer.net, method, x, y, F.mse_loss)
        for x, y in zip(episode.support_x, episode.support_y, strict=True)
    ]
    trainer.step(episode)
    for name, start in theta.items():
        mean = sum(params[name] for params in adapted) / tasks
        assert not torch.allclose(mean, start)
        torch.testing.assert_close(trainer.meta_params[name].detach(), start + beta * (mean - start))


def test_what_a_method_learns_is_trained_too() -> None:
    rule = il.rules.InnerRule(
        init=lambda params, learned: learned["lr"],
        step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        learned=lambda params: {"lr": torch.tensor(0.01)},
    )
    method = il.Method(il.Adaptation(rule, steps=2), il.unrolled())
    trainer = sinusoid_trainer(method, lambda params: torch.optim.SGD(params, lr=1e-4))
    assert list(trainer.meta_params)[-1] == "method.lr"
    trainer.fit(il.data.sinusoids().episodes(tasks=4), 3, progress=False)
    assert float(trainer.meta_params["method.lr"].detach()) != float(torch.tensor(0.01))
    learner = trainer.learner()
    assert float(learner._meta.learned["lr"]) == float(trainer.meta_params["method.lr"].detach())


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    results = []
    for seed in (0, 0, 1):
        trainer = sinusoid_trainer(il.maml(0.01), seed=seed)
        trainer.fit(il.data.sinusoids().episodes(tasks=4), 3, progress=False)
        results.append(torch.cat([p.detach().flatten() for p in trainer.meta_params.values()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_best_by_validation_is_kept(tmp_path: Path) -> None:
    # An outer rate that grows without bound is sure to make the last validation worse than an earlier one.
    trainer = sinusoid_trainer(
        il.maml(0.001),
        lambda params: torch.optim.SGD(params, lr=0.01),
        scheduler=lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda i: 1.0 if i < 30 else 8.0 ** (i - 30)),
    )
    tasks = il.data.sinusoids().episodes(tasks=4)
    validation = il.Validation(tasks, tasks=20, every=10)
    with contextlib.suppress(il.DivergedError):
        trainer.fit(tasks, 36, validation=validation, folder=tmp_path, save_every=10, progress=False)
    assert trainer.best is not None
    learner = il.Learner.load(tmp_path, net=il.nets.mlp(hidden=(8,)))
    kept = trainer_score(learner, tasks)
    assert kept == pytest.approx(trainer.best)
    now = trainer.evaluate(tasks, tasks=20).mean
    assert not now <= kept


def trainer_score(learner: il.Learner, tasks: object) -> float:
    from innerloop.evaluation.evaluate import evaluate
    from innerloop.randomness import Stream

    result = evaluate(learner._net, learner.method, tasks, tasks=20, loss_fn=F.mse_loss, stream=Stream.VALIDATION)
    return result.mean


def test_a_loss_that_is_not_finite_stops_training_before_it_does_harm(tmp_path: Path) -> None:
    trainer = sinusoid_trainer(il.maml(1e30, inner_steps=3))
    before = {name: p.detach().clone() for name, p in trainer.meta_params.items()}
    with pytest.raises(il.DivergedError, match=r"last good checkpoint is .*checkpoint\.safetensors"):
        trainer.fit(il.data.sinusoids().episodes(tasks=4), 5, folder=tmp_path, progress=False)
    for name, value in before.items():
        assert torch.equal(trainer.meta_params[name], value)


class OutOfMemoryAbove(nn.Module):
    """Runs out of memory when more than so many tasks are mapped together."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.linear, self.limit = nn.Linear(1, 1), limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        functorch = torch._C._functorch
        if functorch.is_batchedtensor(x) and len(functorch.get_unwrapped(x)) > self.limit:
            raise torch.OutOfMemoryError("no memory left")
        return self.linear(x)


def test_a_plan_that_was_halved_for_memory_is_kept_by_a_checkpoint(tmp_path: Path) -> None:
    def made() -> il.MetaTrainer:
        torch.manual_seed(0)
        return il.MetaTrainer(OutOfMemoryAbove(4), il.maml(0.01), torch.optim.Adam, loss_fn=F.mse_loss)

    tasks = il.data.sinusoids().episodes(tasks=8)
    adaptation, episode = il.maml(0.01).adaptation, tasks(torch.Generator())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole, first, resumed = made(), made(), made()
        for run, iterations, folder in ((whole, 4, None), (first, 2, tmp_path)):
            with pytest.warns(UserWarning, match="out of memory with 8 tasks together; going on with 4 ") as caught:
                run.fit(tasks, iterations, folder=folder, progress=False)
            assert len(caught) == 1
        resumed.fit(tasks, 4, folder=tmp_path, resume=True, progress=False)  # a warning would be an error
        for name, parameter in whole.meta_params.items():
            assert torch.equal(parameter, resumed.meta_params[name])

        asked = il.MetaTrainer(
            OutOfMemoryAbove(4), il.maml(0.01), torch.optim.Adam, loss_fn=F.mse_loss, execution="batched"
        )
        asked.load(tmp_path / "checkpoint.safetensors")
        assert asked._engine.plan(adaptation, episode).tasks == 8
        torch.set_num_threads(2)  # perhaps another machine
        other = made()
        other.load(tmp_path / "checkpoint.safetensors")
        assert other._engine.plan(adaptation, episode).threads == 2
    finally:
        torch.set_num_threads(threads)


def test_frozen_parameters_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    trainer = il.MetaTrainer(net, il.maml(0.01), lambda p: torch.optim.Adam(p, lr=0.1), loss_fn=F.mse_loss)
    trainer.fit(il.data.sinusoids().episodes(tasks=4), 3, progress=False)
    assert list(trainer.meta_params) == ["2.weight", "2.bias"]
    assert torch.equal(net[0].weight, frozen)
