"""The compiled kernels: values and derivatives against PyTorch's, how they are reached, and life without them."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same
from processes import start_program
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import innerloop as il
from innerloop.engine.kernels import library, taskwise, why_no_kernels
from innerloop.engine.kernels.convolution import Window, convolve
from innerloop.engine.kernels.normalisation import batch_norm, started
from innerloop.engine.kernels.pooled import max_pooled
from innerloop.engine.kernels.pooling import max_pool
from innerloop.inner.private import levels

needs_kernels = pytest.mark.skipif(why_no_kernels() is not None, reason=f"no kernels: {why_no_kernels()}")
CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Distinct normal numbers, as leaves."""
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()


def test_there_are_kernels_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))) or os.environ.get(library.SWITCH):
        pytest.skip("no C compiler, or switched off")
    assert why_no_kernels() is None


WINDOWS = [
    Window((3, 3), (1, 1), (1, 1), (1, 1)),
    Window((3, 3), (2, 2), (1, 1), (1, 1)),
    Window((3, 2), (1, 3), (0, 1), (1, 1)),
    Window((2, 2), (3, 1), (2, 0), (1, 2)),
    Window((1, 1), (2, 2), (0, 0), (1, 1)),
]


@needs_kernels
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("channels_in", "channels_out"), [(1, 3), (5, 9), (16, 8)])
def test_convolution_and_both_its_derivatives(window: Window, channels_in: int, channels_out: int) -> None:
    x, w = numbers(2, 3, channels_in, 5, 6), numbers(2, channels_out, channels_in, *window.kernel)
    expected = torch.stack([F.conv2d(x[i], w[i], None, window.stride, window.padding, window.dilation) for i in (0, 1)])
    torch.testing.assert_close(convolve(x, w, window), expected)
    u = numbers(*expected.shape).detach()
    first = torch.autograd.grad((convolve(x, w, window) * u).sum(), (x, w), create_graph=True)
    right = torch.autograd.grad((expected * u).sum(), (x, w), create_graph=True)
    second, right_second = (
        torch.autograd.grad(sum((g * g.sin()).sum() for g in grads), (x, w)) for grads in (first, right)
    )
    torch.testing.assert_close((*first, *second), (*right, *right_second))


@needs_kernels
@pytest.mark.parametrize("channels", [16, 5])
def test_many_images_are_padded_a_few_at_a_time(channels: int) -> None:
    x, w = numbers(2, 23, channels, 20, 20), numbers(2, 8, channels, 3, 3)
    window = Window((3, 3), (2, 2), (1, 1), (1, 1))
    outputs = [convolve(x, w, window), torch.stack([F.conv2d(x[i], w[i], stride=2, padding=1) for i in (0, 1)])]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), (x, w)) for y in outputs))


@needs_kernels
def test_convolution_numerically_to_second_order() -> None:
    window = Window((2, 2), (2, 1), (1, 0), (1, 1))
    inputs = numbers(2, 1, 2, 3, 3), numbers(2, 2, 2, 2, 2)
    assert gradcheck(lambda x, w: convolve(x, w, window), inputs)
    assert gradgradcheck(lambda x, w: convolve(x, w, window), inputs)


@needs_kernels
@pytest.mark.parametrize("weights", [(1,), (4,)])
@pytest.mark.parametrize("queries", [1, 3])
def test_weights_may_be_shared_by_an_axis_of_tasks(weights: tuple[int, ...], queries: int) -> None:
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    x, w = numbers(4, queries, 2, 2, 4, 4), numbers(*weights, 1, 3, 2, 3, 3)
    apart = convolve(x, w.expand(4, queries, *w.shape[2:]).clone(), window)
    together = convolve(x, w, window)
    torch.testing.assert_close(together, apart)
    for output in (together, apart):
        output.pow(3).sum().backward()
    torch.testing.assert_close(
        *(
            torch.autograd.grad(f(), w)[0]
            for f in (
                lambda: convolve(x, w, window).pow(2).sum(),
                lambda: convolve(x, w.expand(4, queries, *w.shape[2:]).clone(), window).pow(2).sum(),
            )
        )
    )


