"""Every shape of tile gives the same bits and the right ones; which one serves is found out once and kept."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_helpers import rng
from torch import Tensor

from innerloop.engine.kernels import library, shapes
from innerloop.engine.kernels.convolution import Window
from innerloop.engine.kernels.layout import channels_last

NAMES = ["first", "second", "third"]

CASES = {  # images, channels in, channels out, size, kernel, stride, padding, dilation
    "omniglot's first": (5, 1, 64, 28, 3, 2, 1, 1),
    "omniglot's second": (5, 64, 64, 14, 3, 2, 1, 1),
    "omniglot's last": (3, 64, 64, 4, 3, 2, 1, 1),
    "one image": (1, 32, 48, 9, 3, 1, 1, 1),
    "odd channels": (4, 13, 19, 7, 3, 1, 1, 1),
    "odd channels, stride": (4, 5, 33, 8, 3, 2, 1, 1),
    "colours": (2, 3, 32, 21, 3, 1, 1, 1),
    "one channel": (2, 1, 1, 6, 3, 1, 0, 1),
    "point": (3, 17, 16, 5, 1, 1, 0, 1),
    "dilated": (2, 12, 80, 9, 3, 1, 2, 2),
    "large kernel": (2, 16, 24, 11, 5, 3, 2, 1),
}


@pytest.fixture
def compiled() -> Iterator[CDLL]:
    found = library.kernels()
    if found is None:
        pytest.skip("no kernels")
    try:
        yield found
    finally:
        path = Path(found._name).with_suffix(".shape")
        shapes.choose_shape(found, path)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shared", [False, True])
def test_all_shapes_give_the_same_bits(compiled: CDLL, case: tuple[int, ...], shared: bool) -> None:
    inputs = made(case, shared, torch.float32)
    expected = reference(case, *(t.double() for t in inputs))
    found = []
    for shape in range(len(shapes.shape_names(compiled))):
        compiled.choose_shape_float(shape)
        found.append(products(case, shared, *inputs))
    for results in found:
        for result, first, right in zip(results, found[0], expected, strict=True):
            assert torch.equal(result, first)
            torch.testing.assert_close(result.double(), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_doubles(compiled: CDLL, case: tuple[int, ...]) -> None:
    inputs = made(case, False, torch.float64)
    for result, right in zip(products(case, False, *inputs), reference(case, *inputs), strict=True):
        torch.testing.assert_close(result, right, rtol=1e-11, atol=1e-11)


def test_the_fastest_is_one_of_them(compiled: CDLL) -> None:
    count = len(shapes.shape_names(compiled))
    assert count >= 2
    assert 0 <= shapes.fastest(compiled, count) < count


def test_a_shape_is_found_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "kernels.shape"
    assert shapes.kept(file, NAMES, lambda: "second") == "second"
    assert shapes.kept(file, NAMES, unwanted) == "second"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"[]", b"3", b'{"shape": "fourth"}', b'{"shape": ["first"]}']
)
def test_a_damaged_choice_is_made_again(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "kernels.shape"
    file.write_bytes(content)
    assert shapes.kept(file, NAMES, lambda: "third") == "third"
    assert shapes.kept(file, NAMES, unwanted) == "third"


def test_of_two_processes_the_first_to_write_decides(tmp_path: Path) -> None:
    file = tmp_path / "kernels.shape"

    def slow() -> str:
        assert shapes.kept(file, NAMES, lambda: "third") == "third"
        return "second"

    assert shapes.kept(file, NAMES, slow) == "third"
    assert shapes.kept(file, NAMES, unwanted) == "third"


def test_without_a_folder_to_write_to_the_first_serves(tmp_path: Path) -> None:
    assert shapes.kept(tmp_path / "nowhere" / "kernels.shape", NAMES, unwanted) == "first"


def unwanted() -> str:
    raise AssertionError("timed although it is of no use")


def made(case: tuple[int, ...], shared: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weights and output gradients of three tasks."""
    images, inside, out, size, kernel, stride, padding, dilation = case
    side = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    sizes = [(3, images, inside, size, size), (1 if shared else 3, out, inside, kernel, kernel)]
    x, w, g = (
        torch.randn(s, generator=rng(i), dtype=dtype) for i, s in enumerate([*sizes, (3, images, out, side, side)])
    )
    return x, w, g


def products(case: tuple[int, ...], shared: bool, x: Tensor, w: Tensor, g: Tensor) -> list[Tensor]:
    """The output, the input's gradient and each task's weights' gradient, by the kernels."""
    images, inside, out, size, kernel, stride, padding, dilation = case
    window = Window(*((n, n) for n in (kernel, stride, padding, dilation)))

    def geometry(shared: bool) -> Any:
        return window.geometry(3, images, (size, size), (inside, out), shared)

    weights, rows, slopes = w.permute(0, 3, 4, 2, 1).contiguous(), channels_last(x), channels_last(g)
    y, gx, gw = (
        torch.full(t.shape, torch.nan, dtype=x.dtype) for t in (slopes, rows, weights.expand(3, -1, -1, -1, -1))
    )
    library.call("convolve", x.dtype, geometry(shared), rows, weights, y)
    library.call("input_gradient", x.dtype, geometry(shared), slopes, weights, gx)
    library.call("weight_gradient", x.dtype, geometry(False), rows, slopes, gw)
    return [y.movedim(-1, -3), gx.movedim(-1, -3), gw.permute(0, 4, 3, 1, 2)]


def reference(case: tuple[int, ...], x: Tensor, w: Tensor, g: Tensor) -> list[Tensor]:
    """The same by PyTorch, one task after another."""
    options = dict(zip(("stride", "padding", "dilation"), case[5:], strict=True))
    results = []
    for task in range(3):
        images, weights = x[task].requires_grad_(), w[task % len(w)].detach().requires_grad_()
        y = F.conv2d(images, weights, **options)
        results.append((y.detach(), *torch.autograd.grad(y, (images, weights), g[task])))
    return [torch.stack(parts) for parts in zip(*results, strict=True)]
