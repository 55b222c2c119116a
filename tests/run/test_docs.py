"""The documentation: its examples run, its links lead somewhere, and every method has a page and recipes."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
import shlex
import warnings
from pathlib import Path
from types import ModuleType

import pytest

import innerloop as il
from innerloop.cli.train_arguments import train_arguments
from innerloop.recipes import RECIPES, ConfigError

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
PAGES = [page for page in PAGES if page.parent.name != "notes"]  # those are parts of the pages of methods
ELSEWHERE = {"models.md"}  # its examples need further packages: tests/run/test_models.py
NEEDS = {"accelerate.md": "accelerate", "lightning.md": "lightning"}  # pages of which an example needs a package
CHINESE = ROOT / "docs" / "zh"  # tests/unit/test_site.py: their code is that of the English pages
WITH_EXAMPLES = [
    page for page in PAGES if ">>> " in page.read_text() and page.name not in ELSEWHERE and CHINESE not in page.parents
]
METHODS = ROOT / "docs" / "methods"


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_run(page: Path) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
        warnings.simplefilter("ignore")  # what those packages warn of is not of this project's making
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 3
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert {"rules.md", "bmaml.md"} <= {page.name for page in WITH_EXAMPLES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", prose):
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


def commands_of(page: Path) -> list[list[str]]:
    """The arguments of every ``innerloop train`` of a page, as a shell would pass them."""
    text = page.read_text().replace("\\\n", " ")
    values = dict(re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE))
    values |= {name: words.split()[0] for name, words in re.findall(r"^for (\w+) in (.*); do$", text, re.MULTILINE)}
    found = []
    for line in re.findall(r"^ *innerloop train (.*)$", text, re.MULTILINE):
        whole = re.sub(r"\$(\w+)", lambda match: values[match.group(1)], line)
        found.append(shlex.split(whole, comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    for name, *arguments in commands_of(page):
        if name == "--data":  # a person's own
            own = RECIPES["glyphs-5w1s-maml"].override(dataset="table" if arguments[0].endswith(".csv") else "images")
            train_arguments(name, own, [name, *(word for word in arguments if word != "--help")])
            continue
        assert name in RECIPES
        if arguments:
            train_arguments(name, RECIPES[name], arguments)


def test_there_are_commands() -> None:
    found = {str(page.relative_to(ROOT)): commands_of(page) for page in PAGES}
    assert ["omniglot-5w1s-finetune", "--adapt", "*"] in found["docs/methods/finetune.md"]
    assert any("--inner-lr" in command for command in found["docs/recipes.md"])
    assert found["README.md"]
    with pytest.raises(ConfigError):
        train_arguments("sinusoid-maml", RECIPES["sinusoid-maml"], ["--scheme", "maml"])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_method_pages", ROOT / "scripts" / "make_method_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", il.METHODS)
def test_the_page_of_a_method_is_up_to_date(name: str, script: ModuleType) -> None:
    made = script.page(name)
    assert (METHODS / f"{name}.md").read_text() == made, "run scripts/make_method_pages.py"
    first = inspect.getdoc(il.METHODS[name]).splitlines()[0].split(":")[0].replace("`", "")
    assert first in made.replace("`", "")
    for argument in inspect.signature(il.METHODS[name]).parameters:
        assert f"- `{argument}`: " in made
    assert made.count("$$") % 2 == 0
    for markup in (":func:", ":math:", ".. math", "``i", ">>> il"):
        assert markup not in made.partition("## Notes")[0]


def test_the_list_of_methods_is_up_to_date(script: ModuleType) -> None:
    assert (METHODS / "README.md").read_text() == script.index(), "run scripts/make_method_pages.py"


def test_a_page_is_made_of_the_docstring(script: ModuleType) -> None:
    text = "A :func:`innerloop.maml` of :math:`x_1`.\n\n.. math:: a \\\\\n          b\n\n- one\n- two ``c``"
    assert script.markdown(text) == "A `innerloop.maml` of $x_1$.\n\n$$\na \\\\\nb\n$$\n\n- one\n- two `c`"
    example = "Why.\n\n>>> def f():\n...     return 1\n>>> f()\n1"
    assert script.code(example) == "Why.\n\n```python\ndef f():\n    return 1\nf()\n# 1\n```"
    assert script.listed("a: one\n    two\nb: three", "Args") == "Arguments:\n\n- `a`: one two\n- `b`: three"


def test_no_notes_are_left_out() -> None:
    assert {path.stem for path in (METHODS / "notes").glob("*.md")} <= {*il.METHODS, "README"}
