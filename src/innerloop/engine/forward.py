"""The engine's way to apply a function of one task to many tasks.

It uses the kernels, and switches off PyTorch's fused layers where these lack a derivative or cannot be batched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from innerloop.engine.backends import to_set_aside, without
from innerloop.engine.kernels import taskwise
from innerloop.inner.tasks import OneByOne, Together
from innerloop.params import Params

__all__ = ["EngineTasks"]


@dataclass(frozen=True)
class EngineTasks:
    """The engine's :class:`innerloop.inner.tasks.TaskMap`. It gives the same results, faster, and maps more layers.

    Args:
        batched: whether the tasks run together or one by one.
        recurrent: whether the module has recurrent layers, and their mode.
        watched: whether it is watched that tasks that run together draw random numbers as a loop over them would.
    """

    batched: bool = True
    recurrent: Literal["none", "training", "evaluating"] = "none"
    watched: bool = True

    def __call__(self, fn: Callable[..., Any], params: Params, *data: Tensor, second_order: bool = False) -> Any:
        """The results of all tasks, stacked."""
        device = data[0].device
        aside = to_set_aside(device, second_order=second_order, batched=self.batched, recurrent=self.recurrent)
        with without(aside), taskwise(device, watched=self.watched) if self.batched else contextlib.nullcontext():
            run = Together() if self.batched else OneByOne()
            return run(fn, params, *data, second_order=second_order)
