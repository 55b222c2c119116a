"""What the methods of the family have in common: each is another one where what sets it apart is taken away."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_exact as exact
from core_helpers import assert_is, assert_same, build, meta_params_of, rng, smooth_net, trainable, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.model import StatelessModel
from innerloop.inner.objectives import multi_step
from innerloop.inner.selection import complement, partition
from innerloop.metagrad._solvers import solve


def class_episode(tasks: int = 3) -> il.Episode:
    """Every class is in every support set, not equally often."""
    episode = vector_episode(tasks, support=7)
    labels = torch.tensor([0, 1, 2, 0, 2, 2, 1]).repeat(tasks, 1)
    return replace(episode, support_y=labels)


UNROLLED = [n for n, make in il.METHODS.items() if "meta_gradient" in inspect.signature(make).parameters]


@pytest.mark.parametrize("name", UNROLLED)
def test_every_exact_estimator_gives_the_same(name: str) -> None:
    net, episode = smooth_net(), class_episode()
    wanted = {"inner_lr": 0.1, "inner_steps": 4, "per_step": "0.*"}
    grads, info = il.meta_gradient(net, build(name, **wanted), episode)
    for estimator in (il.checkpointed(), il.mixed_mode()):
        others, observed = il.meta_gradient(net, build(name, meta_gradient=estimator, **wanted), episode)
        assert_same(others, grads)
        torch.testing.assert_close(observed.loss, info.loss)


# ANIL and BOIL


def test_anil_with_everything_as_its_head_is_maml() -> None:
    assert_is(il.anil(0.3, 2, head="*"), il.maml(0.3, 2))


def test_boil_with_a_head_of_nothing_is_maml() -> None:
    assert_is(il.boil(0.3, 2, head="* !*"), il.maml(0.3, 2))


def test_anil_and_boil_adapt_what_the_other_leaves() -> None:
    net, episode = il.nets.conv4(3, filters=4), il.Episode(*(torch.rand(1, 3, 1, 28, 28), torch.arange(3)[None]) * 2)
    moved = {}
    for name, method in (("anil", il.anil(0.3)), ("boil", il.boil(0.3))):
        adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
        moved[name] = {n for n, p in net.named_parameters() if not torch.equal(p, adapted[n])}
    assert moved["anil"] == {"head.weight", "head.bias"}
    assert moved["boil"] == dict(net.named_parameters()).keys() - moved["anil"]


@pytest.mark.parametrize("method", [il.anil(head="classifier.*"), il.boil(head="classifier.*")], ids=["anil", "boil"])
def test_a_head_that_is_not_there_is_named(method: il.Method) -> None:
    with pytest.raises(ValueError, match=r"classifier\.\*' matches none of the parameters body\.0\.conv\.weight"):
        il.MetaTrainer(il.nets.conv4(3), method, torch.optim.Adam)


def test_boil_needs_a_body() -> None:
    with pytest.raises(ValueError, match="leave no parameter to adapt"):
        il.meta_gradient(nn.Linear(4, 3).double(), il.boil(), vector_episode())


def test_a_complement_takes_what_the_patterns_leave() -> None:
    params = {n: torch.zeros(1) for n in ("body.weight", "body.bias", "head.weight", "head.bias")}
    for patterns in ("head.*", "@last", "* !body.*", "*.bias", "!head.* head.bias", "head.* !*.bias"):
        adapted, fixed = partition(params, patterns)
        assert partition(params, complement(patterns)) == (fixed, adapted)


# Meta-SGD


def test_meta_sgd_with_constant_rates_is_maml() -> None:
    assert_is(il.meta_sgd(0.3, 2, test_steps=4), il.maml(0.3, 2, test_steps=4))


def test_the_meta_gradient_of_meta_sgd_is_exact_in_the_rates() -> None:
    exact(smooth_net(hidden=3), il.meta_sgd(0.3, 2), vector_episode(2))


def test_rates_that_were_learned_are_used_on_new_tasks() -> None:
    net, method = smooth_net(), il.meta_sgd(0.3)
    meta = meta_params_of(trainable(net), method)
    meta["method.lr.2.weight"] = torch.zeros(3, 5, dtype=torch.float64)
    episode = vector_episode(1)
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0], meta_params=meta)
    assert torch.equal(adapted["2.weight"], net[2].weight)
    assert not torch.equal(adapted["2.bias"], net[2].bias)


# MAML++


def test_maml_plus_plus_with_everything_off_is_maml() -> None:
    method = il.maml_plus_plus(0.3, 3, learn_rates=False, multi_step_iterations=0)
    assert_is(method, il.maml(0.3, 3))
    assert_is(method.at(0), il.maml(0.3, 3))
    assert_is(il.maml_plus_plus(0.3, 3, per_step="2.bias"), il.maml(0.3, 3, adapt="* !2.bias"))


def test_the_multi_step_loss_is_the_weighted_mean_over_steps() -> None:
    net, episode = smooth_net(), vector_episode()
    grads, info = il.meta_gradient(net, il.maml_plus_plus(0.3, 3, multi_step_iterations=10).at(4), episode)
    weights = multi_step(0.4)(3)
    assert sum(weights) == pytest.approx(1)
    each = [il.meta_gradient(net, il.maml(0.3, k), episode) for k in range(4)]
    torch.testing.assert_close(info.loss, sum(w * i.loss for w, (_, i) in zip(weights, each, strict=True)))
    own = {n: grads[n] for n in each[0][0]}
    assert_same(own, {n: sum(w * g[n] for w, (g, _) in zip(weights, each, strict=True)) for n in own})


def test_the_first_order_comes_first() -> None:
    net, episode = smooth_net(), vector_episode()
    method = il.maml_plus_plus(0.3, 2, multi_step_iterations=0, first_order_iterations=3)
    grads = [
        {n: g for n, g in il.meta_gradient(net, method.at(i), episode)[0].items() if "method" not in n} for i in (2, 3)
    ]
    assert_same(grads[0], il.meta_gradient(net, il.fomaml(0.3, 2), episode)[0])
    assert_same(grads[1], il.meta_gradient(net, il.maml(0.3, 2), episode)[0])


def test_the_meta_gradient_of_maml_plus_plus_is_exact_in_all_that_it_learns() -> None:
    net, episode = smooth_net(hidden=3), vector_episode(2)
    for method in (il.maml_plus_plus(0.3, 2, multi_step_iterations=4).at(1), il.maml_plus_plus(0.3, 2)):
        exact(net, method, episode)
    method = il.maml_plus_plus(0.3, 2, per_step="0.*", multi_step_iterations=4).at(1)
    meta = meta_params_of(trainable(net), method)
    assert meta["method.offset.0.weight"].shape == (2, 3, 4)
    g = rng(1)
    meta = {n: t + 0.1 * torch.rand(t.shape, generator=g, dtype=t.dtype) for n, t in meta.items()}
    exact(net, method, episode, meta)


@pytest.mark.parametrize(("multi", "first"), [(-1, 0), (0, -1)])
def test_maml_plus_plus_refuses_negative_iterations(multi: int, first: int) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        il.maml_plus_plus(multi_step_iterations=multi, first_order_iterations=first)


def test_weights_for_each_step_hold_for_that_step() -> None:
    rule = il.rules.by_step(il.rules.sgd(1.0), "scale", 2)
    params = {"w": torch.tensor(0.0), "scale": torch.tensor(1.0)}
    state = rule.init(params, {"offset.scale": torch.tensor([10.0, 20.0])})
    seen = []
    for _ in range(4):
        params, state = rule.step(params, {"w": torch.tensor(-1.0), "scale": torch.tensor(5.0)}, state)
        seen.append((float(params["w"]), float(params["scale"])))
    assert seen == [(1.0, 11.0), (2.0, 21.0), (3.0, 21.0), (4.0, 21.0)]
    with pytest.raises(ValueError, match="match none of the parameters"):
        il.rules.by_step(il.rules.sgd(1.0), "norm.*", 2).learned(params)


def annealed() -> il.MetaTrainer:
    torch.manual_seed(0)
    method = il.maml_plus_plus(0.01, 2, multi_step_iterations=6, first_order_iterations=9)
    return il.MetaTrainer(il.nets.mlp(hidden=(8,)), method, lambda p: torch.optim.Adam(p, 1e-2), loss_fn=F.mse_loss)


def test_a_method_that_anneals_resumes_to_the_same_bits(tmp_path: Path) -> None:
    tasks = il.data.sinusoids().episodes(tasks=4)
    whole = annealed()
    whole.fit(tasks, 12, folder=tmp_path / "whole", progress=False)
    for stop in (3, 7):  # in the middle of either phase
        part, resumed = annealed(), annealed()
        part.fit(tasks, stop, folder=tmp_path / f"part{stop}", progress=False)
        resumed.fit(tasks, 12, folder=tmp_path / f"part{stop}", resume=True, progress=False)
        assert whole.meta_params.keys() == resumed.meta_params.keys()
        for name, parameter in whole.meta_params.items():
            assert torch.equal(parameter, resumed.meta_params[name]), name


def test_the_multi_step_loss_changes_in_ten_stages() -> None:
    method = il.maml_plus_plus(inner_steps=2, multi_step_iterations=5000, first_order_iterations=600)
    assert method.at(5000) is method
    assert method.at(499) == method.at(0) != method.at(500)
    assert method.at(599) != method.at(600) == method.at(999)
    finals = [method.at(i).adaptation.objective(2)[-1] for i in range(0, 5001, 250)]
    assert finals == sorted(finals)
    assert len(set(finals)) == 11


def test_the_trainer_takes_the_method_of_its_iteration() -> None:
    seen = []

    def note(method: il.Method, iteration: int) -> il.Method:
        seen.append(iteration)
        return replace(method, adaptation=replace(method.adaptation, steps=iteration))

    method = replace(il.maml(0.01), schedule=note)
    trainer = il.MetaTrainer(il.nets.mlp(), method, lambda p: torch.optim.SGD(p, 1e-3), loss_fn=F.mse_loss)
    episode = il.data.sinusoids().episodes(tasks=2)(rng())
    steps = [trainer.step(episode).support_losses.shape[1] for _ in range(3)]
    assert seen == steps == [0, 1, 2]
    assert trainer.method.adaptation.steps == 1  # what is tested and deployed


# ProtoMAML


@pytest.mark.parametrize("execution", ["serial", "batched"])
def test_protomaml_without_steps_is_a_prototypical_network(execution: str) -> None:
    net, episode = smooth_net(), class_episode()
    grads, info = il.meta_gradient(net, il.protomaml(inner_steps=0), episode, execution=execution)
    losses = []
    for i in range(episode.tasks):
        support, query = net[:2](episode.support_x[i]), net[:2](episode.query_x[i])
        means = torch.stack([support[episode.support_y[i] == c].mean(0) for c in range(3)])
        losses.append(F.cross_entropy(-torch.cdist(query, means).square(), episode.query_y[i]))
    torch.testing.assert_close(info.loss, torch.stack(losses).detach())
    body = list(net[:2].parameters())
    expected = torch.autograd.grad(torch.stack(losses).mean(), body)
    assert_same({n: grads[n] for n in ("0.weight", "0.bias")}, dict(zip(("0.weight", "0.bias"), expected, strict=True)))
    assert not grads["2.weight"].any()
    assert not grads["2.bias"].any()


def test_the_meta_gradient_of_protomaml_goes_through_the_prototypes() -> None:
    net, episode = smooth_net(hidden=3), class_episode(2)
    exact(net, il.protomaml(0.1, 2), episode)
    exact(net, il.protomaml(0.1, 2, adapt="@last"), episode)
    exact(nn.Linear(4, 3).double(), il.protomaml(0.1, 1), episode)


def test_what_the_head_of_protomaml_holds_has_no_effect() -> None:
    net, episode = (
        il.nets.conv4(5, filters=4).double(),
        il.Episode(
            torch.rand(2, 5, 1, 28, 28).double(),
            torch.arange(5).repeat(2, 1),
            torch.rand(2, 3, 1, 28, 28).double(),
            torch.tensor([[0, 1, 2], [3, 4, 0]]),
        ),
    )
    one = il.meta_gradient(net, il.protomaml(0.05, 2, adapt="* !*.norm.*"), episode)[0]
    nn.init.normal_(net.head.weight)
    other = il.meta_gradient(net, il.protomaml(0.05, 2, adapt="* !*.norm.*", head="head"), episode)[0]
    assert_same(other, one)


def test_a_class_that_the_support_set_does_not_show_has_its_prototype_at_zero() -> None:
    net, episode = smooth_net(), replace(class_episode(), support_y=torch.zeros(3, 7, dtype=torch.int64))
    adapted = il.adapt(net, il.protomaml(test_steps=0), episode.support_x[0], episode.support_y[0])
    assert not adapted["2.weight"][1:].any()
    assert not adapted["2.bias"][1:].any()


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (il.protomaml(head="classifier"), "needs a linear layer 'classifier'"),
        (il.protomaml(adapt="0.*"), "linear layer '0'|no layer|called"),
        (il.protomaml(adapt="* !2.bias"), "name the head, and leave it in adapt="),
    ],
)
def test_protomaml_needs_a_linear_head(method: il.Method, words: str) -> None:
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).double()
    with pytest.raises(ValueError, match=words):
        il.meta_gradient(net, method, class_episode())


# CAVIA


class Biased(nn.Module):
    """A layer with a second bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.context = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x) + self.context))


