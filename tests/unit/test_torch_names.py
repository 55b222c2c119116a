"""The private names of PyTorch: all in one module, each with a slower way that gives the same numbers."""

from __future__ import annotations

import ast
import re
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, image_episode
from torch import nn

import innerloop
import innerloop as il
from innerloop.engine import _torch, pytree
from innerloop.engine.engine import Engine
from innerloop.engine.kernels import why_no_kernels as kernels_missing
from innerloop.inner import layers

ROOT = Path(innerloop.__file__).parent
HOME = ROOT / "engine" / "_torch.py"
UNDOCUMENTED = {"torch.fx.experimental", "torch.multiprocessing.reductions"}
OF_PYTHON = {"_replace", "_asdict", "_fields", "_make"}  # documented, of named tuples


def own_names(trees: list[ast.AST]) -> set[str]:
    """The private names that the package itself defines."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def private_names(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private and undocumented names of others that a source reads."""
    known = own | OF_PYTHON | {path.stem for path in ROOT.rglob("_*.py")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            base = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                private = any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
                if name.startswith("torch") and (private or any(name.startswith(there) for there in UNDOCUMENTED)):
                    yield name
        elif isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and node.attr not in known:
            yield node.attr


def parsed() -> dict[Path, ast.AST]:
    return {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def test_private_names_are_read_in_one_module_only() -> None:
    trees = parsed()
    own = own_names([tree for path, tree in trees.items() if path != HOME])
    found = {str(path.relative_to(ROOT)): set(private_names(tree, own)) for path, tree in trees.items()}
    assert found.pop("engine/_torch.py"), "the test finds none where they are"
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from torch.utils import _pytree",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch._dynamo",
        "from torch.fx.experimental.proxy_tensor import make_fx",
        "from torch.multiprocessing.reductions import StorageWeakRef",
        "x = torch._C.something",
        "x = tensor._use_count()",
        "def f(function):\n    return function._op",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert list(private_names(ast.parse(source), {"_own"}))
    assert not list(private_names(ast.parse("from torch import nn\nx = self._own.weight.__dict__"), {"_own"}))


@pytest.mark.parametrize("part", _torch.PARTS)
def test_this_release_has_every_part(part: str) -> None:
    assert _torch.missing(part) is None
    assert _torch.has(part)


@pytest.mark.parametrize(
    ("part", "name", "does"),
    [
        ("vmap", "mapped_axis", lambda x: 0),
        ("vmap", "beneath", lambda x: x),
        ("vmap", "transforms", lambda: []),
        ("passes", "current_pass", lambda: 7),
        ("passes", "pass_reaches", lambda node: True),
        ("modes", "dispatch_modes", lambda: [None]),
        ("tracing", "_tracer", lambda: "a tracer"),
        ("threads", "_function_modes", lambda: 0),
        ("threads", "_saves_by_hooks", lambda: False),
        ("recording", "storage_id", id),
        ("recording", "written_arguments", lambda overload: []),
    ],
)
def test_a_name_that_does_something_else_counts_as_missing(
    part: str, name: str, does: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _torch._finding(part) is None
    monkeypatch.setattr(_torch, name, does)
    assert "is not what it was" in _torch._finding(part) or "Error" in _torch._finding(part)


NAMES = {
    "vmap": [
        *("transforms", "by_vmap", "is_mapped", "mapped_level", "mapped_axis"),
        *("beneath", "mapped_again", "without_transforms"),
    ],
    "passes": ["current_pass", "pass_reaches"],
    "modes": ["dispatch_modes"],
    "uses": [],
    "tracing": ["trace", "_tracer"],
    "threads": ["_function_modes", "_operation_modes"],
    "recording": ["StorageRef", "storage_id", "operation", "tensor_arguments", "written_arguments"],
}
"""What is not read any more without a part."""


@pytest.fixture
def without(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch without the names of a part, so that who reads one all the same fails."""
    monkeypatch.setattr(_torch, "taken_away", {part})
    for name in NAMES[part]:
        monkeypatch.delattr(_torch, name)


def meta_gradients(execution: int, calls: int = 8, replay: str = "auto") -> list[dict[str, torch.Tensor]]:
    """Of an engine that is called again and again: of a network in which every kind of kernel takes part."""
    torch.manual_seed(0)
    block = [nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), *block, nn.Conv2d(4, 4, 3), *block, nn.Flatten(), nn.Linear(100, 5)
    ).double()
    engine = Engine(net, F.cross_entropy, execution=execution, replay=replay)
    method, found = il.maml(inner_lr=0.1, inner_steps=2), []
    for call in range(calls):
        episode = image_episode(tasks=2, seed=call)
        found.append(engine.meta_gradient(method, episode)[0])
    return found


@pytest.fixture(scope="module")
def ordinary() -> list[dict[str, torch.Tensor]]:
    return meta_gradients(1)


@pytest.mark.parametrize("part", _torch.PARTS)
@pytest.mark.usefixtures("without")
def test_without_a_part_the_numbers_are_the_same(part: str, ordinary: list[dict[str, torch.Tensor]]) -> None:
    assert not _torch.has(part)
    for actual, expected in zip(meta_gradients(2), ordinary, strict=True):
        assert_same(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("part", ["tracing"])
@pytest.mark.usefixtures("without")
def test_without_tracing_nothing_is_compiled(part: str) -> None:
    net, method = nn.Linear(3, 2).double(), il.maml(inner_lr=0.1)
    x, y = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 2, dtype=torch.float64)
    episode = il.Episode(x, y, x, y)
    engine = Engine(net, F.mse_loss, compile=True)
    engine.meta_gradient(method, episode)  # is not compiled yet
    with pytest.warns(UserWarning, match="cannot be compiled"):
        actual = engine.meta_gradient(method, episode)[0]
    assert_same(actual, il.meta_gradient(net, method, episode, F.mse_loss)[0])


@pytest.mark.skipif(kernels_missing() is not None, reason=f"no kernels: {kernels_missing()}")
def test_with_every_part_the_kernels_and_the_recordings_are_used(ordinary: list[dict[str, torch.Tensor]]) -> None:
    """What the tests above take away is otherwise taken."""
    seen: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mapped_again", "pass_reaches", "dispatch_modes", "uses", "traced", "storage_id"):
            real = getattr(_torch, name)
            patch.setattr(_torch, name, lambda *given, name=name, real=real: (seen.add(name), real(*given))[1])
        actual = meta_gradients(2, replay="always")  # since what stands in for PyTorch's names is not known to be pure
    assert seen == {"mapped_again", "pass_reaches", "dispatch_modes", "uses", "traced", "storage_id"}
    for one, other in zip(actual, ordinary, strict=True):
        assert_same(one, other, rtol=1e-9, atol=1e-11)


def test_kinds_of_layers_are_told_without_private_names() -> None:
    """A batch norm of another library, derived from PyTorch's private class, is one too."""
    base = nn.BatchNorm2d.__mro__[1]
    other = type("Other", (base,), {"_check_input_dim": lambda self, x: None})(3)
    assert isinstance(other, layers.BATCH_NORMS)
    assert not isinstance(nn.InstanceNorm2d(3), layers.BATCH_NORMS)
    assert isinstance(nn.InstanceNorm2d(3), layers.NORMS)
    assert not any(isinstance(layer, layers.NORMS) for layer in (nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.Linear(1, 1)))


def test_where_the_kinds_have_nothing_in_common_they_are_listed() -> None:
    assert layers._common(nn.Linear, nn.Conv2d) == (nn.Linear, nn.Conv2d)


def test_the_dictionary_of_parameters_is_the_layers_own() -> None:
    layer = nn.BatchNorm1d(2)
    assert layers.registered_parameters(layer).keys() == {"weight", "bias"}
    layers.registered_parameters(layer)["bias"] = None
    assert layer.bias is None


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "nested", [1, None, (), {}, {"b": 1, "a": [2, (3, None)]}, Pair({"x": 1}, []), [Pair(1, Pair(2, 3)), {1: {2: 3}}]]
)
def test_nested_values_come_back(nested: Any) -> None:
    leaves, spec = pytree.tree_flatten(nested)
    back = pytree.tree_unflatten(leaves, spec)
    assert back == nested
    assert repr(back) == repr(nested)  # types and the order of keys
    assert hash(spec) == hash(pytree.tree_flatten(nested)[1])
    assert spec == pytree.tree_flatten(nested)[1]
    assert leaves == pytree.tree_leaves(nested)


def test_structures_are_told_apart() -> None:
    all_of_them = [1, [1], (1,), [1, 1], [[1]], {"a": 1}, {"b": 1}, {"a": [1]}, Pair(1, 1), (1, 1), {}, [], ()]
    specs = [pytree.tree_flatten(nested)[1] for nested in all_of_them]
    assert len(set(specs)) == len(specs)


@pytest.mark.parametrize("given", [[1], [1, 2, 3]])
def test_the_number_of_leaves_is_checked(given: list[int]) -> None:
    _, spec = pytree.tree_flatten((1, [2]))
    with pytest.raises(ValueError, match="leaves"):
        pytree.tree_unflatten(given, spec)
