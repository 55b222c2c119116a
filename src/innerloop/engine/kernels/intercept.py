"""Inside ``with taskwise():``, the layers of an unmodified module run faster under ``vmap``, or run at all.

If each task has its own weights or statistics, PyTorch's convolutions, batch norm, max-pooling, linear layers and
attention are slow under ``vmap``. Recurrent layers do not run. The padding of embeddings gets a wrong gradient. This
file replaces the functions that such layers call:

- Convolutions, batch norm and max-pooling run as compiled kernels on a CPU, where the kernels support them.
- Linear layers and attention run as products of stacks of matrices, on any device.
- The others are written out as other operations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from innerloop.engine import _torch
from innerloop.engine.kernels import tasks
from innerloop.engine.kernels.attention import multi_head_attention
from innerloop.engine.kernels.convolution import Window, convolve
from innerloop.engine.kernels.deferred import Deferred, Unwritten
from innerloop.engine.kernels.library import SUFFIX, kernels
from innerloop.engine.kernels.linear import Weights, linear
from innerloop.engine.kernels.losses import cross_entropy
from innerloop.engine.kernels.normalisation import NormCall, batch_norm, started
from innerloop.engine.kernels.pooled import joinable, max_pooled
from innerloop.engine.kernels.pooling import max_pool
from innerloop.engine.kernels.recurrent import Cell, gru_cell, lstm_cell, plain_cell, recurrent
from innerloop.engine.kernels.unlike_loops import Draws, check_call, check_seed

__all__ = ["taskwise"]


def taskwise(device: torch.device, *, watched: bool = True) -> contextlib.AbstractContextManager[object]:
    """The context for a device. Kernels are used only on a CPU, and not while a graph is traced.

    If ``watched``, an error is raised for seeds that the code in the context sets to the value they have.
    """
    fits = _torch.has("vmap") and not torch.is_autocast_enabled(device.type)
    compiled = fits and device.type == "cpu" and not _torch.traced()
    return _Mode(
        device,
        use_products=fits and _torch.has("passes"),
        use_kernels=compiled and kernels() is not None,
        draws=Draws(device) if watched and not _torch.traced() else None,
    )


Replacement = Callable[..., Any]
"""Takes the mode and a call's arguments. Returns the result of the call, or None to leave the call to PyTorch."""