@pytest.mark.parametrize("steps", [1, 3])
def test_cavia_with_a_bias_as_its_context_adapts_that_bias(steps: int) -> None:
    net, episode = Biased().double(), vector_episode()
    grads, info = il.meta_gradient(net, il.cavia(0.3, steps), episode)
    plain = il.maml(0.3, steps, adapt="body.bias")
    expected, observed = il.meta_gradient(net, plain, episode, unused="ignore")
    assert not grads["context"].any()
    torch.testing.assert_close(info.loss, observed.loss)
    others = [n for n in grads if n != "context"]
    assert_same({n: grads[n] for n in others}, {n: expected[n] for n in others})
    adapted = il.adapt(net, il.cavia(0.3, steps), episode.support_x[0], episode.support_y[0])
    moved = il.adapt(net, plain, episode.support_x[0], episode.support_y[0])
    torch.testing.assert_close(adapted["context"] + net.body.bias.detach(), moved["body.bias"])
    assert torch.equal(adapted["body.bias"], net.body.bias)


def test_the_context_starts_at_zero_whatever_the_module_holds() -> None:
    net, episode = Biased().double(), vector_episode()
    one, _ = il.meta_gradient(net, il.cavia(0.3), episode)
    nn.init.normal_(net.context)
    assert_same(il.meta_gradient(net, il.cavia(0.3), episode)[0], one, 0, 0)


