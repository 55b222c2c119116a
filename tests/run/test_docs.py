"""The documentation: its examples run, its links lead somewhere, and every method has a page and recipes."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import innerloop as il
from innerloop.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
ELSEWHERE = {"models.md"}  # its examples need further packages: tests/run/test_models.py
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text() and page.name not in ELSEWHERE]
METHODS = ROOT / "docs" / "methods"


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_run(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 3
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert {"rules.md", "bmaml.md"} <= {page.name for page in WITH_EXAMPLES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", list(il.METHODS))
def test_every_method_has_a_page_and_recipes(name: str) -> None:
    page = (METHODS / f"{name}.md").read_text()
    assert f"]({name}.md)" in (METHODS / "README.md").read_text()
    commands = re.findall(r"^innerloop train (\S+)", page, re.MULTILINE)
    assert commands
    assert {RECIPES[recipe].method for recipe in commands} == {name}
    for cell in ("5w1s", "20w1s"):
        assert RECIPES[f"omniglot-{cell}-{name.replace('_', '-')}"].method == name
