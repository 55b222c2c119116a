"""Inside ``with taskwise():``, an unmodified module under ``vmap`` runs its layers as compiled kernels.

Convolution, batch norm and max-pooling with weights or statistics for each task batch badly in PyTorch. They are
recognised at the functions that layers call, where the kernels can do them, and left to PyTorch where not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.overrides import TorchFunctionMode

from innerloop.taskwise import tasks
from innerloop.taskwise.convolution import Window, convolve
from innerloop.taskwise.library import SUFFIX, kernels
from innerloop.taskwise.normalisation import batch_norm, with_relu
from innerloop.taskwise.pooling import max_pool

__all__ = ["taskwise"]


def taskwise(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context; nothing happens in it on a device that has no kernels, nor while a graph is traced."""
    fits = device.type == "cpu" and not torch.is_autocast_enabled("cpu") and get_proxy_mode() is None
    return _Mode() if fits and tasks.available() and kernels() is not None else contextlib.nullcontext()


class _Mode(TorchFunctionMode):
    """Replaces calls, in one thread, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.normalised: tuple[Tensor, tuple[Any, ...]] | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if (replace := _REPLACEMENTS.get(func)) is not None and tasks.mapped():
            result = replace(self, *args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))

    def convolution(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor | None:
        if not (_usable(input, weight) and input.ndim == weight.ndim == 4) or groups != 1 or isinstance(padding, str):
            return None
        window = Window(*(_pair(value) for value in (weight.shape[2:], stride, padding, dilation)))
        if input.shape[1] != weight.shape[1] or min(window.output(input.shape[2:])) < 1 or not len(input):
            return None  # PyTorch words the error
        with tasks.outside():
            stack, (x, w, b) = tasks.stacked(input, shared=(weight, bias))
            y = convolve(x, w, window)
            if b is not None:
                y = y + b[..., None, :, None, None]
        return stack.unstacked(y)

    def normalisation(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor | None:
        if not training or running_mean is not None or not _usable(input, weight, bias) or input.ndim < 2:
            return None
        if input.numel() <= input.shape[1]:
            return None  # a single value for each channel: PyTorch words the error
        with tasks.outside():
            stack, inputs = tasks.stacked(input, shared=(weight, bias))
            arguments = (*inputs, eps, input.ndim - 2)
            results = batch_norm(*arguments)
        output = stack.unstacked(results[0])
        self.normalised = output, (stack, results, arguments)
        return output

    def relu(self, input: Tensor, inplace: bool = False) -> Tensor | None:
        """Of what batch norm just gave: the two as one."""
        if inplace or self.normalised is None or self.normalised[0] is not input:
            return None
        (_, (stack, results, arguments)), self.normalised = self.normalised, None
        with tasks.outside():
            y = with_relu(results, *arguments)
        restored: Tensor = stack.unstacked(y)
        return restored

    def group_normalisation(self, input: Tensor, *rest: Any, **options: Any) -> Tensor:
        """PyTorch's own, which under ``vmap`` takes only images that are contiguous."""
        return F.group_norm(input.contiguous(), *rest, **options)

    def pooling(
        self,
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor | None:
        if not _usable(input) or input.ndim != 4 or ceil_mode or return_indices:
            return None
        stride = kernel_size if stride is None or (isinstance(stride, list | tuple) and not stride) else stride
        window = Window(*(_pair(value) for value in (kernel_size, stride, padding, dilation)))
        sizes = (*window.output(input.shape[2:]), 255 // (window.kernel[0] * window.kernel[1]), len(input))
        if min(sizes) < 1 or any(2 * p > k for p, k in zip(window.padding, window.kernel, strict=True)):
            return None
        with tasks.outside():
            stack, (x,) = tasks.stacked(input)
            y = max_pool(x, window)
        return stack.unstacked(y)


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    torch.conv2d: _Mode.convolution,
    F.batch_norm: _Mode.normalisation,
    F.group_norm: _Mode.group_normalisation,
    F.relu: _Mode.relu,
    torch.relu: _Mode.relu,
    Tensor.relu: _Mode.relu,
    F.max_pool2d: _Mode.pooling,
    torch.max_pool2d: _Mode.pooling,
}


def _usable(*tensors: Tensor | None) -> bool:
    """Whether the kernels can take these: on the CPU, and of one type that they know."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return len(dtypes) == 1 and dtypes <= SUFFIX.keys() and all(t is None or t.is_cpu for t in tensors)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