def contexts() -> dict[str, nn.Module]:
    inputs = il.nets.with_context(nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3)), 2)
    film = il.nets.with_context(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), 2, at="0", features=3)
    return {"inputs": inputs.double(), "film": film.double()}


@pytest.mark.parametrize("kind", ["inputs", "film"])
def test_a_network_with_a_context_is_meta_learned_exactly(kind: str) -> None:
    net, episode = contexts()[kind], vector_episode(2)
    exact(net, il.cavia(0.5, 2), episode)
    one = il.meta_gradient(net, il.cavia(0.5, 2), episode, execution="serial")[0]
    assert_same(il.meta_gradient(net, il.cavia(0.5, 2), episode, execution="batched")[0], one)
    assert float(one["film.weight" if kind == "film" else "net.0.weight"].abs().max()) > 0
    learner = il.Learner(net, il.cavia(0.5, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()  # the learner has a network of its own, hooks included
    adapted = learner.adapt(episode.support_x[0], episode.support_y[0])
    assert float(adapted.outputs(episode.query_x[0]).abs().max()) > 0


def test_a_context_of_zero_changes_nothing() -> None:
    net, x = il.nets.conv4(5, filters=4), torch.rand(3, 1, 28, 28)
    before = net(x)
    film = il.nets.with_context(net, 7, at="body.1.norm", features=4)
    assert torch.equal(film(x), before)
    nn.init.normal_(film.context)
    assert not torch.allclose(film(x), before)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 2, "at": "0"}, "give both"),
        ({"size": 2, "features": 3}, "give both"),
        ({"size": 2, "at": "0", "features": 0}, "features is 0"),
        ({"size": 2, "at": "body", "features": 3}, "no layer 'body'; it has 0, 1, 2"),
    ],
)
def test_impossible_contexts_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        il.nets.with_context(smooth_net(), **arguments)


