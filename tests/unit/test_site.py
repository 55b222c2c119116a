"""The documentation site: every page has a place, every public name is in the reference, quoted code is the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = sorted((DOCS / "reference").glob("*.rst"))
SUBMODULES = ["data", "export", "hub", "metagrad", "nets", "plots", "rules", "sklearn"]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "website" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(text: str, module: str = "innerloop") -> set[str]:
    """The full names that a page of the reference documents."""
    found = set()
    for directive, name in re.findall(r"^\.\. (\w+):: (\S+)", text, re.MULTILINE):
        if directive == "currentmodule" or (directive == "automodule" and ":no-members:" in text):
            module = name
        if directive.startswith("auto"):
            found.add(name if name.startswith("innerloop") else f"{module}.{name}")
    return found


def thing(name: str) -> object:
    """The object of a full name."""
    module, _, leaf = name.rpartition(".")
    loaded = importlib.import_module(module) if module else importlib.import_module(name)
    return getattr(loaded, leaf) if hasattr(loaded, leaf) else importlib.import_module(name)


@pytest.fixture(scope="module")
def documented() -> list[object]:
    return [thing(name) for page in REFERENCE for name in named(page.read_text())]


def test_names_of_a_page_are_found() -> None:
    text = ".. automodule:: innerloop.data\n   :no-members:\n\n.. autoclass:: A\n.. autodata:: innerloop.b.C\n"
    assert named(text) == {"innerloop.data", "innerloop.data.A", "innerloop.b.C"}


@pytest.mark.parametrize("module", ["", *SUBMODULES])
def test_every_public_name_is_in_the_reference(module: str, documented: list[object]) -> None:
    pytest.importorskip({"sklearn": "sklearn", "plots": "matplotlib"}.get(module, "torch"))
    source = importlib.import_module(f"innerloop.{module}".rstrip("."))
    assert source.__all__
    absent = [n for n in source.__all__ if not any(getattr(source, n) is one for one in documented)]
    assert not absent, "add them to a page in docs/reference"


def test_every_page_has_a_place(pages: ModuleType) -> None:
    listed = [page for part in pages.SECTIONS.values() for page in part]
    assert len(set(listed)) == len(listed)
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    written = {page for page in written if not re.match(r"docs/methods/(notes/|[a-z])", page)}
    written |= {path.stem for path in ROOT.glob("*.md")} | {"benchmarks/README", "docs/reference/index"}
    assert set(listed) | {"README"} == written


def quotations(page: Path) -> list[tuple[str, str]]:
    """The files of the code that a page quotes, with the lines."""
    found = re.findall(r'^```python title="(.*?)"\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)
    return [(file, line.strip()) for file, block in found for line in block.splitlines() if line.strip()]


QUOTING = [page for page in sorted(DOCS.rglob("*.md")) if quotations(page)]


def test_pages_quote_code() -> None:
    assert len(quotations(DOCS / "tutorial.md")) > 10


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_quoted_lines_are_lines_of_the_code(page: Path) -> None:
    for file, line in quotations(page):
        lines = [one.strip().rstrip(",") for one in (ROOT / file).read_text().splitlines()]
        assert line in lines, f"{file} has no line {line!r}"


def test_prompts_are_marked_and_blank_lines_dropped(pages: ModuleType) -> None:
    source = ["Text\n\n```python\n>>> 1\n1\n\n```\n\n```\nmake\n```\n\n" + '```python title="a.py"\nx = 1\n```\n']
    pages.read(type("App", (), {"config": type("Config", (), {"root_doc": "README"})}), "page", source)
    assert source == [
        "Text\n\n```pycon\n>>> 1\n1\n```\n\n```\nmake\n```\n\n```{code-block} python\n:caption: a.py\nx = 1\n```\n"
    ]
