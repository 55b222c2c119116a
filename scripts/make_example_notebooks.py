"""Make the notebooks of the worked examples: run each script's cells, and keep what they print.

    python scripts/make_example_notebooks.py [NAME ...]     run them, in some minutes, and write examples/NAME.ipynb
    python scripts/make_example_notebooks.py --check        say which notebooks are not in step with their scripts

A line ``# %% Title`` in a script begins a section: a heading, and one cell of code. In the last section the body of
``main`` takes the place of the function. The defaults of its parameters are a cell of their own.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("own_sketches", "sensors", "sinusoids", "lora_transformer")
MARK = re.compile(r"^# %% (.*)\n", re.M)
MADE = "This notebook was made from [`{0}.py`]({0}.py), and run, by `scripts/make_example_notebooks.py`."


def cells_of(script: Path) -> list[dict[str, Any]]:
    """The cells of a script's notebook, not run."""
    text = script.read_text("utf-8")
    title, _, about = ast.get_docstring(ast.parse(text), clean=True).partition("\n")
    head, *sections = MARK.split(text)
    cells = [_text(f"# {title.rstrip('.')}\n{about}\n\n{MADE.format(script.stem)}")]
    cells.append(_code(_imports(head, used_in=text.partition("if __name__")[0])))
    for heading, body in zip(sections[::2], sections[1::2], strict=True):
        cells.append(_text(f"## {heading}"))
        cells += _unrolled(body) if "def main(" in body else [_code(body)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return cells


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source.strip()}


def _code(source: str, **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code", "metadata": metadata, "source": source.strip(), "execution_count": None, "outputs": []
    }  # fmt: skip


def _imports(head: str, used_in: str) -> str:
    """The imports of a script, without those that only a script needs."""
    lines = head.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    needless = {"from __future__ import annotations"} | ({"import sys"} if "sys." not in used_in else set())
    return "\n".join(line for line in lines[first:] if line not in needless)


def _unrolled(section: str) -> list[dict[str, Any]]:
    """A cell with the defaults of main's parameters, and one with its body."""
    (main,) = (node for node in ast.parse(section).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    given = zip(main.args.args, main.args.defaults, strict=True)
    parameters = "\n".join(f"{argument.arg} = {json.dumps(ast.literal_eval(value))}" for argument, value in given)
    body = main.body[1:]  # the first is the docstring
    lines = section.splitlines()[body[0].lineno - 1 : main.end_lineno]
    return [_code(parameters, tags=["parameters"]), _code(textwrap.dedent("\n".join(lines)))]


def run(cells: list[dict[str, Any]], **parameters: Any) -> list[dict[str, Any]]:
    """The cells with what they print, run one after another here. ``parameters`` take the places of the defaults."""
    names: dict[str, Any] = {"__name__": "notebook"}
    done, count = [], 0
    for cell in cells:
        if cell["cell_type"] != "code":
            done.append(cell)
            continue
        count += 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(cell["source"], f"<{cell['id']}>", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []):
            names.update(parameters)
        said = {"name": "stdout", "output_type": "stream", "text": printed.getvalue()}
        done.append({**cell, "execution_count": count, "outputs": [said] if said["text"] else []})
    return done


def notebook(cells: list[dict[str, Any]]) -> str:
    """A notebook's file."""
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": python, "language_info": {"name": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def in_step(name: str) -> bool:
    """Whether the notebook of an example has the cells that its script gives now."""
    file = EXAMPLES / f"{name}.ipynb"
    if not file.is_file():
        return False
    fields = ("cell_type", "id", "metadata", "source")
    there, here = json.loads(file.read_text("utf-8"))["cells"], cells_of(EXAMPLES / f"{name}.py")
    return [[cell[field] for field in fields] for cell in there] == [[cell[field] for field in fields] for cell in here]


def main() -> int:
    """Make or check the notebooks. Return 1 if one is not in step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="run nothing, and write nothing")
    arguments = parser.parse_args()
    if arguments.check:
        left = [name for name in NAMES if not in_step(name)]
        if left:
            sys.stderr.write(
                f"not in step: {', '.join(left)}; run python scripts/make_example_notebooks.py {' '.join(left)}\n"
            )
        return int(bool(left))
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"there is no notebook {min(unknown)}; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        text = notebook(run(cells_of(EXAMPLES / f"{name}.py")))
        (EXAMPLES / f"{name}.ipynb").write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
