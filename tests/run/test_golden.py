"""The golden run: every number as it was when scripts/make_golden.py last wrote it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import innerloop as il

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "sinusoid.json").read_text())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden", HERE.parents[1] / "scripts" / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROUNDINGS = 1e4
"""Perturbations of one unit in the last place that another processor's roundings may amount to."""
MEANINGLESS = 1e-6
"""A tolerance from which on a golden run says too little."""


def tolerance(name: str, sensitivities: dict[str, float] = GOLDEN["sensitivity"]) -> float:
    """The relative difference that another way of rounding explains."""
    allowed = ROUNDINGS * max(sensitivities[name], 1.0) * 2.0**-52
    assert allowed < MEANINGLESS, f"the golden run of {name} amplifies rounding by {sensitivities[name]:.0e}"
    return allowed


def alike(actual: dict[str, list[float]], expected: dict[str, list[float]], rel: float) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[part] == pytest.approx(expected[part], rel=rel, abs=0) for part in expected
    )


def test_every_method_has_a_golden_run() -> None:
    assert GOLDEN["losses"].keys() == GOLDEN["sensitivity"].keys() == il.METHODS.keys(), "run scripts/make_golden.py"
    assert GOLDEN["torch"]
    assert GOLDEN["hardware"]


@pytest.mark.parametrize("name", sorted(il.METHODS))
def test_the_numbers_are_as_they_were(name: str, script: ModuleType) -> None:
    expected = GOLDEN["losses"][name]
    actual = script.run(name)
    message = f"{actual}\ninstead of\n{expected}\n(made with torch {GOLDEN['torch']})"
    assert alike(actual, expected, tolerance(name)), message


@pytest.mark.parametrize("name", ["gap", "maml", "prototypical"])
def test_the_sensitivity_is_that_of_the_run(name: str, script: ModuleType) -> None:
    """A perturbed run differs, and by far less than is allowed."""
    expected, actual = GOLDEN["losses"][name], script.run(name, perturbed=99)
    assert actual != script.run(name)
    assert alike(actual, expected, tolerance(name))


def test_a_run_that_amplifies_rounding_is_refused() -> None:
    assert tolerance("maml", {"maml": 1e3}) < 1e-8
    with pytest.raises(AssertionError, match=r"the golden run of maml amplifies rounding by 1e\+07"):
        tolerance("maml", {"maml": 1e7})


def test_a_changed_number_is_noticed() -> None:
    for name, expected in GOLDEN["losses"].items():
        for part, numbers in expected.items():
            changed = {**expected, part: [*numbers[:-1], numbers[-1] * (1 + 1e-7)]}
            assert not alike(changed, expected, tolerance(name)), name
    (first, one), (_, other), *_ = GOLDEN["losses"].items()
    assert not alike(one, other, tolerance(first))
