"""The optional packages: what is said where one is absent, and that the list of them is the one of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from innerloop.extras import PURPOSES, MissingExtraError, extra, need

ROOT = Path(__file__).parents[2]


def test_the_extras_are_those_of_the_package() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(PURPOSES) <= set(optional)
    everything = optional["all"][0].removeprefix("innerloop[").removesuffix("]").split(",")
    assert sorted(everything) == sorted(
        set(optional) - {"all", "dev", "docs", "peers", "wandb"}
    )  # wandb: for users of the service


@pytest.mark.parametrize("name", PURPOSES)
def test_what_is_absent_is_named_with_the_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PURPOSES, name, ("this", "a_package_that_is_absent"))
    with pytest.raises(MissingExtraError, match=rf"this needs the extra '{name}': pip install 'innerloop\[{name}\]'"):
        need(name)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), extra("cli"):
        raise KeyError
