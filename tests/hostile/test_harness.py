"""The plain loops and the harness themselves: right where they must be, and failing where they must fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import Script, episodes, linear, make_engine, method_of, mlp, play, targets_of_floats, tasks_of


class Spoilt:
    """An engine that does something wrong from one call on."""

    def __init__(self, script: Script, wrong: Any, since: int) -> None:
        self.engine, self.wrong, self.since, self.calls = make_engine(script.net, script.loss_fn), wrong, since, 0

    def meta_gradient(self, method: il.Method, episode: il.Episode) -> tuple[dict[str, Tensor], il.metagrad.Info]:
        grads, info = self.engine.meta_gradient(method, episode)
        self.calls += 1
        return self.wrong(grads, info, episode) if self.calls >= self.since else (grads, info)


def slightly_off(grads, info, episode):
    return {name: grad * (1 + 1e-5) for name, grad in grads.items()}, info


def one_is_absent(grads, info, episode):
    return {"weight": grads["weight"]}, info


def other_losses(grads, info, episode):
    return grads, replace(info, loss=info.loss + 1e-5)


def writes_to_the_episode(grads, info, episode):
    episode.query_x.add_(1)
    return grads, info


def fails(grads, info, episode):
    raise RuntimeError("something went wrong within, and here is a long reason")


def fails_silently(grads, info, episode):
    raise RuntimeError("no")


def breaks(grads, info, episode):
    raise KeyError("weight")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (slightly_off, AssertionError, "call 20: weight is off by"),
        (one_is_absent, AssertionError, r"call 20 has gradients of \['weight'\]"),
        (other_losses, AssertionError, "call 20: 0 is off by"),
        (writes_to_the_episode, AssertionError, "call 20 altered the episode"),
        (fails, AssertionError, "call 20 was refused"),
        (breaks, KeyError, "weight"),
    ],
)
def test_the_harness_finds_what_is_wrong(wrong: Any, error: type[Exception], message: str) -> None:
    script = Script(linear())
    with pytest.raises(error, match=message):
        play(script, engine=Spoilt(script, wrong, 20))


def test_a_script_may_allow_a_refusal_that_has_a_reason() -> None:
    script = Script(linear(), refusal=True, calls=5)
    play(script, engine=Spoilt(script, fails, 4))
    with pytest.raises(AssertionError, match="without a reason"):
        play(script, engine=Spoilt(script, fails_silently, 4))


def test_changes_come_when_they_are_to_come() -> None:
    seen: list[tuple[int, int]] = []
    calls = iter(range(1, 50))
    script = Script(linear(), calls=21, change=lambda number: seen.append((number, now[0])), before=lambda call: None)
    now = [0]

    def episode(call: int) -> il.Episode:
        now[0] = next(calls)
        return episodes(call)

    play(replace(script, episode=episode))
    assert seen == [(0, 3), (1, 8), (2, 19)]


def test_the_oracle_agrees_with_finite_differences() -> None:
    net, episode = mlp(), episodes(0)
    for steps in (0, 1, 3):
        found = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy, steps=steps).grads
        for name, parameter in net.named_parameters():
            slopes = torch.zeros_like(parameter)
            for place in range(parameter.numel()):
                sides = []
                for sign in (1, -1):
                    with torch.no_grad():
                        parameter.view(-1)[place] += sign * 1e-5
                    losses = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy, steps=steps).losses
                    sides.append(float(torch.stack(losses).mean()))
                    with torch.no_grad():
                        parameter.view(-1)[place] -= sign * 1e-5
                slopes.view(-1)[place] = (sides[0] - sides[1]) / 2e-5
            torch.testing.assert_close(found[name], slopes, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["maml", "fomaml", "reptile"])
def test_the_oracle_has_the_closed_form_of_a_mean(kind: oracle.Kind) -> None:
    """A module that gives its one parameter w, and (w - y)^2 / 2 as the loss: everything is linear in w."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.w.expand(len(x))

    x, steps, lr = torch.zeros(2, 1, dtype=torch.float64), 3, 0.1
    s, q = torch.tensor([1.0, 2.0]).double(), torch.tensor([-1.0, 4.0]).double()
    found = oracle.meta_gradient(
        Constant(),
        [(x, s, x, q)],
        lambda outputs, targets: F.mse_loss(outputs, targets) / 2,
        kind=kind,
        lr=lr,
        steps=steps,
    ).grads["w"]
    end = s.mean() + (0.5 - s.mean()) * (1 - lr) ** steps
    first = end - q.mean()
    right = {"maml": first * (1 - lr) ** steps, "fomaml": first, "reptile": 0.5 - end}[kind]
    torch.testing.assert_close(found, right, rtol=1e-12, atol=0)


def test_the_oracle_leaves_the_module_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    net.register_buffer("calls", torch.zeros(()))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    parameters, buffers = [[*map(id, found())] for found in (net.parameters, net.buffers)]
    oracle.meta_gradient(net, tasks_of(episodes(0)), F.cross_entropy, copied=False)
    assert [*map(id, net.parameters())] == parameters
    assert [*map(id, net.buffers())] == buffers
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert net[1].track_running_stats


def test_the_oracle_swaps_a_parameter_wherever_it_is_registered() -> None:
    net = mlp(3, 3, 3)
    net[2].weight = net[0].weight
    net.again = net[0]
    x = torch.randn(2, 3, dtype=torch.float64)
    w = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    once = F.linear(F.linear(x, w["0.weight"], w["0.bias"]).tanh(), w["0.weight"], w["2.bias"])
    torch.testing.assert_close(oracle.call(net, w, x), F.linear(once, w["0.weight"], w["0.bias"]))


@pytest.mark.parametrize("kind", ["maml", "fomaml", "reptile"])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("execution", ["serial", "auto"])
def test_the_engine_agrees_where_nothing_is_hostile(kind: oracle.Kind, steps: int, execution: str) -> None:
    play(Script(mlp(), kind=kind, steps=steps, calls=6), execution)
    play(Script(mlp(), F.mse_loss, kind=kind, steps=steps, calls=6, episode=targets_of_floats), execution)
    assert method_of(kind, steps=steps).adaptation.steps == steps
