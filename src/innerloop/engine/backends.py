"""Switches PyTorch's fused kernels off where they cannot do what the inner loop needs.

Fused attention has no second derivative, and lacks a rule for ``vmap`` on some devices. cuDNN's recurrent layers have
no second derivative, and in evaluation mode no derivative at all. PyTorch has a plain form of each, and uses it when
the fused form is switched off. The switches affect the whole process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from innerloop.engine.runtime import runtime

__all__ = ["Fused", "to_set_aside", "without"]

Fused = Literal["attention", "cudnn"]
"""Fused attention with the fast path of ``nn.TransformerEncoder`` (``attention``), or cuDNN (``cudnn``)."""


def to_set_aside(
    device: torch.device, *, second_order: bool, batched: bool, recurrent: Literal["none", "training", "evaluating"]
) -> frozenset[Fused]:
    """The fused kernels that must be off in a forward pass.

    Args:
        device: the device of the forward pass.
        second_order: whether it will be differentiated twice.
        batched: whether it runs under ``vmap``.
        recurrent: whether the module has recurrent layers, and their mode.

    Example:
        >>> sorted(to_set_aside(torch.device("cuda"), second_order=True, batched=False, recurrent="training"))
        ['attention', 'cudnn']
        >>> sorted(to_set_aside(torch.device("cpu"), second_order=False, batched=False, recurrent="training"))
        []
    """
    found: set[Fused] = set()
    if second_order or batched:
        found.add("attention")
    if device.type == "cuda" and (recurrent == "evaluating" or (recurrent == "training" and second_order)):
        found.add("cudnn")
    return frozenset(found)


@contextlib.contextmanager
def without(fused: frozenset[Fused]) -> Iterator[None]:
    """A context in which these fused kernels are off. Several threads may be in it. The last one to leave switches on.

    Example:
        >>> with without(frozenset({"attention"})):
        ...     torch.backends.cuda.flash_sdp_enabled()
        False
        >>> torch.backends.cuda.flash_sdp_enabled()
        True
    """
    with contextlib.ExitStack() as stack:
        for name in sorted(fused if runtime.set_aside_fused else ()):
            stack.enter_context(_SHARED[name])
        yield


class _Shared:
    """A context that is entered by the first thread that needs it and left by the last."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._context = make()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._context.__exit__(None, None, None)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    # torch.nn.attention.sdpa_kernel does this too, but in newer releases only the thread that entered it can leave it.
    cuda, mha = torch.backends.cuda, torch.backends.mha  # the switches of cuda are for the CPU, too
    switches: list[tuple[Callable[[], bool], Callable[[bool], None], bool]] = [
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled, False),
        (cuda.flash_sdp_enabled, cuda.enable_flash_sdp, False),
        (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp, False),
        (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp, False),
        (cuda.math_sdp_enabled, cuda.enable_math_sdp, True),
    ]
    before = [enabled() for enabled, _, _ in switches]
    try:
        for _, enable, wanted in switches:
            enable(wanted)
        yield
    finally:
        for (_, enable, _), was in zip(switches, before, strict=True):
            enable(was)


@contextlib.contextmanager
def _no_cudnn() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=False):
        yield


_SHARED: dict[Fused, _Shared] = {"attention": _Shared(_plain_attention), "cudnn": _Shared(_no_cudnn)}
