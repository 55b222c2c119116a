"""Parts are values: they print, compare, hash, and are written down and read again."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng, smooth_net, vector_episode
from torch import Tensor

import innerloop as il
from innerloop.inner import losses, objectives, starts, uphill
from innerloop.parts import Part, describe, restore

rules = il.rules


def first_state(params: dict[str, Tensor], learned: dict[str, Tensor]) -> dict[str, Tensor]:
    return {}


def sign_step(params: dict[str, Tensor], grads: dict[str, Tensor], state: Any) -> tuple[dict[str, Tensor], Any]:
    return {name: p - 0.1 * grads[name].sign() for name, p in params.items()}, state


def one_rate(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"lr": torch.tensor(0.1)}


def halved(k: Tensor) -> Tensor:
    return 0.5**k


def rate_only(lr: float) -> rules.SGD:
    return rules.sgd(lr)


@dataclass(frozen=True)
class SignDescent:
    """A rule of one's own, with nothing of the package but its three methods."""

    lr: float = 0.1

    def init(self, params: dict[str, Tensor], learned: dict[str, Tensor]) -> Any:
        return {}

    def step(self, params: dict[str, Tensor], grads: dict[str, Tensor], state: Any) -> tuple[dict[str, Tensor], Any]:
        return {name: p - self.lr * grads[name].sign() for name, p in params.items()}, state

    def learned(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}


# Every part of rules/ and inner/, with each field at least once at another value than its default.
PARTS: list[Any] = [
    rules.sgd(0.1),
    rules.sgd(0.3, momentum=0.9, nesterov=True, weight_decay=0.01),
    rules.adam(0.1, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.1),
    rules.adamw(0.1, betas=(0.5, 0.75), eps=1e-3, weight_decay=0.1),
    rules.rmsprop(0.1, alpha=0.5, eps=1e-3, weight_decay=0.1, momentum=0.5, centered=True),
    rules.adagrad(0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=1.0, eps=1e-3),
    rules.alfa(0.1, 0.2, steps=3),
    rules.svgd(0.1, repulsion=0.5, weight_decay=0.1),
    rules.proximal(rules.adam(0.1), 2.0),
    rules.kronecker(rules.sgd(0.1)),
    rules.singular(rules.sgd(0.1), "head.*", form="exact_svd"),
    rules.by_step(rules.sgd(0.1), "*.norm.*", 5),
    rules.clipped(rules.sgd(0.1), max_norm=1.0),
    rules.clipped(rules.sgd(0.1), max_value=0.5),
    rules.scheduled(rules.sgd(0.1), halved),
    rules.learned_rates(rules.adam(1.0), 0.1, per="layer_and_step", steps=3),
    rules.learned_sgd(0.1, per="weight", momentum=0.5),
    rules.learned_sgd(0.1, bounds=(0.0, 0.5)),
    rules.learned_settings(rules.adam, lr=0.1, betas=(0.5, 0.75)),
    rules.learned_settings(partial(rules.rmsprop, 0.1, centered=True), eps=1e-3),
    rules.learned_settings(partial(rules.proximal, rules.sgd(0.3)), strength=0.5),
    rules.learned_settings(rate_only, lr=0.1),
    rules.InnerRule(first_state, sign_step),
    rules.InnerRule(first_state, sign_step, one_rate),
    rules.clipped(SignDescent(0.2), max_norm=1.0),
    starts.initialisation,
    starts.zero,
    starts.prototypes("head", 5),
    starts.neighbours("head", 5),
    starts.new_head("head", 5),
    objectives.last_step,
    objectives.multi_step(0.25),
    losses.of_outputs,
    losses.each_particle,
    uphill.Uphill(0.5),
    il.Adaptation(
        rules.clipped(rules.learned_sgd(0.1), max_norm=1.0),
        3,
        batch_size=2,
        adapt="head.*",
        start=starts.prototypes("head"),
        inner_loss=losses.each_particle,
        objective=objectives.multi_step(0.5),
        carry_state=True,
        gradient_at=uphill.Uphill(0.5),
    ),
]
EACH = pytest.mark.parametrize("part", PARTS, ids=[f"{i}-{type(part).__name__}" for i, part in enumerate(PARTS)])


