"""Write the pages of the methods, ``docs/methods/NAME.md``, and their list, ``docs/methods/README.md``.

    python scripts/make_method_pages.py

A page is the docstring of the method in Markdown, its options with their defaults and the values in each recipe, the
commands, and at the end what ``docs/methods/notes/NAME.md`` holds, if there is such a file: what was tried and
measured, and where a recipe departs from its paper. The list begins with ``docs/methods/notes/README.md``. A test says
whether the pages are those that this script writes.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from innerloop.data._published_sets import PUBLISHED
from innerloop.methods.base import CARDS, METHODS
from innerloop.recipes import RECIPES
from innerloop.recipes.config import all_options, common_options, method_options
from innerloop.recipes.options import flag

OUT = Path(__file__).parents[1] / "docs" / "methods"
WIDTH = 118
MADE = """\
<!-- Made by scripts/make_method_pages.py from the docstring and notes/{name}.md. Edit those. -->
<!-- fmt: off -->"""


def page(name: str) -> str:
    """The page of one method."""
    blocks = sections(inspect.getdoc(METHODS[name]) or "")
    parts = [f"# {CARDS[name].title}", MADE.format(name=name), markdown(blocks.pop(""))]
    parts += ["## From Python", signature(name)]
    for heading in ("Args", "Raises", "Example"):
        text = blocks.pop(heading, "")
        parts.append(code(text) if heading == "Example" else listed(text, heading))
    parts += ["## From the command line", commands(name), options(name)]
    parts += ["## References", markdown(blocks.pop("References", ""))]
    assert not blocks, f"the docstring of {name} has sections without a place on the page: {', '.join(blocks)}"
    notes = OUT / "notes" / f"{name}.md"
    if notes.is_file():
        parts += ["## Notes", notes.read_text().strip()]
    return "\n\n".join(filter(None, parts)) + "\n"


def index() -> str:
    """The list of the methods."""
    lines = [f"- [{card.title}]({name}.md), `il.{name}`: {summary(name)}" for name, card in sorted(CARDS.items())]
    entries = "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in lines)
    notes = (OUT / "notes" / "README.md").read_text().strip()
    title, _, rest = notes.partition("\n")
    return f"{title}\n\n{MADE.format(name='README')}\n\n{rest.strip()}\n\n## Pages\n\n{entries}\n"


def summary(name: str) -> str:
    """The first line of a docstring, without the method's name in front."""
    return unmarked((inspect.getdoc(METHODS[name]) or "").splitlines()[0]).removeprefix(f"{CARDS[name].title}: ")


def sections(docstring: str) -> dict[str, str]:
    """The text before the first section under an empty name, and the text of each section."""
    found, heading = {"": ""}, ""
    for line in docstring.splitlines():
        if match := re.fullmatch(r"(Args|Raises|Returns|Example|References):", line):
            heading = match.group(1)
            found[heading] = ""
        else:
            found[heading] += f"{line}\n"
    return {name: text if not name else textwrap.dedent(text) for name, text in found.items()}


def markdown(text: str) -> str:
    """Paragraphs, lists and displayed formulas."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith(".. math::"):
            lines = [line.strip() for line in block.removeprefix(".. math::").splitlines()]
            blocks.append("$$\n" + "\n".join(filter(None, lines)) + "\n$$")
        elif block.startswith("- "):
            items = re.split(r"\n(?=- )", block)
            blocks.append("\n".join(filled(item, "  ") for item in items))
        else:
            blocks.append(filled(block))
    return "\n\n".join(blocks)


def listed(text: str, heading: str) -> str:
    """A section of named entries, as a list; the types of errors are left out."""
    if not text:
        return ""
    entries = re.split(r"\n(?=\S)", text.strip())
    lines = [f"- `{name}`: {rest.strip()}" for name, _, rest in (entry.partition(":") for entry in entries)]
    words = {"Args": "Arguments", "Raises": "Errors"}[heading]
    return f"{words}:\n\n" + "\n".join(filled(line, "  ") for line in lines)


def code(text: str) -> str:
    """An example without its prompts; what it prints is a comment."""
    prose, lines = [], []
    for line in text.strip().splitlines():
        if line.startswith((">>> ", "... ", "...")) and (lines or line.startswith(">>> ")):
            lines.append(line[4:])
        elif lines and line.strip():
            lines.append(f"# {line}")
        elif line.strip():
            prose.append(line)
    return "\n\n".join([*filter(None, [markdown("\n".join(prose))]), "```python\n" + "\n".join(lines) + "\n```"])


def signature(name: str) -> str:
    """The call with its defaults."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    lines = [f"    {p.name}={quoted(p.default)}," for p in parameters]
    return "```python\n" + "\n".join([f"il.{name}(", *lines, ")"]) + "\n```"


def quoted(value: Any) -> str:
    """A default as code, with double quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def commands(name: str) -> str:
    """The command of each recipe."""
    lines = [f"innerloop train {recipe}" for recipe, config in RECIPES.items() if config.method == name]
    return "```\n" + "\n".join(lines) + "\n```"


def options(name: str) -> str:
    """A table of the method's options and of what else its file sets: the default, and the value in each recipe."""
    recipes = {recipe: config for recipe, config in RECIPES.items() if config.method == name}
    said = {*CARDS[name].network_options, *(n for settings in CARDS[name].settings().values() for n in settings)}
    others = dict(common_options())
    for config in recipes.values():
        for part in all_options(config.dataset, name):
            others.update(part)
    known = {**method_options(name), **{n: option for n, option in others.items() if n in said}}
    if not known:
        return ""
    columns: dict[tuple[str, ...], list[str]] = {}  # recipes for photographs that agree share a column
    for recipe, config in recipes.items():
        head = recipe.removesuffix(f"-{name.replace('_', '-')}")
        data, _, task = head.rpartition("-") if config.dataset in PUBLISHED else ("", "", head)
        values = [shown(config.flat().get(option.name, "")) for option in known.values()]
        columns.setdefault((task, *values), []).append(data)
    heads = [f"{', '.join(data)}: {task}" if data[0] else task for (task, *_), data in columns.items()]
    rows = [["option", "default", *heads], ["---"] * (2 + len(heads))]
    for place, option in enumerate(known.values(), 1):
        rows.append([f"`{flag(option.name)}`", shown(option.default), *(values[place] for values in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(value: Any) -> str:
    """A value in a table."""
    return f"`{value}`" if isinstance(value, str) and value else "" if value == "" else f"{value}"


def filled(text: str, indent: str = "") -> str:
    """Text without markup, in lines of one width."""
    return textwrap.fill(
        " ".join(unmarked(text).split()),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def unmarked(text: str) -> str:
    """Roles and literals of reStructuredText as Markdown has them."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return text.replace("``", "`")


def main() -> None:
    """Write all pages."""
    for name in METHODS:
        (OUT / f"{name}.md").write_text(page(name))
    (OUT / "README.md").write_text(index())


if __name__ == "__main__":
    main()
