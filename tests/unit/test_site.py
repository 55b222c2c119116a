"""The documentation site: every page has a place, every public name is in the reference, quoted code is the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
    for directive, name in re.findall(r"^\.\. (\w+):: ([\w.]+)", text, re.MULTILINE):
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
    assert set(listed) | {"README"} == written, "give the page a place in SECTIONS of website/pages.py"


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


def fences(text: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[int]:
    """The levels of the headings of a page, in order."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]


def bare(block: str) -> list[str]:
    """The lines of a code block without comments."""
    return [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]


CHINESE = sorted((DOCS / "zh").rglob("*.md"))


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_chinese_page_is_in_step_with_the_english_one(page: Path) -> None:
    english, chinese = (DOCS / page.relative_to(DOCS / "zh")).read_text(), page.read_text()
    assert headings(chinese) == headings(english)
    assert fences(chinese) == fences(english)
    assert chinese.count("$$") == english.count("$$")
    assert "您" not in chinese


def test_the_start_pages_are_in_step() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    assert headings(chinese) == headings(english)
    assert [bare(block) for block in fences(chinese)] == [bare(block) for block in fences(english)]


def test_the_tutorial_and_the_guides_are_in_chinese() -> None:
    own = [DOCS / f"{name}.md" for name in ("tutorial", "own-data", "models", "rules", "training", "export")]
    pages = [*own, *sorted((DOCS / "how-to").glob("*.md"))]
    assert {DOCS / "zh" / page.relative_to(DOCS) for page in pages} <= set(CHINESE)


def test_pages_link_to_the_other_language(pages: ModuleType) -> None:
    there = {"docs/tutorial", "docs/zh/tutorial", "docs/rules", "README"}
    found = {name: pages.in_other_language(name, there) for name in there}
    expected = {
        "docs/tutorial": "docs/zh/tutorial",
        "docs/zh/tutorial": "docs/tutorial",
        "docs/rules": "",
        "README": "",
    }
    assert found == expected


def test_lines_of_chinese_text_are_joined(pages: ModuleType) -> None:
    source = "一行，\n`code` 又\n一行。\n\n- 一\n- 二\n  三。\n\nA\nB\n\n```\n甲\n乙\n```\n"
    assert pages.joined(source) == "一行，`code` 又一行。\n\n- 一\n- 二三。\n\nA\nB\n\n```\n甲\n乙\n```\n"


def test_prompts_are_marked_and_blank_lines_dropped(pages: ModuleType) -> None:
    source = ["Text\n\n```python\n>>> 1\n1\n\n```\n\n```\nmake\n```\n\n" + '```python title="a.py"\nx = 1\n```\n']
    app = SimpleNamespace(config=SimpleNamespace(root_doc="README"), env=SimpleNamespace(found_docs=set()))
    pages.read(app, "page", source)
    assert source == [
        "Text\n\n```pycon\n>>> 1\n1\n```\n\n```\nmake\n```\n\n```{code-block} python\n:caption: a.py\nx = 1\n```\n"
    ]