def subclasses(of: type) -> set[type]:
    return {cls for sub in of.__subclasses__() for cls in {sub, *subclasses(sub)}}


def test_every_part_and_field_is_among_the_examples() -> None:
    units = ("innerloop.rules.", "innerloop.inner.")
    known = {cls for cls in subclasses(Part) if cls.__module__.startswith(units)}
    assert known == {type(part) for part in PARTS} - {SignDescent}
    for cls in known:
        examples = [part for part in PARTS if type(part) is cls]
        for field in dataclasses.fields(cls):
            values = [getattr(part, field.name) for part in examples]
            assert any(value != field.default for value in values), f"{cls.__name__}.{field.name}"


@EACH
def test_a_part_comes_back_equal_from_json(part: Any) -> None:
    back = restore(json.loads(json.dumps(describe(part), allow_nan=False)))
    assert type(back) is type(part)
    assert back is not part
    assert back == part
    assert hash(back) == hash(part)
    assert repr(back) == repr(part)
    assert describe(back) == describe(part)


@EACH
def test_parts_are_equal_if_their_class_and_fields_are(part: Any) -> None:
    assert len({part, dataclasses.replace(part)}) == 1
    assert sum(part == other for other in PARTS) == 1


@EACH
def test_a_part_cannot_be_changed(part: Any) -> None:
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, None)


def test_parts_print_what_is_not_the_default() -> None:
    assert repr(rules.sgd(0.1)) == "SGD(lr=0.1)"
    assert repr(rules.adamw(0.1, weight_decay=0.0)) == "AdamW(lr=0.1, weight_decay=0.0)"
    assert repr(starts.zero) == "Zero()"
    assert repr(rules.InnerRule(first_state, sign_step)) == "InnerRule(init=first_state, step=sign_step)"
    rule = rules.learned_settings(partial(rules.adam, 0.1), eps=1e-3)
    assert repr(rule) == "LearnedSettings(make=Adam, settings=(('eps', 0.001),), fixed=(('lr', 0.1),))"
    assert (
        repr(il.Adaptation(rules.adam(0.1), 3, start=starts.new_head(ways=5)))
        == "Adaptation(rule=Adam(lr=0.1), steps=3, start=NewHead(ways=5))"
    )
    assert repr(rules.sgd(torch.tensor(0.5))) == "SGD(lr=tensor(0.5000))"


def test_the_printed_form_makes_the_part_again() -> None:
    names = vars(rules) | vars(starts) | vars(objectives) | vars(losses) | vars(uphill) | globals()
    for part in PARTS:
        assert eval(repr(part), {**names, "Adaptation": il.Adaptation}) == part


def test_a_read_rule_takes_the_same_steps() -> None:
    net, episode = smooth_net(), vector_episode(2)
    rule = rules.clipped(rules.learned_settings(rules.adam, lr=0.05, betas=(0.6, 0.8)), max_norm=0.5)
    adaptation = il.Adaptation(rule, 3, objective=objectives.multi_step(0.5))
    again = restore(json.loads(json.dumps(describe(adaptation))))
    grads, info = il.meta_gradient(net, il.Method(adaptation, il.unrolled()), episode, generator=rng())
    expected, observed = il.meta_gradient(net, il.Method(again, il.unrolled()), episode, generator=rng())
    assert_same(grads, expected, rtol=0, atol=0)
    assert torch.equal(info.loss, observed.loss)


def test_numbers_come_back_as_they_were() -> None:
    for value in (0.1, 1e-300, 5, True, None, "a", float("inf"), -float("inf"), (1, (2.0, "b"), ())):
        back = restore(json.loads(json.dumps(describe(value), allow_nan=False)))
        assert back == value
        assert type(back) is type(value)
    assert restore(describe(float("nan"))) != restore(describe(float("nan")))
    assert type(describe(np.float64(0.1))) is float


def test_an_older_description_lacks_fields_that_have_defaults() -> None:
    assert restore({"part": "innerloop.rules.sgd.SGD", "fields": {"lr": 0.5}}) == rules.sgd(0.5)