def reference_norm(x: Tensor, scale: Tensor | None, shift: Tensor | None, *, relu: bool) -> Tensor:
    """From first principles, since PyTorch's own has no right third derivative."""
    dims = [1, *range(3, x.ndim)]
    centred = x - x.mean(dims, keepdim=True)
    y = centred / (centred.pow(2).mean(dims, keepdim=True) + 1e-3).sqrt()
    extend = (slice(None), None, slice(None), *(None,) * (x.ndim - 3))
    y = y if scale is None else y * scale[extend]
    y = y if shift is None else y + shift[extend]
    return y.relu() if relu else y


def normalise(x: Tensor, scale: Tensor | None, shift: Tensor | None, *, relu: bool) -> Tensor:
    spatial = x.ndim - 3
    y, write = batch_norm(started(x, scale, shift, 1e-3, spatial), relu=relu)
    write()
    return y


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 9, 2), (2, 90, 17, 2, 1)])
@pytest.mark.parametrize("affine", ["both", "scale", "shift", "neither"])
def test_batch_norm_to_third_order(shape: tuple[int, ...], affine: str, relu: bool) -> None:
    x = numbers(*shape)
    scale = numbers(2, shape[2], seed=1) if affine in ("both", "scale") else None
    shift = numbers(2, shape[2], seed=2) if affine in ("both", "shift") else None
    inputs = [t for t in (x, scale, shift) if t is not None]
    results = []
    for norm in (normalise, reference_norm):
        y = norm(x, scale, shift, relu=relu)
        derivatives = [y]
        for order in range(3):
            value = sum((0.3 * t).tanh().sum() for t in derivatives[-len(inputs) :] if t is not None)
            found = torch.autograd.grad(value, inputs, create_graph=order < 2, allow_unused=True)
            derivatives += [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]
        results.append(derivatives)
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-8)


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_numerically_to_second_order(relu: bool) -> None:
    inputs = numbers(2, 3, 2, 2), numbers(2, 2, seed=1), numbers(2, 2, seed=2)
    assert gradcheck(lambda *t: normalise(*t, relu=relu), inputs)
    assert gradgradcheck(lambda *t: normalise(*t, relu=relu), inputs)


@needs_kernels
def test_batch_norm_of_numbers_far_from_zero_keeps_its_digits() -> None:
    x = (numbers(1, 400, 3, 5, 5) * 0.1 + 1000).float()
    expected = F.batch_norm(x[0].double(), None, None, training=True, eps=1e-3)
    torch.testing.assert_close(normalise(x, None, None, relu=False)[0].double(), expected, rtol=0, atol=2e-3)


@needs_kernels
@pytest.mark.parametrize(
    "window",
    [
        Window((2, 2), (2, 2), (0, 0), (1, 1)),
        Window((3, 3), (2, 2), (1, 1), (1, 1)),
        Window((3, 2), (1, 1), (1, 0), (2, 1)),
    ],
    ids=str,
)
def test_max_pooling_and_its_derivatives(window: Window) -> None:
    x = numbers(2, 3, 5, 7, 6)
    options = (window.kernel, window.stride, window.padding, window.dilation)
    outputs = [max_pool(x, window), torch.stack([F.max_pool2d(t, *options) for t in x])]
    torch.testing.assert_close(*outputs)
    firsts = [torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0] for y in outputs]
    seconds = [torch.autograd.grad(first.pow(2).sum(), x)[0] for first in firsts]
    torch.testing.assert_close(firsts[0], firsts[1])
    torch.testing.assert_close(*seconds)


def pooled(x: Tensor, scale: Tensor | None, shift: Tensor | None, window: Window) -> Tensor:
    return max_pooled(started(x, scale, shift, 1e-3, 2), window)


def reference_pooled(x: Tensor, scale: Tensor | None, shift: Tensor | None, window: Window) -> Tensor:
    return torch.stack([F.max_pool2d(t, window.kernel) for t in reference_norm(x, scale, shift, relu=True)])