def test_a_network_without_a_context_is_told() -> None:
    with pytest.raises(ValueError, match=r"'context\*' matches none of the parameters"):
        il.meta_gradient(smooth_net(), il.cavia(), vector_episode())


# iMAML


def proximal_method(steps: int, strength: float, lr: float = 0.1, adapt: str = "*") -> tuple[il.Method, il.Method]:
    """Differentiated implicitly, to convergence, and through every step."""
    adaptation = il.Adaptation(il.rules.proximal(il.rules.sgd(lr), strength), steps, adapt=adapt)
    return il.Method(adaptation, il.implicit(strength, iterations=30)), il.Method(adaptation, il.unrolled())


def least_squares() -> tuple[nn.Module, il.Episode]:
    g = rng(3)
    x, y = torch.randn(3, 12, 4, generator=g).double(), torch.randn(3, 12, 2, generator=g).double()
    return nn.Linear(4, 2).double(), il.Episode(x[:, :8], y[:, :8], x[:, 8:], y[:, 8:])


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("solver", ["cg", "neumann", "nystrom"])
def test_imaml_is_the_unrolled_gradient_where_the_inner_problem_is_solved(solver: str, execution: str) -> None:
    net, episode = least_squares()
    # As many iterations or columns as there are parameters, which is exact.
    count = 100 if solver == "neumann" else 10
    implicit = il.imaml(0.1, 100, strength=6.0, solver_iterations=count, solver=solver, damping=0.0)
    _, unrolled = proximal_method(100, 6.0)
    grads, info = il.meta_gradient(net, implicit, episode, F.mse_loss, execution=execution)
    expected, observed = il.meta_gradient(net, unrolled, episode, F.mse_loss)
    assert_same(grads, expected, rtol=1e-8)
    torch.testing.assert_close(info.loss, observed.loss)
    first, _ = il.meta_gradient(net, replace(unrolled, meta_gradient=il.first_order()), episode, F.mse_loss)
    with pytest.raises(AssertionError):
        assert_same(grads, first, rtol=1e-2)


