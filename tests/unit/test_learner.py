"""What is deployed: adapting, predicting, saving and loading."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    assert_no_graph,
    assert_same,
    assert_untouched,
    headed,
    small,
    smooth_net,
    snapshot,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il


def batch_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


def task(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    episode = vector_episode(1, seed=seed, queries=6)
    return episode.support_x[0], episode.support_y[0], episode.query_x[0]


def images(ways: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(2 * ways, 1, 28, 28), torch.arange(ways).repeat(2), torch.rand(6, 1, 28, 28)


def learned_rate(value: float = 0.3) -> il.Method:
    rule = il.rules.InnerRule(
        init=lambda params, learned: learned["lr"],
        step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        learned=lambda params: {"lr": torch.tensor(value, dtype=torch.float64)},
    )
    return il.Method(il.Adaptation(rule, 2), il.unrolled())


# Adapting


@pytest.mark.parametrize("name", list(il.METHODS))
def test_adapting_twice_gives_the_same_bits(name: str) -> None:
    learner = il.Learner(headed(batch_net(), name), small(name, test_batch=2))
    x, y, query = task()
    first = learner.adapt(x, y)
    other = learner.adapt(*task(1)[:2])
    torch.manual_seed(5)  # the global generator has no part in it
    again = learner.adapt(x, y)
    assert_same(again.params, first.params, 0, 0)
    assert torch.equal(again.outputs(query), first.outputs(query))
    assert any(not torch.allclose(other.params[n], p, rtol=1e-3) for n, p in first.params.items())


@pytest.mark.parametrize("name", list(il.METHODS))
def test_the_start_is_never_overwritten(name: str) -> None:
    net = headed(batch_net(), name)
    before = snapshot(net)
    learner = il.Learner(net, small(name, test_batch=2))
    x, y, query = task()
    expected = learner.adapt(x, y).outputs(query)
    # Neither by using what it gives out, nor by training the net that it was made from.
    predictor = learner.adapt(*task(1)[:2])
    for t in predictor.params.values():
        t.add_(1)
    predictor.outputs(query)
    assert torch.equal(learner.adapt(x, y).outputs(query), expected)
    assert_untouched(net, before)
    with torch.no_grad():
        for t in net.state_dict().values():
            t.add_(1)
    assert torch.equal(learner.adapt(x, y).outputs(query), expected)


def test_a_predictor_keeps_its_own_task() -> None:
    learner = il.Learner(batch_net(), il.maml(0.3, 2))
    x, y, query = task()
    predictor = learner.adapt(x, y)
    expected = predictor.outputs(query)
    learner.adapt(*task(1)[:2]).outputs(query)
    assert torch.equal(predictor.outputs(query), expected)


def test_the_support_set_may_be_reused_by_its_owner() -> None:
    """A caller's buffer that is filled anew for the next task must not change the predictions for this one."""
    learner = il.Learner(batch_net(), il.maml(0.3, 2))
    x, y, query = task()
    predictor = learner.adapt(x, y)
    expected = predictor.outputs(query)
    x.zero_()
    assert torch.equal(predictor.outputs(query), expected)


def test_nothing_that_a_learner_gives_has_a_graph() -> None:
    learner = il.Learner(batch_net(), il.maml(0.3, 2))
    x, y, query = task()
    predictor = learner.adapt(x, y)
    assert_no_graph(predictor)
    assert_no_graph([predictor.outputs(query), predictor.predict_proba(query), predictor.predict(query)])


def test_a_learner_is_deterministic_where_its_net_has_dropout() -> None:
    net = nn.Sequential(nn.Linear(4, 20), nn.Dropout(0.5), nn.Linear(20, 3)).double().train()
    learner = il.Learner(net, il.maml(0.3, 2))
    x, y, query = task()
    assert torch.equal(learner.adapt(x, y).outputs(query), learner.adapt(x, y).outputs(query))
    assert net.training


def test_given_values_are_the_start() -> None:
    net, other = smooth_net(), smooth_net()
    x, y, query = task()
    learner = il.Learner(net, il.maml(0.3, 2), meta_params=dict(other.named_parameters()))
    expected = il.Learner(other, il.maml(0.3, 2)).adapt(x, y).outputs(query)
    assert torch.equal(learner.adapt(x, y).outputs(query), expected)
    assert all(p.grad is None for p in other.parameters())