@needs_kernels
@pytest.mark.parametrize("size", [(2, 4), (5, 7)])
@pytest.mark.parametrize("affine", ["both", "neither"])
def test_batch_norm_with_relu_and_pooling_to_third_order(size: tuple[int, int], affine: str) -> None:
    window = Window((2, 3), (2, 3), (0, 0), (1, 1))
    x = numbers(2, 3, 9, *size)
    inputs = [x, *((numbers(2, 9, seed=1), numbers(2, 9, seed=2)) if affine == "both" else ())]
    scale, shift = inputs[1:] or (None, None)
    results = []
    for function in (pooled, reference_pooled):
        derivatives = [function(x, scale, shift, window)]
        for order in range(3):
            value = sum((0.3 * t).tanh().sum() for t in derivatives[-len(inputs) :])
            derivatives += torch.autograd.grad(value, inputs, create_graph=order < 2)
        results.append(derivatives)
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-8)


@needs_kernels
@pytest.mark.parametrize("pool", [False, True])
def test_batch_norm_in_stripes_of_every_width(pool: bool) -> None:
    window = Window((2, 2), (2, 2), (0, 0), (1, 1))
    wide = [numbers(2, 3, 117, 5, 6), numbers(2, 117, seed=1), numbers(2, 117, seed=2)]
    results = []
    for inputs in (wide, [t.detach().float().requires_grad_() for t in wide]):
        y = pooled(*inputs, window) if pool else normalise(*inputs, relu=True)
        first = torch.autograd.grad(y.pow(2).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(t.pow(2).mean() for t in first), inputs)
        results.append([t.double() for t in (y, *first, *second)])
    for narrow, exact in zip(*results[::-1], strict=True):
        assert (narrow - exact).abs().max() < 1e-4 * exact.abs().max()


@needs_kernels
def test_pooling_after_batch_norm_passes_on_what_is_not_a_number() -> None:
    x = torch.randn(1, 2, 1, 2, 4)
    x[0, 0, 0, 0, 0] = torch.nan
    assert pooled(x, None, None, Window((2, 2), (2, 2), (0, 0), (1, 1))).isnan().all()


def swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    seen_by_torchscript_alone = torch.jit.script(swish)


class Entered(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def leaving_a_mode(norm: nn.Module, x: Tensor) -> Tensor:
    with Entered():
        y = norm(x)
    return y.sin()


def entering_a_mode(norm: nn.Module, x: Tensor) -> Tensor:
    y = norm(x)
    with Entered():
        z = y.relu().sin()
    return z + y


def again(norm: nn.Module, x: Tensor) -> Tensor:
    y = norm(x)
    z = y.relu()
    return F.max_pool2d(z, 2).sum() + z.sin() + y


def changed_in_place(norm: nn.Module, x: Tensor) -> Tensor:
    y = norm(x)
    y += 1
    return y.relu().sin()


USES: list[Callable[[nn.Module, Tensor], Tensor]] = [
    lambda norm, x: norm(x),
    lambda norm, x: norm(x).relu(),
    lambda norm, x: F.relu(norm(x), inplace=True),
    lambda norm, x: F.max_pool2d(norm(x), 2),
    lambda norm, x: F.max_pool2d(norm(x).relu(), 2),
    lambda norm, x: F.max_pool2d(norm(x).relu(), 3, 1),
    lambda norm, x: seen_by_torchscript_alone(norm(x)),
    lambda norm, x: seen_by_torchscript_alone(norm(x).relu()),
    lambda norm, x: vmap(lambda t: norm(t[None]), randomness="different")(x).cos(),
    lambda norm, x: vmap(lambda t: norm(t[None]).relu())(x).cos(),
    leaving_a_mode,
    entering_a_mode,
    again,
    changed_in_place,
]


@needs_kernels
@pytest.mark.parametrize("use", USES, ids=[str(i) for i in range(len(USES))])
def test_an_output_is_written_whatever_looks_at_it(use: Callable[[nn.Module, Tensor], Tensor]) -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False).double()
    x = numbers(2, 4, 3, 4, 6)
    before = _get_current_dispatch_mode_stack()
    with taskwise(CPU):
        mapped = vmap(lambda t: use(norm, t))(x)
    assert before == _get_current_dispatch_mode_stack()
    looped = torch.stack([use(norm, t) for t in x])
    torch.testing.assert_close(mapped, looped)
    inputs = (x, norm.weight, norm.bias)
    torch.testing.assert_close(*(torch.autograd.grad(y.pow(3).sum(), inputs) for y in (mapped, looped)))


