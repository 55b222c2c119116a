"""Learners and predictors: immutable, safe to share between threads, and of nothing but what they were made of."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import LR, episodes, linear, method_of, mlp, refused
from hostile.test_threads import NETS, at_once


def right_probabilities(net: nn.Module, x: Tensor, y: Tensor, q: Tensor, **options: Any) -> Tensor:
    """The probabilities after adaptation by plain loops; batch norm sees each query together with the support set."""
    params = oracle.adapted(net, x, y, F.cross_entropy, **options)
    module = copy.deepcopy(net).eval()
    with torch.no_grad():
        outputs = torch.stack([oracle.call(module, params, torch.cat([x, row[None]]))[-1] for row in q])
    unseen = torch.ones(outputs.shape[-1], dtype=torch.bool)
    unseen[y.unique()] = False
    return outputs.masked_fill(unseen, -torch.inf).softmax(-1)


def task(seed: int, features: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    e = episodes(seed, features=features)
    return e.support_x[0], e.support_y[0], e.query_x[0]


def assert_right(found: Tensor, right: Tensor, what: object = "") -> None:
    torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-9, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_predictions_are_those_of_plain_loops(kind: str, steps: int) -> None:
    make, features = NETS[kind]
    net = make()
    learner = il.Learner(net, method_of("maml", LR, steps))
    for seed in range(4):
        x, y, q = task(seed, features)
        assert_right(learner.adapt(x, y).predict_proba(q), right_probabilities(net, x, y, q, steps=steps), seed)


@pytest.mark.parametrize("kind", NETS)
def test_predictors_of_one_learner_in_four_threads(kind: str) -> None:
    make, features = NETS[kind]
    net = make()
    learner = il.Learner(net, method_of("maml"))
    tasks = [task(seed, features) for seed in range(4)]
    predictors = [learner.adapt(x, y) for x, y, _ in tasks]
    rights = [right_probabilities(net, x, y, q) for x, y, q in tasks]

    def work(number: int) -> None:
        for _ in range(40):
            assert_right(predictors[number].predict_proba(tasks[number][2]), rights[number], number)

    at_once(work)


@pytest.mark.parametrize("kind", NETS)
def test_one_learner_adapts_in_four_threads(kind: str) -> None:
    make, features = NETS[kind]
    net = make()
    learner = il.Learner(net, method_of("maml", LR, 2))
    tasks = [task(seed, features) for seed in range(4)]
    rights = [right_probabilities(net, x, y, q, steps=2) for x, y, q in tasks]

    def work(number: int) -> None:
        x, y, q = tasks[number]
        for _ in range(8):
            assert_right(learner.adapt(x, y).predict_proba(q), rights[number], number)

    at_once(work)


def test_one_predictor_in_four_threads() -> None:
    net, (x, y, _) = mlp(), task(0)
    predictor = il.Learner(net, method_of("maml")).adapt(x, y)
    queries = [torch.randn(5, 3, dtype=torch.float64) for _ in range(4)]
    rights = [right_probabilities(net, x, y, q) for q in queries]

    def work(number: int) -> None:
        for _ in range(40):
            assert_right(predictor.predict_proba(queries[number]), rights[number], number)

    at_once(work)


def test_learners_with_one_net_in_four_threads_while_it_is_called() -> None:
    net = mlp()
    stop, x0 = threading.Event(), torch.randn(5, 3, dtype=torch.float64)
    expected = net(x0).detach()
    learners = [il.Learner(net, method_of("maml", LR, 1 + n)) for n in range(3)]

    def work(number: int) -> bool:
        if number == 3:
            same = True
            while not stop.is_set():
                same = same and torch.equal(net(x0).detach(), expected)
            return same
        try:
            for seed in range(8):
                x, y, q = task(seed)
                right = right_probabilities(net, x, y, q, steps=1 + number)
                assert_right(learners[number].adapt(x, y).predict_proba(q), right, number)
        finally:
            if number == 0:
                stop.set()
        return True

    assert all(at_once(work))


CHANGES: dict[str, Callable[[Any, nn.Module, Any, list[Tensor]], object]] = {
    "the net it was made of is trained on": lambda learner, net, predictor, tensors: [
        p.data.mul_(2) for p in net.parameters()
    ],
    "the net it was made of gets other layers": lambda learner, net, predictor, tensors: net.__setitem__(1, nn.ReLU()),
    "the net it was made of goes to training": lambda learner, net, predictor, tensors: net.train(),
    "the parameters of a predictor are written to": lambda learner, net, predictor, tensors: [
        p.mul_(2) for p in predictor.params.values()
    ],
    "the support set is written to": lambda learner, net, predictor, tensors: tensors[0].mul_(2),
    "the targets are written to": lambda learner, net, predictor, tensors: tensors[1].zero_(),
    "another task is adapted to": lambda learner, net, predictor, tensors: learner.adapt(*task(9)[:2]),
    "an optimizer steps the net": lambda learner, net, predictor, tensors: stepped(net),
}


def stepped(net: nn.Module) -> None:
    net(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    torch.optim.SGD(net.parameters(), 1.0).step()


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_learner_stays_as_it_is_when(sentence: str) -> None:
    net = mlp()
    before, learner = copy.deepcopy(net), il.Learner(net, method_of("maml"))
    x, y, q = task(0)
    tensors = [x.clone(), y.clone()]
    predictor = learner.adapt(*tensors)
    CHANGES[sentence](learner, net, predictor, tensors)
    assert_right(learner.adapt(x, y).predict_proba(q), right_probabilities(before, x, y, q))
    if "parameters of a predictor" not in sentence:
        assert_right(predictor.predict_proba(q), right_probabilities(before, x, y, q))


@pytest.mark.parametrize("sentence", ["the support set is written to", "another task is adapted to"])
def test_a_predictor_with_batch_norm_stays_as_it_is_when(sentence: str) -> None:
    net = small_norm()
    learner, (x, y, q) = il.Learner(net, method_of("maml")), task(0)
    tensors = [x.clone(), y.clone()]
    predictor = learner.adapt(*tensors)
    CHANGES[sentence](learner, net, predictor, tensors)
    assert_right(predictor.predict_proba(q), right_probabilities(net, x, y, q))


def small_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()


def test_predictions_leave_batch_norm_as_it_was() -> None:
    net = small_norm()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    learner = il.Learner(net, method_of("maml"))
    for seed in range(5):
        x, y, q = task(seed)
        predictor = learner.adapt(x, y)
        one = predictor.predict_proba(q)
        assert_right(predictor.predict_proba(q[:1]), one[:1])
        assert_right(predictor.predict_proba(q.flip(0)), one.flip(0))
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copied_learner_gives_the_same(how: str) -> None:
    import pickle

    net, (x, y, q) = mlp(), task(0)
    learner = il.Learner(net, method_of("maml"))
    right, found, said = right_probabilities(net, x, y, q), [], ""
    learner.adapt(x, y)
    copies: dict[str, Callable[[Any], Any]] = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": lambda it: pickle.loads(pickle.dumps(it)),
    }
    try:
        found.append(copies[how](learner).adapt(x, y).predict_proba(q))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        said = str(error)
    assert found or len(said) > 20
    for each in found:
        assert_right(each, right)


def test_dropout_is_off_in_predictions() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double().train()
    learner = il.Learner(net, method_of("maml"))
    x, y, q = task(0)
    for _ in range(4):
        assert_right(learner.adapt(x, y).predict_proba(q), right_probabilities(net, x, y, q))
    assert net.training


def test_a_forward_pass_that_writes_to_its_input() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear()

        def forward(self, x: Tensor) -> Tensor:
            x += 1
            return self.layer(x)

    net, (x, y, q) = Writes(), task(0)
    right, before = right_probabilities(net, x, y, q), (x.clone(), q.clone())
    found: list[Tensor] = []
    for _ in range(3):
        if not refused(lambda: found.append(il.Learner(net, method_of("maml")).adapt(x, y).predict_proba(q))):
            assert_right(found[-1], right)
        assert torch.equal(x, before[0])
        assert torch.equal(q, before[1])


def test_adapt_reads_the_net_at_the_call() -> None:
    net, method = mlp(), method_of("maml", LR, 2)
    for seed in range(8):
        x, y, _ = task(seed)
        with torch.no_grad():
            net[0].weight.mul_(1.1)
        right = oracle.adapted(net, x, y, F.cross_entropy, steps=2)
        found = il.adapt(net, method, x, y)
        for name, value in right.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
            found[name].zero_()  # its own memory
            assert net.get_parameter(name).abs().sum() > 0


def test_many_learners_in_a_pool_of_threads() -> None:
    def work(seed: int) -> None:
        torch_net = nn.Linear(3, 2).double()
        learner = il.Learner(torch_net, method_of("maml"))
        x, y, q = task(seed)
        assert_right(learner.adapt(x, y).predict_proba(q), right_probabilities(torch_net, x, y, q))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(24)))