def test_losses_of_torch_can_be_written_down() -> None:
    assert restore(describe(F.mse_loss)) is F.mse_loss


# What cannot be written down


def nested_rule() -> Any:
    @dataclass(frozen=True)
    class Local(SignDescent):
        pass

    return Local()


class Undecorated(SignDescent):
    """Its own __init__ could be anything."""

    def __init__(self) -> None:
        super().__init__(0.5)


@dataclass
class Mutable:
    lr: float = 0.1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rules.scheduled(rules.sgd(0.1), lambda k: 0.5**k), r"Scheduled\.factor is .*<lambda>.*top level"),
        (lambda: rules.InnerRule(first_state, lambda p, g, s: (p, s)), r"InnerRule\.step is .*<lambda>"),
        (lambda: rules.clipped(rules.sgd(torch.tensor(0.1)), max_norm=1), r"Clipped\.rule\.lr is of type Tensor.*item"),
        (lambda: rules.clipped(nested_rule(), max_norm=1), r"Clipped\.rule is nested_rule\.<locals>\.Local"),
        (lambda: rules.scheduled(rules.sgd(0.1), partial(halved)), r"Scheduled\.factor is of type partial"),
        (lambda: rules.scheduled(rules.sgd(0.1), torch.cos), r"factor is of type builtin_function_or_method"),
        (
            lambda: rules.scheduled(rules.sgd(0.1), os.path.join),
            r"package posixpath, which defines no parts|package os",
        ),
        (lambda: rules.by_step(rules.sgd(0.1), ["a"], 2), r"ByStep\.names is of type list"),
        (Undecorated, "type Undecorated"),
        (Mutable, "type Mutable"),
        (lambda: {"lr": 0.1}, "type dict"),
    ],
)
def test_what_cannot_be_found_again_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        describe(make())


# What is not read

PATH = "innerloop.rules.sgd.SGD"