class _Mode(TorchFunctionMode):
    """While this mode is entered, it replaces calls in the current thread."""

    def __init__(self, device: torch.device, *, use_products: bool, use_kernels: bool, draws: Draws | None) -> None:
        super().__init__()
        self.device = device.type
        self.use_products = use_products
        self.use_kernels = use_kernels
        self._weights: dict[tuple[object, ...], tuple[Tensor, Weights]] = {}
        self._deferred = Deferred()
        self._seed = torch.initial_seed()
        self._draws = draws

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _SIZES and not types:
            return func(*args, **(kwargs or {}))
        check_call(func, kwargs)
        self._deferred.disarm()  # before anything that passes the dispatcher, such as a look at a generator
        if self._draws is not None:
            self._draws.check()
        replace = _REWRITTEN.get(func)
        if replace is None and self.use_products and func in _PRODUCTS and self._applies():
            replace = _PRODUCTS[func]
        if replace is None and self.use_kernels and func in _KERNELS and self._applies():
            replace = _KERNELS[func]
        try:
            if replace not in _JOINING:
                self._deferred.settle()
            if replace is not None:
                result = replace(self, *args, **(kwargs or {}))
                if result is not None:
                    return result
                self._deferred.settle()
            return func(*args, **(kwargs or {}))
        finally:
            if self._draws is not None:
                self._draws.note()
            self._deferred.arm()

    def requires_grad(self, tensor: Tensor) -> bool | None:
        """The same answer as in a loop. Under ``vmap``, PyTorch says that nothing requires a gradient."""
        return tasks.innermost(tensor).requires_grad if _torch.has("vmap") else None

    def _applies(self) -> bool:
        """Whether a call can be replaced: it is directly under the ``vmap`` over tasks, and not under autocast."""
        return tasks.mapped() and not torch.is_autocast_enabled(self.device)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._deferred.disarm()
        self._deferred.settle()
        if error[0] is None:
            check_seed(self._seed)
            if self._draws is not None:
                self._draws.check()

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        given = (input, weight) if bias is None else (input, weight, bias)
        same = len({(t.dtype, t.device) for t in given}) == 1 and input.is_floating_point()
        if not (same and weight.ndim == 2 and input.ndim and input.shape[-1] == weight.shape[1] and input.numel()):
            return None
        if bias is not None and bias.shape != weight.shape[:1]:
            return None
        with tasks.outside():
            stack, (x, w, b) = tasks.stacked(input, shared=(weight, bias))
            y = linear(x, self._weights_of(weight, w, stack), b)
        return stack.unstacked(y)

    def _weights_of(self, mapped: Tensor, stacked: Tensor, stack: tasks.Stack) -> Weights:
        """The :class:`Weights` of a linear layer. All calls of the layer in a forward pass get the same object."""
        if not (stacked.requires_grad and torch.is_grad_enabled()):
            return Weights(stacked)
        key = (id(mapped), stack)
        if key not in self._weights:
            self._weights[key] = mapped, Weights(stacked)  # keeps ``mapped`` alive, because its id is in the key
        return self._weights[key][1]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer inside another replacement. This mode does not see calls from there."""
        found = self.linear(input, weight, bias) if self.use_products and self._applies() else None
        return F.linear(input, weight, bias) if found is None else found

    def attention(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None] | None:
        return multi_head_attention(self._linear, *arguments, **options)

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
            return None  # PyTorch raises the error
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
            return None  # a single value for each channel: PyTorch raises the error
        with tasks.outside():
            stack, (x, scale, shift) = tasks.stacked(input, shared=(weight, bias))
            norm = started(x, scale, shift, eps, input.ndim - 2)
        return self._normalised(stack, norm, relu=False)

    def relu(self, input: Tensor, inplace: bool = False) -> Tensor | None:
        """ReLU of the output of a batch norm just before: the two are fused."""
        found = self._deferred.find(input)
        if inplace or found is None:
            return None
        stack, norm, after_relu = found
        return None if after_relu else self._normalised(stack, norm, relu=True)

    def _normalised(self, stack: tasks.Stack, norm: NormCall, *, relu: bool) -> Tensor:
        with tasks.outside():
            value, write = batch_norm(norm, relu=relu)
        output: Tensor = stack.unstacked(value)
        self._deferred.add(Unwritten(output, value, write, (stack, norm, relu)))
        return output

    def group_normalisation(self, input: Tensor, *rest: Any, **options: Any) -> Tensor:
        """PyTorch's own function on contiguous images. Under ``vmap`` it takes no others."""
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
        if found := self._deferred.find(input):
            stack, norm, after_relu = found
            if after_relu and joinable(window):
                with tasks.outside():
                    y = max_pooled(norm, window)
                return stack.unstacked(y)
        self._deferred.settle()
        with tasks.outside():
            stack, (x,) = tasks.stacked(input)
            y = max_pool(x, window)
        return stack.unstacked(y)

    def embedding(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        *rest: Any,
        **options: Any,
    ) -> Tensor | None:
        """PyTorch's own function without a gradient for the padding's row, which PyTorch forgets under ``vmap``."""
        if padding_idx is None:
            return None
        found = F.embedding(input, weight, None, *rest, **options)
        return torch.where((input == padding_idx % len(weight))[..., None], found.detach(), found)

    def cross_entropy(self, *arguments: Any, **options: Any) -> Tensor | None:
        return cross_entropy(*arguments, **options) if _torch.has("vmap") and tasks.mapped() else None

    def adaptive_pooling(self, input: Tensor, output_size: Any) -> Tensor | None:
        """The mean of each channel. PyTorch sets strides in place, which ``vmap`` runs task by task."""
        if output_size not in (1, (1, 1), [1, 1]) or input.ndim < 3:
            return None
        return input.mean((-2, -1), keepdim=True)


