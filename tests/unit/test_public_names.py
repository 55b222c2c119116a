"""The public names: all there, no others, each with its documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from pathlib import Path

import pytest

import innerloop as il

ROOT = Path(il.__file__).parent
CORE = sorted(
    ".".join(["innerloop", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for file in ROOT.rglob("*.py")
    if file != ROOT / "__init__.py" and file.relative_to(ROOT).parts[0] not in ("recipes", "cli", "demo", "export")
)
CORE = [name for name in CORE if not name.rpartition(".")[2].startswith("_")]


def imported(source: str) -> set[str]:
    """The names that a module imports at its top."""
    tree = ast.parse(source)
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def described(source: str) -> set[str]:
    """The names that a module defines with a docstring, assignments included."""
    found, before = set(), None
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            found.add(node.name)
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text and isinstance(before, ast.Assign):
            found.add(ast.unparse(before.targets[0]))
        if is_text and isinstance(before, ast.AnnAssign):
            found.add(ast.unparse(before.target))
        before = node
    return found


def test_documentation_that_is_missing_is_noticed() -> None:
    source = 'def f(): ...\ndef g():\n    """G."""\nA = 1\nB = 2\n"""B."""\nC: int = 3\n"""C."""\nclass D: ...\n'
    assert described(source) == {"g", "B", "C"}


def test_every_public_name_is_there() -> None:
    for name in il.__all__:
        assert hasattr(il, name), name
    assert len(set(il.__all__)) == len(il.__all__)


def test_no_name_is_missing_from_the_list() -> None:
    assert imported((ROOT / "__init__.py").read_text()) == set(il.__all__)


def test_nothing_else_is_reachable() -> None:
    """Besides its modules, which importing makes attributes."""
    extra = {
        name
        for name, value in vars(il).items()
        if not name.startswith("_") and name not in il.__all__ and not isinstance(value, types.ModuleType)
    }
    assert not extra


def test_every_method_is_public() -> None:
    assert il.METHODS.keys() <= set(il.__all__)
    assert {"maml", "fomaml", "reptile"} <= il.METHODS.keys()


@pytest.mark.parametrize("module", CORE)
def test_what_a_module_lists_it_has_and_documents(module: str) -> None:
    loaded = importlib.import_module(module)
    source = Path(loaded.__file__).read_text()
    assert loaded.__doc__, f"{module} has no docstring"
    if len(ast.parse(source).body) == 1:
        return  # a package that groups modules, and nothing else
    assert loaded.__all__, f"{module} lists no names"
    own = described(source)
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if isinstance(value, types.ModuleType):
            assert value.__doc__
        elif name not in imported(source):
            assert name in own, f"{module}.{name} has no docstring"


@pytest.mark.parametrize("name", il.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(il, name)
    if isinstance(value, dict):
        return  # documented where it is assigned, as the test above sees
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        return
    for member, thing in vars(value).items():
        function = thing.fget if isinstance(thing, property) else getattr(thing, "__func__", thing)
        if not member.startswith("_") and isinstance(function, types.FunctionType):
            assert function.__doc__, f"{name}.{member} has no docstring"


@pytest.mark.parametrize("name", sorted(il.METHODS))
def test_every_method_documents_its_arguments(name: str) -> None:
    document = inspect.getdoc(il.METHODS[name])
    for part in ("Args:", "Raises:", "Example:", "References:"):
        assert part in document, part
    for argument in inspect.signature(il.METHODS[name]).parameters:
        assert f"{argument}: " in document, argument