@needs_kernels
def test_an_output_that_nothing_looks_at_is_not_written(calls: list[str]) -> None:
    block = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2))
    with taskwise(CPU):
        vmap(lambda t: block(t).sum())(torch.randn(2, 4, 3, 4, 6))
        assert calls == ["normalise_pool"]
        vmap(lambda t: block[:2](t).sum())(torch.randn(2, 4, 3, 4, 6))
        assert calls == ["normalise_pool", "normalise"]


@needs_kernels
def test_max_pooling_passes_on_what_is_not_a_number() -> None:
    x = torch.zeros(1, 1, 1, 2, 4)
    x[..., 0, 0] = torch.nan
    pooled = max_pool(x, Window((2, 2), (2, 2), (0, 0), (1, 1)))
    assert pooled.isnan().flatten().tolist() == [True, False]


class Residual(nn.Module):
    """Uses the output of its norm twice, and ReLU in both forms; then a block of the usual kind."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.block = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(self.stem(x)))
        z = F.relu(y, inplace=self.inplace) + 2 * y
        return self.head(self.block(F.max_pool2d(torch.relu(z), 2, stride=1)).mean((2, 3)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels called."""
    seen: list[str] = []
    for key, function in list(library._functions.items()):

        def counted(*args: object, _name: str = key[0], _function: Callable[..., object] = function) -> object:
            seen.append(_name)
            return _function(*args)

        monkeypatch.setitem(library._functions, key, counted)
    return seen


def tasks(dtype: torch.dtype = torch.float64, count: int = 4) -> il.Episode:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 9, 1, 8, 8, generator=g, dtype=torch.float64).to(dtype)
    y = torch.arange(9).remainder(3).expand(count, 9)
    return il.Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])


@needs_kernels
@pytest.mark.parametrize("inplace", [False, True])
def test_an_unmodified_module_reaches_the_kernels(inplace: bool, calls: list[str]) -> None:
    net = Residual(inplace=inplace).double()
    serial = il.meta_gradient(net, il.maml(0.1, 2), tasks(), execution="serial")[0]
    assert not calls
    batched = il.meta_gradient(net, il.maml(0.1, 2), tasks(), execution="batched")[0]
    assert_same(batched, serial)
    assert set(calls) == {name for name, _ in library._functions}


@needs_kernels
@pytest.mark.parametrize("own", [True, False], ids=["of the library's own", "of the model's"])
def test_the_kernels_see_a_nested_vmap_of_the_librarys_own_only(own: bool, calls: list[str]) -> None:
    net = Residual(inplace=False).double()
    x = numbers(2, 3, 4, 1, 8, 8).detach()
    params = {n: torch.stack([p, 2 * p]).detach() for n, p in net.named_parameters()}
    for norm in (net.norm, net.block[0]):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False

    def one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        def inner(t: Tensor) -> Tensor:
            with levels.one_deeper() if own else contextlib.nullcontext():
                return functional_call(net, params, (t,))

        return vmap(inner)(x)

    with taskwise(CPU):
        mapped = vmap(one)(params, x)
    assert ("convolve" in calls) == own
    assert own or not calls
    rows = [[functional_call(net, {n: p[i] for n, p in params.items()}, (t,)) for t in x[i]] for i in (0, 1)]
    looped = torch.stack([torch.stack(row) for row in rows])
    torch.testing.assert_close(mapped, looped)


@needs_kernels
def test_other_transforms_are_left_to_torch(calls: list[str]) -> None:
    x, w = numbers(2, 1, 1, 4, 4).detach(), numbers(2, 1, 1, 3, 3).detach()
    with taskwise(CPU):
        grads = vmap(torch.func.grad(lambda w, x: F.conv2d(x, w).pow(2).sum()))(w, x)
        F.conv2d(x[0], w[0])
    assert not calls
    assert grads.shape == w.shape


@needs_kernels
def test_a_graph_is_traced_without_the_kernels_which_it_could_not_see(calls: list[str]) -> None:
    def mapped(x: Tensor, w: Tensor) -> Tensor:
        with taskwise(CPU):
            return vmap(F.conv2d)(x, w)

    graph = make_fx(mapped)(*(numbers(2, *shape).detach() for shape in ((1, 3, 5, 5), (4, 3, 2, 2))))
    assert not calls
    x, w = numbers(2, 1, 3, 5, 5, seed=1).detach(), numbers(2, 4, 3, 2, 2, seed=1).detach()
    torch.testing.assert_close(graph(x, w), torch.stack([F.conv2d(x[i], w[i]) for i in (0, 1)]))