def test_imaml_has_the_closed_form_of_ridge_regression() -> None:
    net, episode = least_squares()
    strength = 2.0
    grads, _ = il.meta_gradient(net, proximal_method(150, strength)[0], episode, F.mse_loss)
    theta = torch.cat([net.weight, net.bias[:, None]], 1).T.detach()  # [5, 2]
    total = torch.zeros_like(theta)
    for i in range(3):
        sx, qx = (torch.cat([x, torch.ones(len(x), 1).double()], 1) for x in (episode.support_x[i], episode.query_x[i]))
        h = sx.T @ sx / 8  # of the mean over 8 examples and 2 outputs: 2 / 16
        matrix = h + strength * torch.eye(5).double()
        phi = torch.linalg.solve(matrix, sx.T @ episode.support_y[i] / 8 + strength * theta)
        slope = qx.T @ (qx @ phi - episode.query_y[i]) / 4
        total += strength * torch.linalg.solve(matrix, slope) / 3
    torch.testing.assert_close(grads["weight"], total[:4].T)
    torch.testing.assert_close(grads["bias"], total[4])


def test_imaml_reaches_what_the_inner_loop_leaves_alone() -> None:
    """A convex problem in the head, whose solution depends on the body."""
    net, episode = smooth_net(), vector_episode(2)
    implicit, unrolled = proximal_method(80, 1.0, lr=0.5, adapt="@last")
    grads, _ = il.meta_gradient(net, implicit, episode)
    assert_same(grads, il.meta_gradient(net, unrolled, episode)[0], rtol=1e-7)
    direct, _ = il.meta_gradient(net, replace(unrolled, meta_gradient=il.first_order()), episode)
    assert not torch.allclose(grads["0.weight"], direct["0.weight"], rtol=1e-2)


