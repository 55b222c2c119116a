"""FOML and Reptile's other variants, beside loops written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, regression_episode, rng, smooth_net, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.adaptation import draw_batches

LR = 0.1
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, LR),
    "adam": lambda params: torch.optim.Adam(params, LR, betas=(0.0, 0.999)),
}


def last_move(net: nn.Module, batches: list[tuple[Tensor, Tensor]], optimizer: str) -> dict[str, Tensor]:
    """Minus the last step of PyTorch's optimizer over the mini-batches of one task."""
    copy = smooth_net()
    copy.load_state_dict(net.state_dict())
    steps = OPTIMIZERS[optimizer](copy.parameters())
    for x, y in batches:
        before = {n: p.detach().clone() for n, p in copy.named_parameters()}
        steps.zero_grad()
        F.cross_entropy(copy(x), y).backward()
        steps.step()
    return {n: before[n] - p.detach() for n, p in copy.named_parameters()}


@pytest.mark.parametrize("execution", ["serial", "batched", 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tail", [False, True])
def test_foml_is_the_last_step_written_out(tail: bool, optimizer: str, execution) -> None:
    net, episode, batch = smooth_net(), vector_episode(3), 4
    method = il.foml(LR, 3, batch, inner_optimizer=optimizer, tail=tail)
    drawn = draw_batches(method.adaptation, 3, 6, rng())
    assert drawn.shape == (3, 2 if tail else 3, batch)
    moves = []
    for i in range(3):
        batches = [(episode.support_x[i, rows], episode.support_y[i, rows]) for rows in drawn[i]]
        batches += [(episode.query_x[i], episode.query_y[i])] if tail else []
        moves.append(last_move(net, batches, optimizer))
    grads, info = il.meta_gradient(net, method, episode, generator=rng(), execution=execution)
    assert_same(grads, {n: sum(move[n] for move in moves) / 3 for n in grads}, rtol=1e-6)
    assert info.loss.shape == (3,)
    assert (info.rule_state is None) == (optimizer == "sgd")


@pytest.mark.parametrize("tail", [False, True])
def test_with_one_step_foml_is_joint_training(tail: bool) -> None:
    net, episode = smooth_net(), vector_episode(3)
    grads, _ = il.meta_gradient(net, il.foml(LR, 1, None, inner_optimizer="sgd", tail=tail), episode)
    x, y = (episode.query_x, episode.query_y) if tail else (episode.support_x, episode.support_y)
    joint = torch.stack([F.cross_entropy(net(x[i]), y[i]) for i in range(3)]).mean()
    slopes = torch.autograd.grad(joint, list(net.parameters()))
    assert_same(grads, {n: LR * g for n, g in zip(grads, slopes, strict=True)})


def test_the_tail_of_gradient_descent_is_the_first_order_meta_gradient() -> None:
    """After one step less on the support set."""
    net, episode = smooth_net(), vector_episode(3)
    grads, info = il.meta_gradient(net, il.foml(LR, 4, None, inner_optimizer="sgd", tail=True), episode)
    expected, observed = il.meta_gradient(net, il.fomaml(LR, 3), episode)
    assert_same(grads, {n: LR * g for n, g in expected.items()})
    torch.testing.assert_close(info.loss, observed.loss)


def test_reptile_is_the_sum_of_the_last_moves() -> None:
    net, episode = smooth_net(), vector_episode(3)
    whole, _ = il.meta_gradient(net, il.reptile(LR, 3, None, inner_optimizer="sgd"), episode)
    moves = [il.meta_gradient(net, il.foml(LR, k, None, inner_optimizer="sgd"), episode)[0] for k in (1, 2, 3)]
    assert_same(whole, {n: sum(move[n] for move in moves) for n in whole})


def test_serial_reptile_goes_from_task_to_task() -> None:
    """With one task in an episode the next one starts from where this one led, and with several it does not."""
    tasks = [regression_episode(2, seed=i) for i in range(2)]

    def trained(episodes: list[il.Episode], method: il.Method) -> dict[str, Tensor]:
        torch.manual_seed(0)
        trainer = il.MetaTrainer(
            il.nets.mlp(hidden=(6,)).double(), method, lambda p: torch.optim.SGD(p, 0.5), loss_fn=F.mse_loss
        )
        for episode in episodes:
            trainer.step(episode)
        return {n: p.detach().clone() for n, p in trainer.meta_params.items()}

    serial = [episode[i : i + 1] for episode in tasks for i in range(2)]
    for make in (il.reptile, il.foml):
        method = make(0.02, 3, None, inner_optimizer="sgd")
        one, other = trained(serial, method), trained(tasks, method)
        assert any(not torch.allclose(one[n], other[n], rtol=1e-3) for n in one)
        torch.manual_seed(0)
        net = il.nets.mlp(hidden=(6,)).double()
        for episode in serial:
            grads, _ = il.meta_gradient(net, method, episode, F.mse_loss)
            with torch.no_grad():
                for n, p in net.named_parameters():
                    p.sub_(0.5 * grads[n])
        assert_same(one, dict(net.named_parameters()))


def test_a_tail_needs_queries_and_a_step() -> None:
    net, episode = smooth_net(), vector_episode(2)
    empty = replace(episode, query_x=episode.query_x[:, :0], query_y=episode.query_y[:, :0])
    with pytest.raises(ValueError, match="the tail is a step on the query set"):
        il.meta_gradient(net, il.foml(tail=True), empty)
    il.meta_gradient(net, il.foml(), empty)
    with pytest.raises(ValueError, match="with tail=True it must be at least 1, because the last step"):
        il.foml(inner_steps=0, tail=True)
    with pytest.raises(ValueError, match="part is 'first'; choose one of whole, last, tail"):
        il.displacement("first")


def test_a_tail_is_normalised_by_itself() -> None:
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    episode, method = vector_episode(2), il.foml(LR, 2, None, inner_optimizer="sgd", tail=True)
    grads = [il.meta_gradient(net, method, episode, norm=norm)[0] for norm in ("transductive", "inductive")]
    assert_same(grads[0], grads[1], 0, 0)
