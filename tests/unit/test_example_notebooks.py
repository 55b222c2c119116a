"""The notebooks of the worked examples: in step with their scripts, run without an error, and small."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_example_notebooks", ROOT / "scripts/make_example_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()


@pytest.mark.parametrize("name", MAKER.NAMES)
def test_a_notebook_is_in_step_with_its_script(name: str) -> None:
    assert MAKER.in_step(name), f"run: python scripts/make_example_notebooks.py {name}"
    file = ROOT / "examples" / f"{name}.ipynb"
    assert file.stat().st_size < 40_000
    cells = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"stream"}  # printed, no error
    assert cells[-1]["outputs"]
    assert not any("def main" in cell["source"] or "sys.argv" in cell["source"] for cell in cells)


SCRIPT = '''"""Add two numbers.

    python add.py

It adds.
"""

from __future__ import annotations

import sys
import math


# %% Adding
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


# %% The sum
def main(count: str = "2") -> None:
    """Print it."""
    total = add(int(count), math.ceil(0.5))
    if total:
        print("the sum is", total)


if __name__ == "__main__":
    main(*sys.argv[1:])
'''


def test_cells_are_a_scripts_sections_and_the_body_of_main(tmp_path: Path) -> None:
    (tmp_path / "add.py").write_text(SCRIPT)
    cells = MAKER.cells_of(tmp_path / "add.py")
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown", "code", "markdown", "code", "code"]
    assert cells[0]["source"].startswith("# Add two numbers\n")
    assert [cells[i]["source"] for i in (1, 2, 4, 5)] == ["import math", "## Adding", "## The sum", 'count = "2"']
    assert MAKER.run(cells)[-1]["outputs"][0]["text"] == "the sum is 3\n"
    assert MAKER.run(cells, count="4")[-1]["outputs"][0]["text"] == "the sum is 5\n"


def test_a_notebook_that_is_not_in_step_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAKER, "EXAMPLES", tmp_path)
    (tmp_path / "add.py").write_text(SCRIPT)
    assert not MAKER.in_step("add")
    (tmp_path / "add.ipynb").write_text(MAKER.notebook(MAKER.run(MAKER.cells_of(tmp_path / "add.py"))))
    assert MAKER.in_step("add")
    (tmp_path / "add.py").write_text(SCRIPT.replace("the sum is", "it is"))
    assert not MAKER.in_step("add")


@pytest.mark.parametrize(("name", "iterations"), [("sinusoids", 1), ("sensors", "1"), ("lora_transformer", 1)])
def test_the_cells_of_a_notebook_run(name: str, iterations: object) -> None:
    cells = MAKER.run(MAKER.cells_of(ROOT / "examples" / f"{name}.py"), iterations=iterations)
    assert cells[-1]["outputs"][0]["text"].count("\n") >= 2


def test_the_cells_of_the_sketches_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cells = MAKER.run(MAKER.cells_of(ROOT / "examples/own_sketches.py"), iterations="1")
    assert cells[-1]["outputs"][0]["text"].count("scribble") >= 5
