"""The layer rule: a module imports only from lower layers, so that the loop never knows of what is built on it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import innerloop

ROOT = Path(innerloop.__file__).parent

# A unit is a top-level module or a package. It may import the units before it, and its own modules.
HOUSE: list[str] = [
    *("display", "extras", "folders", "params", "randomness", "episode", "particles", "parts"),
    *("rules", "inner", "metagrad", "methods"),
    *("engine", "evaluation", "learner", "training", "plots", "hub", "sklearn"),
]
FIRST_ROW = set(HOUSE[: HOUSE.index("rules")])
LEAVES = {"nets", "data"}  # may import the first row; only what comes after the engine may import them
OUTSIDE = {"recipes", "bench", "cli", "demo", "export", "__main__"}  # may import everything
THIRD_PARTY = {
    "core": {"torch", "numpy"},
    "nets": {"torch"},
    "data": {"torch", "numpy", "PIL", "pyarrow", "tqdm"},  # images are read and archives downloaded, with a bar
    "top": {"torch", "numpy", "safetensors", "tqdm", "tensorboard", "wandb", "sklearn", "huggingface_hub"},
    "plots": {"torch", "matplotlib"},
}


def place(unit: str) -> int | None:
    """The position of a unit in the house."""
    return HOUSE.index(unit) if unit in HOUSE else None


def imports(source: str, module: str, *, package: bool = False) -> list[str]:
    """Everything that a module's source imports, at its top or within functions, as absolute dotted names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + package]
                base = ".".join([*parts, base]).rstrip(".")
            # ``from innerloop import x`` may mean a module x, ``from innerloop.a import x`` only what a defines.
            found += [f"{base}.{alias.name}" for alias in node.names] if base == "innerloop" else [base]
    return found


def violations(module: str, source: str, *, package: bool = False) -> list[str]:
    """What a module imports and must not."""
    unit = module.split(".")[1]
    if unit in OUTSIDE:
        return []
    at = place(unit)
    if at is None and unit not in LEAVES:
        return [f"{module} has no layer; give it one in {Path(__file__).name} and in the design"]
    wrong = []
    for name in imports(source, module, package=package):
        first, *rest = name.split(".")
        if first != "innerloop":
            kind = unit if unit in THIRD_PARTY else "top" if at > HOUSE.index("engine") else "core"
            if first not in sys.stdlib_module_names and first not in THIRD_PARTY[kind]:
                wrong.append(f"{module} imports {name}")
            continue
        other = rest[0] if rest else ""
        there = place(other)
        if other == unit:
            continue
        if at is None:
            fine = other in FIRST_ROW
        elif other in LEAVES:
            fine = at > HOUSE.index("engine")
        else:
            fine = there is not None and there < at
        if not fine:
            wrong.append(f"{module} imports {name}")
    return wrong


def modules() -> list[tuple[str, Path]]:
    files = sorted(ROOT.rglob("*.py"))
    return [
        (".".join(["innerloop", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"), file)
        for file in files
        if file != ROOT / "__init__.py"
    ]


@pytest.mark.parametrize(("module", "file"), modules(), ids=[name for name, _ in modules()])
def test_a_module_imports_only_from_lower_layers(module: str, file: Path) -> None:
    assert violations(module, file.read_text(), package=file.name == "__init__.py") == []


def test_every_unit_of_the_house_exists() -> None:
    for unit in [*HOUSE, *LEAVES]:
        assert (ROOT / f"{unit}.py").is_file() or (ROOT / unit / "__init__.py").is_file(), unit


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("innerloop.episode", "from innerloop.inner.loop import unroll"),
        ("innerloop.episode", "import innerloop"),
        ("innerloop.episode", "from innerloop import maml"),
        ("innerloop.params", "def f():\n    import innerloop.training.trainer"),
        ("innerloop.rules.sgd", "from innerloop.inner.model import Norm"),
        ("innerloop.inner.loop", "if TYPE_CHECKING:\n    from innerloop.metagrad import Info"),
        ("innerloop.metagrad.base", "from ..methods import maml"),
        ("innerloop.inner.loop", "from innerloop.engine.engine import Engine"),
        ("innerloop.rules.sgd", "import innerloop.engine"),
        ("innerloop.engine.engine", "from innerloop.nets import conv4"),
        ("innerloop.engine.engine", "import safetensors"),
        ("innerloop.evaluation.evaluate", "from innerloop.training.trainer import MetaTrainer"),
        ("innerloop.training.trainer", "from innerloop.cli.main import main"),
        ("innerloop.nets.conv4", "from innerloop.inner.model import Norm"),
        ("innerloop.data.images", "from innerloop.nets import conv4"),
        ("innerloop.data.images", "import tyro"),
        ("innerloop.nets.mlp", "import numpy as np"),
        ("innerloop.surprise", ""),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "innerloop.inner.loop",
            "from innerloop.inner.adaptation import Adaptation\nimport math\nimport torch.nn as nn",
        ),
        ("innerloop.metagrad.unrolled", "from innerloop.metagrad.base import Info\nfrom .base import Info"),
        (
            "innerloop.training.trainer",
            "from innerloop.learner.learner import Learner\nfrom innerloop.nets import NETS",
        ),
        ("innerloop.nets.mlp", "from torch import nn\nfrom innerloop.params import Params"),
        ("innerloop.cli.main", "import tyro\nfrom innerloop import maml"),
    ],
)
def test_an_allowed_import_is_not(module: str, source: str) -> None:
    assert violations(module, source) == []


# Re-exports: a name has one home, and the only other place to find it is ``innerloop`` itself.


def reexports(source: str, module: str, *, package: bool = False) -> list[str]:
    """Names in ``__all__`` that the module has from outside its own package."""
    tree, home = ast.parse(source), ".".join(module.split(".")[:2]) if package or module.count(".") > 1 else None
    foreign = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            within = node.level > 0 or (home is not None and (base + ".").startswith(home + "."))
            foreign |= set() if within else {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            foreign |= {alias.asname or alias.name for alias in node.names}
    return sorted(foreign & set(listed(tree)))


def listed(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


@pytest.mark.parametrize(("module", "file"), modules(), ids=[name for name, _ in modules()])
def test_only_the_package_itself_re_exports(module: str, file: Path) -> None:
    assert reexports(file.read_text(), module, package=file.name == "__init__.py") == []


def test_a_re_export_is_found() -> None:
    assert reexports("from innerloop.params import Params\n__all__ = ['Params']", "innerloop.inner.loop") == ["Params"]
    assert reexports("from torch import nn\n__all__ = ['nn']", "innerloop.nets", package=True) == ["nn"]
    assert not reexports("from innerloop.params import Params\n__all__ = ['unroll']", "innerloop.inner.loop")
    assert not reexports("from innerloop.rules.sgd import sgd\n__all__ = ['sgd']", "innerloop.rules", package=True)
