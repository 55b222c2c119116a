"""What happens where tasks cannot run together, and what errors of PyTorch mean here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch

from innerloop.engine.forward import EngineTasks
from innerloop.engine.messages import first_line, first_sentence, own_line
from innerloop.engine.plans import Execution
from innerloop.inner.problem import Problem

__all__ = ["advised", "with_a_loop_to_fall_back_on"]

T = TypeVar("T")


def with_a_loop_to_fall_back_on(fn: Callable[[Problem], T], problem: Problem, execution: Execution) -> tuple[T, str]:
    """Call ``fn``. With ``execution="auto"``, a loop over tasks takes over where they cannot run together.

    Args:
        fn: what is computed.
        problem: the model with its loss, and how it is applied to tasks.
        execution: what the user asked for.

    Returns:
        The result, and why tasks ran one by one; an empty string if they ran as the problem says.

    Raises:
        RuntimeError: tasks cannot run together, and the user asked for it.
    """
    if not problem.tasks.batched:
        return fn(problem), ""
    try:
        return fn(problem), ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if execution != "auto":
            if not _OF_TRANSFORMS.search(str(error)):
                raise
            raise RuntimeError(
                f"execution={execution!r} runs tasks together, and {_not_batched(problem, error)}. Pass "
                "execution='serial', or 'auto', which then runs tasks one by one"
            ) from error
        reason = _why_not_batched(problem, error)
    # This is outside the handler, so that an error of the loop is not shown as caused by the first error.
    return fn(replace(problem, tasks=EngineTasks(batched=False, recurrent=problem.model.recurrent))), reason


@contextlib.contextmanager
def advised() -> Iterator[None]:
    """A context that adds advice to the error of a derivative that PyTorch lacks."""
    try:
        yield
    except RuntimeError as error:
        if not re.search("derivative for .* is not implemented", str(error)):
            raise
        raise RuntimeError(
            f"{first_line(error).rstrip('.')}. An exact meta-gradient takes second derivatives: use another "
            "operation in the model, or a first-order method, such as il.fomaml or meta_gradient=il.first_order()"
        ) from error


def _why_not_batched(problem: Problem, error: Exception) -> str:
    """The warning that tasks cannot run together: the reason, what happens instead, and what to do."""
    return (
        f"tasks run one by one: {_not_batched(problem, error)}. The results are the same, but take "
        "longer. To run tasks together, write that part with operations that vmap knows "
        "(docs/models.md has examples); execution='serial' runs one by one without this warning"
    )


def _not_batched(problem: Problem, error: Exception) -> str:
    layer, line = problem.model.layer_of(error), own_line(error)
    said = first_sentence(error).removeprefix("vmap: ")
    if "escaped from inside" in said:
        said = "it keeps tensors beyond the batched call, as torch.utils.checkpoint does"
    said += "" if line is None or layer is None else f" ({line})"
    return f"torch.func.vmap cannot batch {layer or 'this model or its loss'}: {said}"


_OF_TRANSFORMS = re.compile(r"vmap|functorch|torch\.func|functional transform|saved tensor hooks", re.IGNORECASE)
"""Matches PyTorch's messages about code that cannot be batched."""
