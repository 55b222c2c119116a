"""The settings of the thread that calls an engine. Worker threads take them over, so they compute the same."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from innerloop.engine import _torch

__all__ = ["Caller", "normal_mode", "usual"]

T = TypeVar("T")

DEVICES = ("cpu", "cuda")
"""The devices whose autocast settings are taken over."""


@dataclass(frozen=True)
class Caller:
    """The settings of a thread that decide what an operation of PyTorch computes there.

    Attributes:
        autocast: for each device, whether autocast is on, and its type.
        cache: whether autocast caches the tensors that it has cast.
        gradients: whether operations are recorded for differentiation.
        bound_to: a setting that no other thread can take over, in words; None if there is none. With such a setting,
            chunks run in the caller's thread.
    """

    autocast: tuple[tuple[str, bool, torch.dtype], ...]
    cache: bool
    gradients: bool
    bound_to: str | None

    @classmethod
    def now(cls) -> Caller:
        """The settings of the current thread."""
        return cls(
            tuple((device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES),
            torch.is_autocast_cache_enabled(),
            torch.is_grad_enabled(),
            _torch.bound_to_thread(),
        )

    def taken_along(self, run: Callable[..., T]) -> Callable[..., T]:
        """Wrap a function for other threads. It computes there as it would in this thread.

        It also sees the caller's context variables.
        """
        context = contextvars.copy_context()

        def elsewhere(*args: Any) -> T:
            with self._set():
                return run(*args)

        return lambda *args: context.copy().run(elsewhere, *args)

    @contextlib.contextmanager
    def _set(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for device, enabled, dtype in self.autocast:
                if enabled != torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, dtype, enabled, self.cache))
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            yield


@contextlib.contextmanager
def normal_mode() -> Iterator[None]:
    """A context in which PyTorch can differentiate, even if the caller is in ``torch.inference_mode``.

    Example:
        >>> with torch.inference_mode(), normal_mode():
        ...     torch.ones(2).is_inference()
        False
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False):
        yield


def usual(tensor: Tensor) -> Tensor:
    """The same values as a tensor that can take part in a graph. A tensor made in ``inference_mode`` cannot."""
    return tensor.clone() if tensor.is_inference() else tensor