def test_a_learned_rate_is_used() -> None:
    net = smooth_net()
    x, y, query = task()
    expected = il.Learner(net, il.maml(0.3, 2)).adapt(x, y).outputs(query)
    torch.testing.assert_close(il.Learner(net, learned_rate()).adapt(x, y).outputs(query), expected)
    meta = {"method.lr": torch.zeros((), dtype=torch.float64)}
    still = il.Learner(net, learned_rate(), meta_params=meta).adapt(x, y).outputs(query)
    torch.testing.assert_close(still, net(query).detach())


def test_given_values_are_copied() -> None:
    """The rates and moments of a training that goes on do not change what was made from it."""
    x, y, query = task()
    rate, net = torch.tensor(0.3, dtype=torch.float64), smooth_net()
    learner = il.Learner(net, learned_rate(0.1), meta_params={"method.lr": rate})
    before = learner.adapt(x, y).outputs(query)
    rate.zero_()
    assert torch.equal(learner.adapt(x, y).outputs(query), before)

    method = il.reptile(0.02, 2, None, test_steps=2)
    _, info = il.meta_gradient(net, method, vector_episode(2))
    learner = il.Learner(net, method, rule_state=info.rule_state)
    before = learner.adapt(x, y).outputs(query)
    info.rule_state["v"]["0.weight"].fill_(100.0)
    assert torch.equal(learner.adapt(x, y).outputs(query), before)
    other = il.Learner(net, method, rule_state=info.rule_state)
    assert not torch.allclose(other.adapt(x, y).outputs(query), before, rtol=1e-3)


# Predicting


def test_probabilities_are_of_the_classes_shown() -> None:
    learner = il.Learner(smooth_net(ways=5), il.maml(0.5, 3))
    x, _, query = task()
    y = torch.tensor([0, 3, 0, 3, 3, 0])
    predictor = learner.adapt(x, y)
    p = predictor.predict_proba(query)
    assert p.shape == (6, 5)
    torch.testing.assert_close(p.sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=0)
    assert not p[:, [1, 2, 4]].any()
    assert (p[:, [0, 3]] > 0).all()
    outputs = predictor.outputs(query)
    torch.testing.assert_close(p[:, [0, 3]], outputs[:, [0, 3]].softmax(1))
    assert set(predictor.predict(query).tolist()) <= {0, 3}
    assert torch.equal(predictor.predict(query), p.argmax(1))
    assert predictor.classes.tolist() == [0, 3]


def test_an_unseen_class_is_not_predicted_even_if_its_output_is_the_highest() -> None:
    net = nn.Linear(4, 3).double()
    with torch.no_grad():
        net.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    x, _, query = task()
    predictor = il.Learner(net, il.maml(0.0)).adapt(x, torch.tensor([0, 1, 0, 1, 0, 1]))
    assert (predictor.outputs(query).argmax(1) == 2).all()
    assert (predictor.predict(query) < 2).all()


def test_regression_predicts_outputs() -> None:
    net = il.nets.mlp()
    episode = il.data.sinusoids().episodes(tasks=1)(torch.Generator().manual_seed(0))
    predictor = il.Learner(net, il.maml(0.01), loss_fn=F.mse_loss).adapt(episode.support_x[0], episode.support_y[0])
    query = episode.query_x[0]
    assert torch.equal(predictor.predict(query), predictor.outputs(query))
    assert predictor.predict(query).shape == (10, 1)
    with pytest.raises(ValueError, match="regression, which has no class probabilities; use predict"):
        predictor.predict_proba(query)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 0, 1], [-1, 0, 1, 2, 0, 1], list("abcdab")])
def test_more_classes_than_the_head_has_outputs_are_refused(labels: list[object]) -> None:
    learner = il.Learner(smooth_net(), il.maml(0.3))
    with pytest.raises(ValueError, match=r"has 4 classes, and this learner was trained for 3 ways.*protomaml"):
        learner.adapt(task()[0], labels if isinstance(labels[0], str) else torch.tensor(labels))