def test_a_start_is_differentiated_through() -> None:
    net, episode = smooth_net(), class_episode(2)
    start = il.protomaml().adaptation.start
    pair = [replace(m, adaptation=replace(m.adaptation, start=start)) for m in proximal_method(150, 1.0, 0.2, "@last")]
    grads = [il.meta_gradient(net, method, episode)[0] for method in pair]
    assert_same(grads[0], grads[1], rtol=1e-7)


def symmetric_matrices(rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of 3 tasks with 7 parameters in two tensors, and vectors to solve for."""
    factor = torch.randn(3, 7, rank, generator=rng(5), dtype=torch.float64)
    b = torch.randn(3, 7, generator=rng(6), dtype=torch.float64)
    return factor @ factor.mT, {"w": b[:, :6].view(3, 2, 3), "b": b[:, 6:]}


def nystrom_of(matrices: torch.Tensor, b: dict[str, torch.Tensor], shift: float, columns: int) -> torch.Tensor:
    def product(v):
        rows = torch.cat([v["w"].flatten(1), v["b"]], 1)
        found = (matrices @ rows[..., None])[..., 0]
        return {"w": found[:, :6].view(3, 2, 3), "b": found[:, 6:]}

    found = solve("nystrom", product, b, shift, columns)
    return torch.cat([found["w"].flatten(1), found["b"]], 1)


@pytest.mark.parametrize(("rank", "columns"), [(7, 7), (7, 99), (3, 4), (3, 7)])
def test_nystrom_is_a_dense_solution_where_the_columns_span_the_matrix(rank: int, columns: int) -> None:
    matrices, b = symmetric_matrices(rank)
    rows = torch.cat([b["w"].flatten(1), b["b"]], 1)
    expected = torch.linalg.solve(matrices + 0.5 * torch.eye(7).double(), rows)
    torch.testing.assert_close(nystrom_of(matrices, b, 0.5, columns), expected, rtol=1e-9, atol=1e-11)


def test_nystrom_of_few_columns_is_between_nothing_and_the_solution() -> None:
    """A further column adds to the approximation of a positive matrix, and so takes from b^T x."""
    matrices, b = symmetric_matrices(7)
    rows, matrix = torch.cat([b["w"].flatten(1), b["b"]], 1), matrices + 0.5 * torch.eye(7).double()
    expected = torch.linalg.solve(matrix, rows)
    differences = [rows / 0.5 - expected, *(nystrom_of(matrices, b, 0.5, k) - expected for k in (1, 3, 5))]
    errors = [float((rows * d).sum()) for d in differences]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 0.5 * errors[0]


def test_nystrom_depends_on_neither_how_tasks_run_nor_random_numbers() -> None:
    net, episode = smooth_net(), vector_episode(4)
    method = il.imaml(0.1, 5, solver="nystrom", solver_iterations=6)
    expected, _ = il.meta_gradient(net, method, episode, execution="serial")
    for execution in ("batched", 3):
        torch.rand(1)
        assert_same(il.meta_gradient(net, method, episode, execution=execution)[0], expected, rtol=1e-9)
    few, _ = il.meta_gradient(net, il.imaml(0.1, 5, solver="nystrom", solver_iterations=2), episode)
    with pytest.raises(AssertionError):
        assert_same(few, expected, rtol=1e-3)


def test_damping_is_more_strength_in_the_matrix_alone() -> None:
    net, episode = least_squares()
    adaptation = proximal_method(150, 2.0)[0].adaptation
    one = il.Method(adaptation, il.implicit(2.0, iterations=20, damping=1.0))
    other = il.Method(adaptation, il.implicit(3.0, iterations=20))
    damped, _ = il.meta_gradient(net, one, episode, F.mse_loss)
    expected, _ = il.meta_gradient(net, other, episode, F.mse_loss)
    assert_same(damped, {n: 2 / 3 * g for n, g in expected.items()})


def test_a_proximal_rule_is_exact_when_unrolled() -> None:
    adaptation = il.Adaptation(il.rules.proximal(il.rules.sgd(0.3, momentum=0.5), 0.7), 3)
    exact(smooth_net(hidden=3), il.Method(adaptation, il.unrolled()), vector_episode(2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: il.implicit(0.0), "strength is 0"),
        (lambda: il.implicit(1.0, iterations=0), "iterations is 0"),
        (lambda: il.implicit(1.0, damping=-1.0), "damping is -1"),
        (lambda: il.implicit(1.0, solver="lu"), "solver is 'lu'; choose 'cg', 'neumann', 'nystrom'"),
        (lambda: il.rules.proximal(il.rules.sgd(0.1), -1.0), "strength is -1"),
    ],
)
def test_impossible_implicit_gradients_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_implicit_gradients_are_not_of_everything() -> None:
    learned = il.Method(il.Adaptation(il.rules.learned_sgd(0.1), 1), il.implicit(1.0))
    with pytest.raises(ValueError, match=r"gives no gradient for method\.lr\.0\.weight"):
        il.meta_gradient(smooth_net(), learned, vector_episode())
    scored = il.Method(il.Adaptation(il.rules.sgd(0.1), 2, objective=multi_step(0.0)), il.implicit(1.0))
    with pytest.raises(ValueError, match="last iterate"):
        il.meta_gradient(smooth_net(), scored, vector_episode())


# Meta-Curvature


def test_meta_curvature_with_identities_is_maml() -> None:
    assert_is(il.meta_curvature(0.3, 2), il.maml(0.3, 2))


def test_the_meta_gradient_of_meta_curvature_is_exact_in_the_matrices() -> None:
    net, method = smooth_net(hidden=3), il.meta_curvature(0.3, 2)
    g = rng(1)
    meta = {n: t + 0.1 * torch.randn(t.shape, generator=g) for n, t in meta_params_of(trainable(net), method).items()}
    exact(net, method, vector_episode(2), meta)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 2, 2), ()])
def test_the_curvature_is_a_kronecker_product(shape: tuple[int, ...]) -> None:
    rule, g = il.rules.kronecker(il.rules.sgd(1.0)), torch.randn(shape, dtype=torch.float64)
    params = {"w": torch.zeros_like(g)}
    learned = {n: torch.randn_like(m) for n, m in rule.learned(params).items()}
    assert [len(m) for m in learned.values()] == ([*shape] if len(shape) < 3 else [3, 4, 4])
    product = torch.ones(1, 1, dtype=torch.float64)
    for matrix in learned.values():
        product = torch.kron(product, matrix)
    moved = rule.step(params, {"w": g}, rule.init(params, learned))[0]
    torch.testing.assert_close(moved["w"], -(product @ g.flatten()).reshape(shape))


def test_what_a_layer_is_given_is_seen() -> None:
    net, x = smooth_net(), torch.randn(6, 4, dtype=torch.float64)
    model = StatelessModel(net)
    assert torch.equal(model.inputs_of("2", model.initial, x), net[:2](x))
    assert torch.equal(model.inputs_of("", model.initial, x), x)
    with pytest.raises(ValueError, match="no layer 'head'"):
        model.inputs_of("head", model.initial, x)
    twice = nn.Linear(4, 4).double()
    with pytest.raises(ValueError, match="called 2 times"):
        StatelessModel(nn.Sequential(twice, twice)).inputs_of("0", {"0.weight": twice.weight, "0.bias": twice.bias}, x)
