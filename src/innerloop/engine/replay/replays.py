"""When a meta-gradient is recorded, when the recording serves in its place, and how it is watched."""

from __future__ import annotations

import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import _torch, pytree
from innerloop.engine.estimate import Estimate
from innerloop.engine.messages import first_line
from innerloop.engine.replay.program import Program
from innerloop.engine.replay.recorder import Recorder, RefusedError
from innerloop.engine.replay.surroundings import has_hooks, plain_values
from innerloop.folders import switched_off
from innerloop.methods.base import Method

__all__ = ["Replays"]

_log = logging.getLogger(__name__)

SWITCH = "INNERLOOP_REPLAY"
AFTER = 3
"""The call of one kind that is recorded, which takes about as long as five calls."""
MOST = 32
"""Recordings that are kept, the latest used."""
COMPARED = (1, 2, 16, 128)
"""The uses of a recording that are compared with the computation."""
COMPARED_EVERY = 1024
"""And after so many uses, again and again."""


@dataclass(frozen=True)
class _Recording:
    """A recorded estimate.

    Attributes:
        program: from its tensors to those of its results.
        others: for each result, None, or in a tuple what is no tensor.
        spec: how the results are read.
    """

    program: Callable[..., tuple[Tensor, ...]]
    others: Sequence[tuple[Any] | None]
    spec: pytree.TreeSpec

    def __call__(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The results for these tensors, flat."""
        with torch.no_grad():
            results = iter(self.program(*tensors))
        return [next(results) if other is None else other[0] for other in self.others]


@dataclass
class _Kind:
    """Calls with the same key.

    Attributes:
        method: kept alive, since its identity is part of the key.
        calls: how many there were.
        recording: what serves in their place, if there is such.
        uses: how often the recording was asked for.
        ordinary: whether it is settled that there is to be none.
    """

    method: Method
    calls: int = 0
    recording: _Recording | None = None
    uses: int = 0
    ordinary: bool = False


class Replays:
    """Computes estimates; those that come again and again, from recordings.

    On a CPU, half the time of a small network is what Python, autograd and ``vmap`` need to find out what to compute,
    which is the same each time. So it is written down once (:mod:`innerloop.engine.replay.recorder`) and done again.

    A recording is used only if it gives the same bits as the computation that it stands for, on other data than it
    was made with, and this is seen again every now and then. Nothing is recorded that depends on values
    or random numbers, or whose module has hooks or changes itself.
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Any, ...], _Kind] = OrderedDict()
        self._lock = threading.Lock()
        self._off = switched_off(SWITCH) or not _torch.has("recording")

    def __call__(self, estimate: Estimate) -> tuple[list[Any], pytree.TreeSpec]:
        """What the estimate computes from its tensors, and how it is read."""
        if self._off or not estimate.tensors[0].is_cpu:
            return estimate.compute(estimate.tensors)
        with self._lock:
            kind = self._kind(estimate)
            kind.calls += 1
            record = kind.calls == AFTER
            recording = kind.recording
            kind.uses += recording is not None
            uses = kind.uses
        if record:
            return self._recorded(estimate, kind)
        if recording is None or kind.ordinary:
            return estimate.compute(estimate.tensors)
        if uses in COMPARED or uses % COMPARED_EVERY == 0:
            return self._compared(recording, estimate, kind, uses)
        try:
            return recording(estimate.tensors), recording.spec
        except (RuntimeError, MemoryError):  # of memory, mostly; the computation itself says what can be done
            return estimate.compute(estimate.tensors)

    @property
    def settled(self) -> bool:
        """Whether all kinds of calls so far will go on as they do now, and take as long."""
        with self._lock:
            return self._off or all(kind.ordinary or kind.uses >= COMPARED[1] for kind in self._kinds.values())

    def _kind(self, estimate: Estimate) -> _Kind:
        key = (*estimate.key, plain_values(estimate.problem.loss_fn))
        kind = self._kinds.pop(key, None) or _Kind(estimate.method)
        self._kinds[key] = kind
        if len(self._kinds) > MOST:
            self._kinds.popitem(last=False)
        return kind

    def _recorded(self, estimate: Estimate, kind: _Kind) -> tuple[list[Any], pytree.TreeSpec]:
        """The result, computed as always; and a recording, made with other data."""
        outputs, spec = estimate.compute(estimate.tensors)
        module = estimate.problem.model.module
        before = plain_values(module)
        try:
            if has_hooks(module):
                raise RefusedError("the module has hooks")
            tensors = [_copied(t, changed=place in estimate.data) for place, t in enumerate(estimate.tensors)]
            with Recorder(tensors) as recorder:
                others, _ = estimate.compute(tensors)
            if before != plain_values(module):
                raise RefusedError("the module changes itself")
            program = Program(recorder, recorder.outputs([t for t in others if isinstance(t, Tensor)]))
        except Exception as error:  # whatever it is, the result is there
            _log.debug("a meta-gradient is not recorded: %s", first_line(error))
            kind.ordinary = True
        else:
            kind.recording = _Recording(program, [None if isinstance(t, Tensor) else (t,) for t in outputs], spec)
        return outputs, spec

    def _compared(
        self, recording: _Recording, estimate: Estimate, kind: _Kind, uses: int
    ) -> tuple[list[Any], pytree.TreeSpec]:
        """Both ways; where they differ, the recording is not used any more."""
        outputs, spec = estimate.compute(estimate.tensors)
        try:
            same = spec == recording.spec and all(map(_same, outputs, recording(estimate.tensors)))
        except (RuntimeError, MemoryError):
            same = False
        if not same:
            kind.ordinary, kind.recording = True, None
            if uses > 1:
                warnings.warn(
                    f"a recorded meta-gradient has been used {uses} times, and by now what it stands for has changed: "
                    "the model or its loss depends on something besides parameters and data. From here on it is "
                    f"computed each time; with such a model, set {SWITCH}=off in the environment from the start",
                    stacklevel=2,
                )
        return outputs, spec


def _copied(tensor: Tensor, *, changed: bool) -> Tensor:
    """A copy with memory of its own and the same strides, which decide how PyTorch computes.

    Changed, its examples come in another order, and what are not classes or words is halved. What a computation takes
    from its data in ways that the recorder does not see, by NumPy say, then differs from that of the given data.
    """
    once = tensor.detach()[tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())]
    copy = torch.empty_strided(once.shape, once.stride(), dtype=once.dtype, device=once.device)
    copy.copy_(once.roll(1, 1) if changed else once)
    if changed and copy.is_floating_point():
        copy *= 0.5
    return copy.as_strided(tensor.shape, tensor.stride())


def _same(one: Any, other: Any) -> bool:
    """Whether two results have the same bits, all NaNs being the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    return bool(one == other)
