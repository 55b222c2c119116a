"""How a function of one task is applied to many tasks."""

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
    tensors. What the map takes and returns has a leading task axis ``[T, ...]``.
    """

    @property
    def batched(self) -> bool:
        """Whether the function is called once for all tasks, on tensors that stand for those of each."""
        ...

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """The results of all tasks, stacked. ``second_order`` says that they will be differentiated twice."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """A loop over the tasks, which works for every module.

    Example:
        >>> OneByOne()(lambda params, x: params["w"] * x, {"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
        tensor([3., 8.])
    """

    batched: ClassVar[bool] = False

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """The function of each task, one after another."""
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
        """The function of all tasks, each with random numbers of its own."""
        return vmap(fn, randomness="different")(params, *data)


def _task(params: Params, index: int) -> Params:
    """The parameters of one task; of a single one without indexing, whose derivative would be a copy."""
    return {name: tensor.squeeze(0) if len(tensor) == 1 else tensor[index] for name, tensor in params.items()}
