"""The notebooks: they are those of their pages, and their cells run."""

from __future__ import annotations

import doctest
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_notebooks", ROOT / "scripts" / "make_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_notebook_for_each_page(script: ModuleType) -> None:
    assert {path.stem for path in NOTEBOOKS} == set(script.PAGES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_up_to_date(path: Path, script: ModuleType) -> None:
    assert path.read_text() == script.notebook(script.PAGES[path.stem]), "run scripts/make_notebooks.py"


@pytest.mark.parametrize("name", ["own-method", "own-data-set"])  # the tutorial's cells are its page's, run there
def test_the_cells_of_a_notebook_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    # As a kernel does: all cells in one module of their own, which dataclasses look up by its name.
    module = ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    for cell in cells:
        code = compile("".join(cell["source"]), path.name, "exec")
        if "raises-exception" in cell["metadata"].get("tags", []):
            with pytest.raises(ValueError):  # noqa: PT011 - the page shows its message
                exec(code, vars(module))
        else:
            exec(code, vars(module))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_are_the_examples_that_the_test_of_the_page_runs(path: Path, script: ModuleType) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    examples = doctest.DocTestParser().get_examples((ROOT / script.PAGES[path.stem]).read_text())
    assert "\n".join("".join(cell["source"]) for cell in cells) + "\n" == "".join(one.source for one in examples)


def test_cells_end_where_something_is_shown(script: ModuleType) -> None:
    cells = script.code(">>> a = 1\n>>> a\n1\n\n>>> b = 2\n>>> 1 / 0\nTraceback (most recent call last):\n...\nE: no\n")
    assert [cell["source"] for cell in cells] == [["a = 1\n", "a"], ["b = 2\n", "1 / 0"]]
    assert cells[0]["outputs"][0]["data"] == {"text/plain": ["1"]}
    assert cells[1]["metadata"] == {"tags": ["raises-exception"]}
    assert script.linked("[a](rules.md) [b](https://x.y)", "docs/a.md") == "[a](../docs/rules.md) [b](https://x.y)"
