"""GAP's preconditioner, beside singular value decompositions written out."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    assert_exact,
    assert_is,
    assert_same,
    image_episode,
    meta_params_of,
    plain_loss,
    rng,
    smooth_net,
    trainable,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il
from innerloop.rules.singular import Form

FORMS = pytest.mark.parametrize("form", get_args(Form))


def softplus(m: Tensor) -> Tensor:
    return F.softplus(m, beta=2)


def scaled(g: Tensor, m: Tensor) -> Tensor:
    """U M S V^T by the decomposition itself."""
    u, s, v = torch.linalg.svd(g.flatten(1), full_matrices=False)
    return (u @ torch.diag(softplus(m) * s) @ v).reshape(g.shape)


def moved(rule: il.rules.InnerRule, g: Tensor, m: Tensor) -> Tensor:
    params = {"w": torch.zeros_like(g)}
    return -rule.step(params, {"w": g}, rule.init(params, {"singular.w": m}))[0]["w"]


def spread(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    """The factors away from 1."""
    g = rng(1)
    return {
        n: t + torch.randn(t.shape, generator=g, dtype=t.dtype) if n.startswith("method.") else t
        for n, t in meta.items()
    }


@FORMS
def test_gap_with_factors_of_one_is_maml(form: Form) -> None:
    """Its meta-gradient too, for gradients with more rows than columns, with fewer, and of less than full rank."""
    assert_is(il.gap(0.3, 3, test_steps=None, form=form), il.maml(0.3, 3))


@FORMS
def test_so_it_is_for_convolutions(form: Form) -> None:
    net, episode = il.nets.conv4(5, filters=6).double(), image_episode(2)
    grads, _ = il.meta_gradient(net, il.gap(0.3, 2, form=form, precondition="*.conv.weight"), episode)
    expected, _ = il.meta_gradient(net, il.maml(0.3, 2), episode)
    assert_same({n: grads[n] for n in expected}, expected)
    assert [n for n in grads if n not in expected] == [f"method.singular.body.{i}.conv.weight" for i in range(4)]
    assert all(g.abs().max() > 0 for n, g in grads.items() if n not in expected)


@pytest.mark.parametrize("form", ["svd", "exact_svd"])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6), (6, 2, 3, 3), (9, 1, 2, 2)])
def test_the_singular_values_are_scaled(shape: tuple[int, ...], form: Form) -> None:
    g, rule = torch.randn(shape, generator=rng(), dtype=torch.float64), il.rules.singular(il.rules.sgd(1.0), form=form)
    m = torch.randn(len(rule.learned({"w": g})["singular.w"]), generator=rng(1), dtype=torch.float64)
    torch.testing.assert_close(moved(rule, g, m), scaled(g, m))
    before, after = torch.linalg.svdvals(g.flatten(1)), torch.linalg.svdvals(moved(rule, g, m).flatten(1))
    torch.testing.assert_close(after, (softplus(m) * before).sort(descending=True).values)


def test_the_approximation_scales_the_rows_of_the_smaller_side() -> None:
    g, rule = torch.randn(5, 3).double(), il.rules.singular(il.rules.sgd(1.0), form="diagonal")
    m = torch.randn(3).double()
    torch.testing.assert_close(moved(rule, g, m), g * softplus(m))
    torch.testing.assert_close(moved(rule, g.T.contiguous(), m), g.T * softplus(m)[:, None])


@pytest.mark.parametrize("form", ["exact_svd", "diagonal"])
def test_the_meta_gradient_is_exact_in_the_factors(form: Form) -> None:
    net, method = smooth_net(hidden=3), il.gap(0.5, 3, form=form)
    assert_exact(net, method, vector_episode(2), spread(meta_params_of(trainable(net), method)))


def test_by_default_the_singular_vectors_are_constants() -> None:
    net, method, episode = smooth_net(hidden=3), il.gap(0.5, 3), vector_episode(2)
    meta = spread(meta_params_of(trainable(net), method))
    leaves = {n: t.detach().clone().requires_grad_() for n, t in meta.items()}

    def step(
        params: dict[str, Tensor], grads: dict[str, Tensor], state: None, k: int
    ) -> tuple[dict[str, Tensor], None]:
        def turned(g: Tensor, m: Tensor) -> Tensor:
            u, _, v = torch.linalg.svd(g.detach(), full_matrices=False)
            factors = torch.diag(softplus(m))
            return u @ factors @ u.T @ g if len(u) <= v.shape[1] else g @ v.T @ factors @ v

        scaled = {n: turned(g, leaves[f"method.singular.{n}"]) if g.ndim > 1 else g for n, g in grads.items()}
        return {n: p - 0.5 * scaled[n] for n, p in params.items()}, None

    at = {n: t for n, t in leaves.items() if not n.startswith("method.")}
    loss = plain_loss(net, at, episode, step, 3)
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    grads, info = il.meta_gradient(net, method, episode, meta_params=meta)
    torch.testing.assert_close(info.loss.mean(), loss.detach())
    assert_same(grads, expected, rtol=1e-7, atol=1e-9)
    through, _ = il.meta_gradient(net, il.gap(0.5, 3, form="exact_svd"), episode, meta_params=meta)
    assert not torch.allclose(through["0.weight"], grads["0.weight"], rtol=1e-3)


@FORMS
@pytest.mark.parametrize("what", ["zero", "equal", "deficient"])
def test_it_stays_finite_where_singular_values_are_equal_or_zero(what: str, form: Form) -> None:
    g = {
        "zero": torch.zeros(3, 4),
        "equal": torch.eye(3, 4),
        "deficient": torch.ones(3, 4),
    }[what].requires_grad_()
    m = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    result = moved(il.rules.singular(il.rules.sgd(1.0), form=form), g, m)
    grads = torch.autograd.grad(result.square().sum() + result.sum(), [g, m])
    assert all(t.isfinite().all() for t in (result, *grads))


def test_only_the_named_are_scaled() -> None:
    rule = il.rules.singular(il.rules.sgd(1.0), "body.*")
    params = {"body.weight": torch.zeros(2, 2), "body.bias": torch.zeros(2), "head.weight": torch.zeros(2, 2)}
    learned = rule.learned(params)
    assert learned.keys() == {"singular.body.weight"}
    torch.testing.assert_close(softplus(learned["singular.body.weight"]), torch.ones(2))
    g = {n: torch.ones_like(p) for n, p in params.items()}
    new = rule.step(params, g, rule.init(params, {"singular.body.weight": torch.full((2,), 5.0)}))[0]
    assert new["body.weight"].max() < -4
    assert torch.equal(new["head.weight"], -g["head.weight"])
    assert torch.equal(new["body.bias"], -g["body.bias"])


def test_impossible_forms_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="form is 'lu'; choose one of 'svd'"):
        il.gap(form="lu")
    for names in ("tail.*", "*.bias"):
        with pytest.raises(ValueError, match="match no matrix or kernel among 0.weight"):
            il.meta_gradient(nn.Sequential(nn.Linear(4, 3)).double(), il.gap(precondition=names), vector_episode())
