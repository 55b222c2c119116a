"""Applying a function of one task to many tasks: one by one, or all together with ``vmap``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.params import Params

__all__ = ["OneByOne", "TaskMap", "Together"]


class TaskMap(Protocol):
    """Applies a function of one task to ``T`` tasks.

    The function takes the parameters of one task and further tensors of that task. It returns a tensor, or a tuple of
    tensors. All tensors that the map takes and returns have a leading task axis ``[T, ...]``.
    """

    @property
    def batched(self) -> bool:
        """Whether the function is called once for all tasks, not once for each."""
        ...

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """The results of all tasks, stacked. ``second_order`` says that they will be differentiated twice."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """A loop over the tasks. It works for every module.

    Example:
        >>> OneByOne()(lambda params, x: params["w"] * x, {"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
        tensor([3., 8.])
    """

    batched: ClassVar[bool] = False

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """Call the function for one task after another, and stack the results."""
        results = [fn(_task(params, i), *(tensor[i] for tensor in data)) for i in range(len(data[0]))]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)


@dataclass(frozen=True)
class Together:
    """All tasks at once, by ``torch.func.vmap``.

    Example:
        >>> Together()(lambda params, x: params["w"] * x, {"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
        tensor([3., 8.])
    """

    batched: ClassVar[bool] = True

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """Call the function once for all tasks. Each task draws its own random numbers."""
        return vmap(fn, randomness="different")(params, *data)


def _task(params: Params, index: int) -> Params:
    """The parameters of one task. A single task is not indexed, because the derivative of an index is a copy."""
    return {name: tensor.squeeze(0) if len(tensor) == 1 else tensor[index] for name, tensor in params.items()}