def test_a_support_set_that_is_none_is_refused() -> None:
    learner = il.Learner(smooth_net(), il.maml(0.3))
    x, y, _ = task()
    with pytest.raises(ValueError, match="there are 6 support inputs and 5 targets"):
        learner.adapt(x, y[:5])
    with pytest.raises(ValueError, match="there are 0 support inputs and 0 targets"):
        learner.adapt(x[:0], y[:0])


def test_queries_unlike_the_support_set_are_refused() -> None:
    x, y, query = task()
    predictor = il.Learner(smooth_net(), il.maml(0.3)).adapt(x, y)
    with pytest.raises(ValueError, match=r"a query has the shape \[\] and a support input had \[4\].*x\[None\]"):
        predictor.predict(query[0])
    with pytest.raises(ValueError, match=r"a query has the shape \[3\]"):
        predictor.predict_proba(query[:, :3])


def test_no_queries_have_no_predictions() -> None:
    x, y, query = task()
    for net in (smooth_net(), batch_net()):
        predictor = il.Learner(net, il.maml(0.3)).adapt(x, y)
        assert predictor.predict_proba(query[:0]).shape == (0, 3)


# Saving and loading


@pytest.mark.parametrize("name", list(il.METHODS))
def test_a_saved_learner_predicts_the_same_bits(name: str, tmp_path) -> None:
    spec = {"name": "conv4", "arguments": {"ways": 5, "filters": 4}}
    if name == "nearest_neighbour":
        spec = {"name": "pixels", "arguments": {"ways": 5}}
    net = il.nets.NETS[spec["name"]](**spec["arguments"])
    method = small(name, test_batch=4)
    x, y, query = images()
    episode = il.Episode(x[None], y[None], query[None], torch.zeros(1, 6, dtype=torch.int64))
    _, info = il.meta_gradient(net, method, episode)
    learner = il.Learner(net, method, rule_state=info.rule_state, norm="transductive", net_spec=spec, about={"a": [1]})
    expected = learner.adapt(x, y).predict_proba(query)
    learner.save(tmp_path / "new" / "folder")
    loaded = il.Learner.load(tmp_path / "new" / "folder")
    assert torch.equal(loaded.adapt(x, y).predict_proba(query), expected)
    assert loaded.norm == "transductive"
    assert loaded.about == {"a": [1]}
    assert loaded.method == method
    # And once more, from the loaded one.
    loaded.save(tmp_path / "again")
    assert torch.equal(il.Learner.load(tmp_path / "again").adapt(x, y).predict_proba(query), expected)
    inductive = il.Learner.load(tmp_path / "again", norm="inductive")
    same = torch.allclose(inductive.adapt(x, y).predict_proba(query), expected, rtol=1e-3)
    assert same == (spec["name"] == "pixels")  # which has no batch norm


def test_a_learner_of_a_net_of_ones_own_is_loaded_into_it(tmp_path) -> None:
    net = batch_net()
    net[1].running_mean.fill_(0.3)
    learner = il.Learner(net, il.maml(0.3, 2), norm="running")
    x, y, query = task()
    expected = learner.adapt(x, y).outputs(query)
    learner.save(tmp_path)
    with pytest.raises(il.CheckpointError, match=r"does not say which network it holds; pass it as net="):
        il.Learner.load(tmp_path)
    fresh = batch_net()
    before = snapshot(fresh)
    assert torch.equal(il.Learner.load(tmp_path, net=fresh).adapt(x, y).outputs(query), expected)
    assert_untouched(fresh, before)
    with pytest.raises(il.CheckpointError, match="do not fit the network"):
        il.Learner.load(tmp_path, net=smooth_net(features=7))


def test_what_a_method_learned_is_saved(tmp_path) -> None:
    net = smooth_net()
    meta = {"method.lr": torch.tensor(0.05, dtype=torch.float64)}
    learner = il.Learner(net, learned_rate(), meta_params=meta)
    x, y, query = task()
    expected = learner.adapt(x, y).outputs(query)
    learner.save(tmp_path)
    with pytest.raises(
        il.CheckpointError,
        match=r"does not say which method .*lambda.*; pass it as method=",
    ):
        il.Learner.load(tmp_path, net=net)
    loaded = il.Learner.load(tmp_path, net=net, method=learned_rate())
    assert torch.equal(loaded.adapt(x, y).outputs(query), expected)


