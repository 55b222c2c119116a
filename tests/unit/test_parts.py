"""Episodes, selection, seeds, objectives, named-tensor algebra and the networks."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from core_helpers import LEARNING, build, rng, smooth_net, vector_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import innerloop as il
from innerloop.inner.objectives import accuracies, last_step
from innerloop.inner.selection import partition
from innerloop.params import expand_tasks, leaves, map_nested, map_params, scale, total
from innerloop.randomness import Stream, generator_at

# Episodes


def test_an_episode_is_sliced_and_cut_along_its_tasks() -> None:
    episode = vector_episode(5)
    assert episode.tasks == 5
    assert torch.equal(episode[1:3].query_x, episode.query_x[1:3])
    pieces = list(episode.chunks(2))
    assert [piece.tasks for piece in pieces] == [2, 2, 1]
    for name in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(episode, name))
    assert episode.to("cpu").tasks == 5


def test_an_episode_cannot_be_written_to() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        vector_episode(1).support_x = torch.zeros(1, 1)


@pytest.mark.parametrize(
    ("sx", "sy", "qx", "qy", "words"),
    [
        ([2, 5, 3], [2, 4], [2, 3, 3], [2, 3], r"support_x is \[2, 5, 3\] and support_y is \[2, 4\]"),
        ([2, 5, 3], [5], [2, 3, 3], [2, 3], r"support_y is \[5\].*x\[None\]"),
        ([5, 3], [5], [3, 3], [3], r"support_y is \[5\].*x\[None\]"),
        ([2, 5, 3], [2, 5], [2, 3, 3], [2, 2], r"query_x is \[2, 3, 3\] and query_y is \[2, 2\]"),
        ([2, 5, 3], [2, 5], [3, 3, 3], [3, 3], "support set has 2 tasks and the query set 3"),
    ],
)
def test_tensors_that_are_no_episode_are_refused(sx, sy, qx, qy, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        il.Episode(torch.zeros(sx), torch.zeros(sy), torch.zeros(qx), torch.zeros(qy))


# Selection

NAMES = [
    "body.0.conv.weight",
    "body.0.norm.weight",
    "body.1.conv.weight",
    "body.1.norm.weight",
    "head.weight",
    "head.bias",
]
PARAMS = {name: torch.full((1,), float(i)) for i, name in enumerate(NAMES)}
PATTERNS = ["*", "head.*", "body.*", "*.norm.*", "body.0.*", "*.weight", "head.bias"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(PATTERNS)), min_size=1, max_size=5))
def test_a_selection_splits_the_parameters_from_left_to_right(parts: list[tuple[bool, str]]) -> None:
    import fnmatch

    chosen: list[str] = []
    for minus, pattern in parts:
        matches = fnmatch.filter(NAMES, pattern)
        chosen = [n for n in NAMES if (n in chosen and n not in matches) or (not minus and n in matches + chosen)]
    text = " ".join(("!" if minus else "") + pattern for minus, pattern in parts)
    if not chosen:
        with pytest.raises(ValueError, match="leave no parameter to adapt"):
            partition(PARAMS, text)
        return
    adapted, fixed = partition(PARAMS, text)
    assert list(adapted) == chosen
    assert list(fixed) == [n for n in NAMES if n not in chosen]
    assert all({**adapted, **fixed}[n] is PARAMS[n] for n in NAMES)


def test_selections_of_the_literature() -> None:
    assert list(partition(PARAMS, "*")[0]) == NAMES
    assert list(partition(PARAMS, "head.*")[0]) == ["head.weight", "head.bias"]
    assert list(partition(PARAMS, "* !head.*")[1]) == ["head.weight", "head.bias"]
    assert list(partition(PARAMS, "* !*.norm.*")[1]) == ["body.0.norm.weight", "body.1.norm.weight"]
    assert list(partition(PARAMS, "!head.* head.bias")[0]) == ["head.bias"]


@pytest.mark.parametrize("patterns", ["tail.*", "* !tail.*", "Head.*", "head", "!"])
def test_a_pattern_without_a_match_is_named(patterns: str) -> None:
    with pytest.raises(ValueError, match=r"matches none of the parameters body\.0\.conv\.weight"):
        partition(PARAMS, patterns)


@pytest.mark.parametrize("patterns", ["", "  ", "!*", "* !*"])
def test_a_selection_of_nothing_is_refused(patterns: str) -> None:
    with pytest.raises(ValueError, match="leave no parameter to adapt"):
        partition(PARAMS, patterns)


# Seeds


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.sampled_from(Stream), st.integers(0, 10**6)), min_size=2, unique=True)
)
def test_streams_are_their_own(keys) -> None:
    seeds = [generator_at(*key).initial_seed() for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [generator_at(*key).initial_seed() for key in keys]


def test_streams_of_neighbours_are_not_shifted_copies() -> None:
    draws = [torch.rand(50, generator=generator_at(0, stream, i)) for stream in Stream for i in range(5)]
    values = torch.cat(draws)
    assert len(values.unique()) > 0.99 * len(values)
    assert torch.equal(draws[0], torch.rand(50, generator=generator_at(0, Stream.TRAINING)))


def test_a_stream_is_what_it_was() -> None:
    """Seeds name published results, so a change of the numbers behind them must be seen."""
    assert generator_at(0, Stream.TRAINING, 0).initial_seed() == 7896617691693857887
    assert generator_at(1, Stream.TESTING, 2).initial_seed() == 85478715936019741


# Objectives


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_last_step_is_scored(steps: int) -> None:
    weights = last_step(steps)
    assert len(weights) == steps + 1
    assert weights[-1] == 1.0
    assert sum(weights) == 1.0


def test_accuracies_count_per_task() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    assert accuracies(logits, torch.tensor([[0, 1], [1, 2]])).tolist() == [0.5, 1.0]
    assert accuracies(logits, torch.zeros(2, 2, 3)) is None
    assert accuracies(logits[..., 0], torch.zeros(2, 2)) is None
    assert accuracies(logits[:, :0], torch.zeros(2, 0, dtype=torch.int64)) is None


# Named tensors


def test_named_tensor_algebra() -> None:
    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 5.0])}
    assert map_params(torch.add, a, b)["w"].tolist() == [4, 7]
    assert scale(a, 2.0)["w"].tolist() == [2, 4]
    assert total([a, b, a])["w"].tolist() == [5, 9]
    assert expand_tasks(a, 3)["w"].shape == (3, 2)
    assert expand_tasks(a, 3)["w"].untyped_storage().data_ptr() == a["w"].untyped_storage().data_ptr()
    leaf = leaves({"w": a["w"], "i": torch.zeros(1, dtype=torch.int64)})
    assert leaf["w"].requires_grad
    assert not leaf["i"].requires_grad
    with pytest.raises(ValueError, match=r"only one of them has \['v', 'w'\]"):
        map_params(torch.add, a, {"v": b["w"]})


def test_nested_states_are_mapped() -> None:
    nested = {"a": (torch.ones(1), None), "b": {"c": torch.zeros(2)}}
    result = map_nested(lambda x, y: x + y, nested, nested)
    assert result["a"][0].tolist() == [2]
    assert result["a"][1] is None
    assert result["b"]["c"].tolist() == [0, 0]


# Networks


@pytest.mark.parametrize("downsample", ["stride", "maxpool"])
@pytest.mark.parametrize(("pool", "features"), [("mean", 6), ("flatten", 6 * 25)])
def test_conv4_is_the_network_of_the_literature(downsample: str, pool: str, features: int) -> None:
    net = il.nets.conv4(7, channels=3, size=84, filters=6, downsample=downsample, pool=pool, head_std=1.0)
    side = 6 if downsample == "stride" else 5  # 84, 42, 21, 11 or 10, 6 or 5
    assert net(torch.zeros(2, 3, 84, 84)).shape == (2, 7)
    assert net.body(torch.zeros(2, 3, 84, 84)).shape == (2, 6, side, side)
    assert net.head.in_features == (features if pool == "mean" else 6 * side * side)
    assert not net.head.bias.any()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4
    assert not [m for m in norms if m.track_running_stats]


def test_the_head_of_conv4_has_the_given_spread() -> None:
    heads = {std: il.nets.conv4(50, head_std=std).head.weight.std() for std in (1.0, 0.01)}
    for std, measured in heads.items():
        assert float(measured.detach()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: il.nets.conv4(1), "ways is 1"),
        (lambda: il.nets.conv4(5, downsample="pool"), "downsample is 'pool'"),
        (lambda: il.nets.conv4(5, pool="max"), "pool is 'max'"),
        (lambda: il.nets.conv4(5, size=12, downsample="maxpool"), "size is 12"),
        (lambda: il.nets.mlp(0), r"widths are \(0, 40, 40, 1\)"),
        (lambda: il.nets.mlp(hidden=(4, 0)), "each must be 1 or more"),
    ],
)
def test_impossible_networks_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_mlp_has_no_activation_at_its_end() -> None:
    net = il.nets.mlp(2, 3, (4, 5))
    assert [type(m) for m in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [p.shape for p in net.parameters()][::2] == [(4, 2), (5, 4), (3, 5)]


# Methods


def test_a_method_is_its_composition() -> None:
    method = il.maml(0.1, test_steps=3)
    inner = il.Adaptation(il.rules.sgd(0.1), 1)
    assert method == il.Method(inner, il.unrolled(), dataclasses.replace(inner, steps=3))
    assert {method: "maml"}[il.maml(0.1, test_steps=3)] == "maml"
    assert method != il.maml(0.2, test_steps=3)
    assert (method.adaptation.steps, method.test.steps) == (1, 3)
    without = il.maml(0.1, 2)
    assert without.test is without.adaptation


def test_fomaml_differs_from_maml_in_its_estimator_alone() -> None:
    assert il.fomaml(0.1, 2) == dataclasses.replace(il.maml(0.1, 2), meta_gradient=il.first_order()) != il.maml(0.1, 2)


def test_reptile_has_the_papers_inner_loop() -> None:
    method = il.reptile()
    assert (method.adaptation.steps, method.adaptation.batch_size) == (5, 10)
    assert (method.test.steps, method.test.batch_size) == (50, None)
    assert method.adaptation.carry_state
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.meta_gradient = il.unrolled()


def test_methods_can_be_copied() -> None:
    net, episode = smooth_net(), vector_episode(2)
    for name in LEARNING:
        method = build(name, inner_steps=1)
        one, _ = il.meta_gradient(net, method, episode, generator=rng())
        other, _ = il.meta_gradient(net, copy.copy(method), episode, generator=rng())
        assert all(torch.equal(one[n], other[n]) for n in one)
