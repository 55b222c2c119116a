"""Write the notebooks, ``notebooks/NAME.ipynb``, from pages of the documentation.

    python scripts/make_notebooks.py

Prose becomes cells of Markdown and examples become cells of code, with the outputs that the page shows. So a notebook
says what its page says, and the tests of the page hold for it. A test says whether the notebooks are those that this
script writes, and runs them.
"""

from __future__ import annotations

import doctest
import json
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "notebooks"
PAGES = {
    "tutorial": "docs/tutorial.md",
    "own-method": "docs/how-to/own-method.md",
    "own-data-set": "docs/how-to/own-data-set.md",
}
"""The page of each notebook."""
FENCE = re.compile(r"^```\w*.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def notebook(page: str) -> str:
    """The notebook of a page, as a file's content."""
    text = (ROOT / page).read_text(encoding="utf-8")
    cells = [prose(f"This notebook is the page [{page}](../{page}). It needs innerloop and nothing else.")]
    begin = 0
    for fence in FENCE.finditer(text):
        if fence[1].startswith(">>> "):
            cells += [prose(linked(text[begin : fence.start()], page)), *code(fence[1])]
            begin = fence.end()
    cells.append(prose(linked(text[begin:], page)))
    cells = [cell for cell in cells if cell["source"]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def prose(text: str) -> dict[str, Any]:
    """A cell of Markdown."""
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def code(examples: str) -> list[dict[str, Any]]:
    """The cells of a block of examples. Each ends where something is shown."""
    cells, source = [], ""
    for example in doctest.DocTestParser().get_examples(examples):
        source += example.source
        if example.want or example.exc_msg:
            cells.append(cell(source, example.want, raises=example.exc_msg is not None))
            source = ""
    return cells + ([cell(source)] if source else [])


def cell(source: str, shown: str = "", *, raises: bool = False) -> dict[str, Any]:
    """A cell of code with its output."""
    outputs: list[dict[str, Any]] = []
    if raises:
        outputs = [{"output_type": "stream", "name": "stderr", "text": shown.splitlines(keepends=True)}]
    elif shown:
        data = {"text/plain": shown.rstrip("\n").splitlines(keepends=True)}
        outputs = [{"output_type": "execute_result", "execution_count": None, "data": data, "metadata": {}}]
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": ["raises-exception"]} if raises else {},
        "outputs": outputs,
        "source": source.rstrip("\n").splitlines(keepends=True),
    }


def linked(text: str, page: str) -> str:
    """Prose with its links leading from the folder of the notebooks."""
    folder = posixpath.dirname(page)

    def leading(match: re.Match[str]) -> str:
        return f"]({posixpath.relpath(posixpath.join(folder, match[1]), 'notebooks')})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", leading, text)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, source_page in PAGES.items():
        (OUT / f"{name}.ipynb").write_text(notebook(source_page), encoding="utf-8")