def test_what_another_method_learned_is_refused(tmp_path) -> None:
    """As are rates of parameters that are not adapted, which folders of earlier versions have."""
    il.Learner(smooth_net(), il.meta_sgd()).save(tmp_path)
    for other in (il.meta_sgd(adapt="2.*"), il.alfa()):
        with pytest.raises(il.CheckpointError, match=r"earlier version: .* names and shapes: method\.lr\.0\.weight"):
            il.Learner.load(tmp_path, net=smooth_net(), method=other)
    with pytest.raises(ValueError, match=r"names and shapes: method\.lr\.0\.bias"):
        il.Learner(smooth_net(), il.meta_sgd(), meta_params={"method.lr.0.bias": torch.ones(())})


def test_a_method_that_was_changed_is_not_taken_for_the_registered_one(tmp_path) -> None:
    """``dataclasses.replace`` is the natural way to change a named method."""
    net = smooth_net()
    changed = replace(il.maml(0.3, 1), test_adaptation=il.Adaptation(il.rules.adam(0.1), 4))
    learner = il.Learner(net, changed)
    x, y, query = task()
    expected = learner.adapt(x, y).outputs(query)
    try:
        learner.save(tmp_path)
        loaded = il.Learner.load(tmp_path, net=net)
    except (ValueError, il.CheckpointError):
        return  # refusing is right too
    assert torch.equal(loaded.adapt(x, y).outputs(query), expected)


def test_a_loss_of_ones_own_cannot_be_saved(tmp_path) -> None:
    learner = il.Learner(smooth_net(), il.maml(0.3), loss_fn=lambda outputs, targets: outputs.sum())
    with pytest.raises(ValueError, match="only learners with one of the losses cross_entropy, mse"):
        learner.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def saved(tmp_path):
    spec = {"name": "mlp", "arguments": {"inputs": 4, "outputs": 3, "hidden": [5]}}
    il.Learner(il.nets.mlp(4, 3, (5,)), il.maml(0.3), net_spec=spec).save(tmp_path)
    il.Learner.load(tmp_path)  # it is whole
    return tmp_path


def edited(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not an object": lambda text: "[]",
    "another object": lambda text: "{}",
    "unknown loss": edited(loss="hinge"),
    "unknown norm": edited(norm="group"),
    "unknown network": edited(net={"name": "conv5", "arguments": {}}),
    "network without a name": edited(net={}),
    "unknown argument of the network": edited(net={"name": "mlp", "arguments": {"depth": 3}}),
    "unknown method": edited(method={"name": "mamal", "arguments": {}}),
    "unknown argument of the method": edited(method={"name": "maml", "arguments": {"outer_lr": 3}}),
    "another format": edited(format="innerloop-learner-99"),
    "nothing about it": lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "about"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_description_is_a_checkpoint_error(damage: str, saved) -> None:
    file = saved / "learner.json"
    file.write_text(DAMAGES[damage](file.read_text()))
    with pytest.raises(il.CheckpointError):
        il.Learner.load(saved)


def test_no_learner_is_a_checkpoint_error(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(il.CheckpointError, match="there is no learner in"):
            il.Learner.load(folder)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_cut_weights_are_a_checkpoint_error(size: int, saved) -> None:
    file = saved / "learner.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(il.CheckpointError, match=r"learner\.safetensors"):
        il.Learner.load(saved)


def test_missing_or_other_weights_are_a_checkpoint_error(saved) -> None:
    from innerloop.learner.files import save_state

    file = saved / "learner.safetensors"
    for state in ({"w": torch.ones(1)}, [1, 2], {"net": {}, "learned": {}, "rule_state": None}):
        save_state(state, file)
        with pytest.raises(il.CheckpointError):
            il.Learner.load(saved)
    file.unlink()
    with pytest.raises(il.CheckpointError, match="there is no file"):
        il.Learner.load(saved)