def _written_out(cell: Cell) -> Replacement:
    """A recurrent layer, written out as operations that can be mapped."""

    def replaced(mode: _Mode, input: Tensor, first: Any, weights: Any, *options: Any) -> tuple[Tensor, ...] | None:
        if not isinstance(options[0], bool):
            return None  # packed sequences of several lengths
        states = (first,) if isinstance(first, Tensor) else tuple(first)
        outputs, ends = recurrent(cell, input, states, weights, *options, linear=mode._linear)
        return outputs, *ends

    return replaced


def _step_written_out(cell: Cell) -> Replacement:
    """One step of a recurrent layer, such as ``nn.LSTMCell``, written out in the same way."""

    def replaced(
        mode: _Mode,
        input: Tensor,
        first: Any,
        w_input: Tensor,
        w_hidden: Tensor,
        b_input: Tensor | None = None,
        b_hidden: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        state = (first,) if isinstance(first, Tensor) else tuple(first)
        state = cell(mode._linear(input, w_input, b_input), mode._linear(state[0], w_hidden, b_hidden), state)
        return state if len(state) > 1 else state[0]

    return replaced


def _not_called(mode: _Mode, *arguments: Any, **options: Any) -> Any:
    raise RuntimeError("vmap: hooks on tensors, as of register_hook, are not called for tasks that run together")


def _no_text(mode: _Mode, *arguments: Any, **options: Any) -> Any:
    raise RuntimeError(
        "vmap: a tensor of tasks that run together has no text of its own, as repr or an f-string asks for"
    )


_SIZES = {Tensor.dim, Tensor.size, Tensor.ndim.__get__, Tensor.shape.__get__}  # type: ignore[attr-defined]
"""What vmap itself asks for all the time. These compute nothing, draw nothing and need no output to be written."""

_REWRITTEN: dict[Callable[..., Any], Replacement] = {
    Tensor.requires_grad.__get__: _Mode.requires_grad,  # type: ignore[attr-defined] # a property, to Python
    Tensor.__repr__: _no_text,
    Tensor.__format__: _no_text,
    Tensor.register_hook: _not_called,
    Tensor.register_post_accumulate_grad_hook: _not_called,
    Tensor.retain_grad: _not_called,
    F.embedding: _Mode.embedding,
    torch.lstm: _written_out(lstm_cell),
    torch.gru: _written_out(gru_cell),
    torch.rnn_tanh: _written_out(plain_cell(torch.tanh)),
    torch.rnn_relu: _written_out(plain_cell(torch.relu)),
    torch.lstm_cell: _step_written_out(lstm_cell),
    torch.gru_cell: _step_written_out(gru_cell),
    torch.rnn_tanh_cell: _step_written_out(plain_cell(torch.tanh)),
    torch.rnn_relu_cell: _step_written_out(plain_cell(torch.relu)),
    F.adaptive_avg_pool2d: _Mode.adaptive_pooling,
    F.cross_entropy: _Mode.cross_entropy,
}

_PRODUCTS: dict[Callable[..., Any], Replacement] = {
    F.linear: _Mode.linear,
    F.multi_head_attention_forward: _Mode.attention,
}

_KERNELS: dict[Callable[..., Any], Replacement] = {
    torch.conv2d: _Mode.convolution,
    F.batch_norm: _Mode.normalisation,
    F.group_norm: _Mode.group_normalisation,
    F.relu: _Mode.relu,
    torch.relu: _Mode.relu,
    Tensor.relu: _Mode.relu,
    F.max_pool2d: _Mode.pooling,
    torch.max_pool2d: _Mode.pooling,
}

_JOINING = (_Mode.relu, _Mode.pooling)
"""Replacements that can be fused with the layer before. They settle deferred outputs themselves."""


def _usable(*tensors: Tensor | None) -> bool:
    """Whether the kernels support these tensors: all on the CPU, and all of one type that the kernels know."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    return len(dtypes) == 1 and dtypes <= SUFFIX.keys() and all(t is None or t.is_cpu for t in tensors)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