@dataclass(frozen=True)
class Trap:
    """Nothing may call it but as a part."""

    def __post_init__(self) -> None:
        raise RuntimeError("the trap was sprung")


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"function": "os.system"}, "package os, which defines no parts"),
        ({"function": "posix.system"}, "package posix"),
        ({"part": "subprocess.Popen", "fields": {"args": "true"}}, "package subprocess"),
        ({"class": "subprocess.Popen"}, "package subprocess"),
        ({"function": "builtins.eval"}, "package builtins"),
        ({"function": "torch.load"}, "package torch"),
        ({"function": "torch.serialization.load"}, "package torch"),
        ({"function": "torch.nn.functional.torch.load"}, "package torch"),
        ({"part": "torch.nn.Linear", "fields": {}}, "package torch"),
        ({"part": "innerloop.rules.base.dataclass", "fields": {}}, "not found"),
        ({"part": "innerloop.parts.sys.modules", "fields": {}}, "not found"),
        ({"function": "innerloop.data.images.np.load"}, "not found"),
        ({"function": "innerloop.recipes.run.no_such"}, "import the module that defines it first, or pass the method"),
        (
            {"part": "a_package.of.mine.Rule", "fields": {}},
            "import the module that defines it first, or pass the method",
        ),
        ({"part": "innerloop.learner.learner.Learner", "fields": {}}, "no frozen dataclass"),
        ({"part": f"{__name__}.Undecorated", "fields": {}}, "no frozen dataclass"),
        ({"part": f"{__name__}.Mutable", "fields": {}}, "no frozen dataclass"),
        ({"part": f"{__name__}.halved", "fields": {}}, "no frozen dataclass"),
        ({"function": PATH}, "no function"),
        ({"part": f"{__name__}.Trap", "fields": {}}, "cannot be made.*the trap was sprung"),
        ({"part": PATH, "fields": {"rate": 0.1}}, r"no field 'rate'; its fields are: lr, momentum"),
        ({"part": PATH, "fields": {"lr": 0.1, "__class__": 1}}, "no field '__class__'"),
        ({"part": PATH, "fields": {}}, "cannot be made.*lr"),
        ({"part": PATH, "fields": [0.1]}, "fields of innerloop.rules.sgd.SGD are a list"),
        ({"part": PATH, "fields": {"lr": "fast"}}, "cannot be made with the fields {'lr': 'fast'}"),
        ({"part": PATH, "fields": {"lr": -1.0}}, "lr is -1.0"),
        ({"part": PATH, "fields": {"lr": {"number": "1"}}}, "a dict with the keys 'number'"),
        ({"part": PATH}, "a dict with the keys 'part'"),
        ({"part": PATH, "fields": {"lr": 0.1}, "more": 1}, "'more'"),
        ({"part": ["innerloop"], "fields": {}}, "must be a string"),
        ({"part": "", "fields": {}}, "not found"),
        ({"part": "..", "fields": {}}, "not found"),
        ({"part": "innerloop.rules.proximal.Proximal", "fields": {"rule": 5, "strength": 1.0}}, "the rule is 5"),
        (
            {"part": "innerloop.rules.settings.LearnedSettings", "fields": {"make": 5, "settings": [["lr", "0.1"]]}},
            "lr is '0.1'",
        ),
        ({}, "a dict with the keys"),
        (torch.zeros(1), "a Tensor"),
    ],
)
def test_what_is_no_description_of_a_part_is_refused(description: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        restore(description)


def test_a_description_nested_without_end_is_refused() -> None:
    description: Any = {"part": PATH, "fields": {"lr": 0.1}}
    for _ in range(100_000):
        description = [description]
    with pytest.raises(ValueError, match="too deeply"):
        restore(description)
    while isinstance(description, list):  # taken apart from outside, so that freeing it needs no deep recursion either
        description = description[0]


def test_reading_imports_nothing() -> None:
    """Asked for in a process that has not imported it, a part is refused, and its module stays unimported."""
    script = (
        "import sys, innerloop.parts\n"
        "before = set(sys.modules)\n"
        "for path in ('turtle.Pen', 'wsgiref.headers.Headers', 'innerloop.no.Such', 'this.s'):\n"
        "    for kind in ({'part': path, 'fields': {}}, {'function': path}, {'class': path}):\n"
        "        try:\n"
        "            innerloop.parts.restore(kind)\n"
        "        except ValueError:\n"
        "            continue\n"
        "        raise SystemExit(f'{path} was found')\n"
        "assert set(sys.modules) == before, set(sys.modules) - before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


CALLS: list[float] = []


def counting(lr: float) -> rules.SGD:
    CALLS.append(lr)
    return rules.sgd(lr)


def test_reading_calls_no_function_that_a_part_holds() -> None:
    description = describe(rules.learned_settings(counting, lr=0.1))
    calls = len(CALLS)
    rule = restore(description)
    assert len(CALLS) == calls
    rule.learned({"w": torch.zeros(1)})
    assert len(CALLS) > calls


# What is no rule


@pytest.mark.parametrize("rule", [None, 0.1, rules.sgd, halved, (first_state, sign_step), starts.zero])
def test_what_is_no_rule_is_refused(rule: Any) -> None:
    for make in (rules.kronecker, lambda r: rules.clipped(r, max_norm=1.0), lambda r: il.Adaptation(r, 1)):
        with pytest.raises(ValueError, match="give an object with init, step and learned"):
            make(rule)


def test_any_object_with_the_three_methods_is_a_rule() -> None:
    net, episode = smooth_net(), vector_episode(2)
    own = il.Method(il.Adaptation(SignDescent(0.1), 2), il.unrolled())
    functions = il.Method(il.Adaptation(rules.InnerRule(first_state, sign_step), 2), il.unrolled())
    assert isinstance(SignDescent(), rules.Rule)
    assert_same(il.meta_gradient(net, own, episode)[0], il.meta_gradient(net, functions, episode)[0])


def test_betas_are_a_tuple() -> None:
    with pytest.raises(ValueError, match="it must be a tuple of two numbers"):
        rules.adam(0.1, betas=[0.9, 0.999])
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.1, betas=[0.5, 0.75])
    assert rules.from_torch(optimizer) == rules.adam(0.1, betas=(0.5, 0.75))
