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


def alike(actual: dict[str, list[float]], expected: dict[str, list[float]]) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[part] == pytest.approx(expected[part], rel=1e-6) for part in expected
    )


def test_every_method_has_a_golden_run() -> None:
    assert GOLDEN["losses"].keys() == il.METHODS.keys(), "run scripts/make_golden.py"
    assert GOLDEN["torch"]
    assert GOLDEN["hardware"]


@pytest.mark.parametrize("name", sorted(il.METHODS))
def test_the_numbers_are_as_they_were(name: str, script: ModuleType) -> None:
    expected = GOLDEN["losses"][name]
    actual = script.run(name)
    assert alike(actual, expected), f"{actual}\ninstead of\n{expected}\n(made with torch {GOLDEN['torch']})"


def test_a_changed_number_is_noticed() -> None:
    for name, expected in GOLDEN["losses"].items():
        for part, numbers in expected.items():
            changed = {**expected, part: [*numbers[:-1], numbers[-1] * (1 + 1e-5)]}
            assert not alike(changed, expected), name
    first, second, *_ = GOLDEN["losses"].values()
    assert not alike(first, second)