@needs_kernels
def test_float32_agrees_with_float64() -> None:
    net = il.nets.conv4(3, filters=20, downsample="maxpool", size=16, channels=1)
    episode = il.Episode(*(torch.rand(3, 6, 1, 16, 16), torch.arange(6).remainder(3).expand(3, 6)) * 2)
    exact = episode.map(lambda t: t.double() if t.is_floating_point() else t)
    double = il.meta_gradient(copy.deepcopy(net).double(), il.fomaml(0.01, 1), exact)[0]
    single = il.meta_gradient(net, il.fomaml(0.01, 1), episode, execution="batched")[0]
    for name, grad in single.items():
        torch.testing.assert_close(grad.double(), double[name], rtol=0, atol=2e-3 * float(double[name].abs().max()))


SCRIPT = """
import warnings, torch, innerloop as il
from innerloop.engine.kernels import why_no_kernels
torch.manual_seed(0)
x, y = torch.rand(3, 6, 1, 16, 16), torch.arange(6).remainder(3).expand(3, 6)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    grads, _ = il.meta_gradient(il.nets.conv4(3, size=16, filters=4), il.maml(0.1), il.Episode(x, y, x, y))
size = float(sum(g.double().abs().sum() for g in grads.values()))
print(why_no_kernels(), "|", [str(w.message)[:40] for w in caught], "|", size)
"""


def run(tmp_path: Path, **environment: str) -> list[str]:
    (tmp_path / "script.py").write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"XDG_CACHE_HOME": str(tmp_path), **environment}.items():
            patch.setenv(name, value)
        process = start_program(tmp_path / "script.py")
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out.strip().split(" | ")


@needs_kernels
def test_without_kernels_everything_runs_on_torch(tmp_path: Path) -> None:
    # A compiler that takes a tenth of the time. The kernels of all other tests are built as usual.
    quick = tmp_path / "quick-cc"
    quick.write_text(f'#!/bin/sh\nexec {library._compiler()} "$@" -O0\n')
    quick.chmod(0o755)
    reason, caught, expected = run(tmp_path, CC=str(quick))
    assert (reason, caught) == ("None", "[]")
    built = list((tmp_path / "innerloop" / "kernels").iterdir())
    assert sorted(path.suffix for path in built) == [".shape", ".so"]  # and which shape of tile is the fastest
    before = [path.stat().st_mtime_ns for path in built]
    assert run(tmp_path, CC=str(quick))[2] == expected
    assert [path.stat().st_mtime_ns for path in built] == before

    reason, caught, value = run(tmp_path, INNERLOOP_KERNELS="off")
    assert "'off'" in reason
    assert caught == "[]"
    assert float(value) == pytest.approx(float(expected), rel=1e-3)

    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 1\n")
    broken.chmod(0o755)
    reason, caught, value = run(tmp_path, CC=str(broken))
    assert "no licence" in reason
    assert "PyTorch alone" in caught
    assert float(value) == pytest.approx(float(expected), rel=1e-3)


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(OSError, match=r"no C compiler found \(looked for no-such-compiler\)"):
        library._built()


def test_a_damaged_library_is_reported_and_done_without(tmp_path: Path) -> None:
    if why_no_kernels() is not None:
        pytest.skip(f"no kernels: {why_no_kernels()}")
    built = tmp_path / "innerloop" / "kernels" / library._built().name
    built.parent.mkdir(parents=True)
    built.write_bytes(b"not a library")
    reason, caught, _ = run(tmp_path)
    assert reason != "None"
    assert "PyTorch alone" in caught


def test_warnings_of_the_fixture_do_not_leak() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        il.meta_gradient(il.nets.conv4(3, size=16, filters=4), il.maml(0.1), tasks16())


def tasks16() -> il.Episode:
    x, y = torch.rand(2, 6, 1, 16, 16), torch.arange(6).remainder(3).expand(2, 6)
    return il.Episode(x, y, x, y)
