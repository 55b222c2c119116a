"""Decides when a meta-gradient is recorded, when its recording is used, and when the two are compared."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from innerloop.engine import _torch, pytree
from innerloop.engine.estimate import Estimate
from innerloop.engine.messages import first_line
from innerloop.engine.replay.kinds import key_of
from innerloop.engine.replay.program import Program
from innerloop.engine.replay.proof import Proof, surroundings
from innerloop.engine.replay.recorder import Recorder
from innerloop.engine.replay.refused import RefusedError
from innerloop.engine.replay.walk import proved
from innerloop.engine.replay.witness import Witness
from innerloop.inner.model import StatelessModel
from innerloop.inner.moment import Moment

__all__ = ["Replay", "Replays", "checked_replay"]

_log = logging.getLogger(__name__)

Replay = Literal["auto", "off", "always"]
"""When meta-gradients are recorded: if they are shown to depend only on their inputs (``auto``), never (``off``), or
also on the caller's promise that they do, where it cannot be shown (``always``)."""

AFTER = 3
"""The number of the call of a kind that is recorded. Recording takes about as long as five calls."""
MOST = 32
"""The most kinds of calls, and so recordings, that are kept. The ones used last stay."""
COMPARED = (1, 2, 16, 128)
"""The uses of a recording that are compared with the ordinary computation."""
COMPARED_EVERY = 1024
"""Uses that are multiples of this number are compared, too."""


def checked_replay(replay: Replay) -> Replay:
    """Return ``replay`` if it is a valid choice.

    Raises:
        ValueError: it is none.
    """
    if replay not in get_args(Replay):
        raise ValueError(f"replay is {replay!r}; choose one of {', '.join(map(repr, get_args(Replay)))}")
    return replay


@dataclass(frozen=True)
class _Recording:
    """A recorded estimate.

    Attributes:
        program: maps the estimate's tensors and the proof's tensors to the result's tensors.
        others: for each result, None if it is a tensor, otherwise its value in a tuple.
        spec: the structure of the results.
        proof: the proof that the recording rests on.
    """

    program: Callable[..., tuple[Tensor, ...]]
    others: Sequence[tuple[Any] | None]
    spec: pytree.TreeSpec
    proof: Proof

    def __call__(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The results for these tensors, as a flat list."""
        with torch.no_grad():
            results = iter(self.program(*tensors, *(tensor.detach() for tensor in self.proof.tensors)))
        return [next(results) if other is None else other[0] for other in self.others]


@dataclass(frozen=True)
class _Known:
    """What is known about a call that was looked into.

    Attributes:
        witness: the code that it ran.
        proof: the places that it depends on.
        model: a copy of the model that was never called.
        module: everything that this copy holds.
    """

    witness: Witness
    proof: Proof
    model: StatelessModel
    module: Moment


@dataclass
class _Kind:
    """Calls with the same key.

    Attributes:
        kept: the objects whose ``id`` is part of the key.
        calls: the number of calls since the last change.
        wanted: the number of the call that is recorded.
        recording: the recording, if there is one.
        uses: the number of uses of the recording.
        ordinary: whether it is decided that there is no recording.
        reason: why there is none, in words.
        looked: whether a call was looked into.
        known: what is known about that call, until it is recorded.
        held_at: the moment at which the recording's proof was last found to hold.
    """

    kept: list[Any]
    calls: int = 0
    wanted: int = field(default_factory=lambda: AFTER)
    recording: _Recording | None = None
    uses: int = 0
    ordinary: bool = False
    reason: str | None = None
    looked: bool = False
    known: _Known | None = None
    held_at: int = -1

    def changed(self) -> None:
        """Drop the recording, because what it rests on has changed. The next one is made later than the last."""
        self.recording, self.calls, self.uses, self.wanted = None, 1, 0, 4 * self.wanted
        self.looked, self.known = False, None
        self.reason = "what it depends on has changed since it was recorded"


class Replays:
    """Computes estimates. Repeated ones are computed from recordings.

    On a CPU, half the time of a small network goes into Python, autograd and ``vmap``, which find out what to compute.
    That is the same each time. So the operations are recorded once (:mod:`innerloop.engine.replay.recorder`) and
    replayed.

    A recording is made only if the computation is shown to depend on nothing but its inputs
    (:mod:`innerloop.engine.replay.walk`). It is used only while everything that this rests on is unchanged. It must
    also give the same bits as the ordinary computation, on other data than it was made with. This is checked again from
    time to time.

    Args:
        replay: see :data:`Replay`.
    """

    def __init__(self, replay: Replay = "auto") -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._lock = threading.Lock()
        self._around = surroundings()
        self._moment = 0  # counts the times at which something that a recording rests on may have changed
        self._promised = replay == "always"
        self._off = replay == "off" or not _torch.has("recording")

    def __call__(self, estimate: Estimate) -> tuple[list[Any], pytree.TreeSpec]:
        """The results of the estimate as a flat list, and their structure."""
        if self._off or not estimate.tensors[0].is_cpu:
            return estimate.compute(estimate.tensors)
        with self._lock:
            kind = self._kind(estimate)
            kind.calls += 1
            if kind.recording is not None and kind.held_at != self._moment:
                moment = self._moment
                if kind.recording.proof.holds():
                    kind.held_at = moment
                else:
                    kind.changed()
            open_ = not kind.ordinary and kind.recording is None
            look = open_ and not kind.looked and kind.calls >= kind.wanted - 1
            kind.looked |= look
            known, kind.known = (kind.known, None) if open_ and kind.calls >= kind.wanted else (None, kind.known)
            recording = kind.recording
            kind.uses += recording is not None
            uses = kind.uses
        if look:
            return self._looked_into(estimate, kind)
        if known is not None:
            return self._recorded(estimate, kind, known)
        if recording is None:
            return self._computed(estimate)
        if uses in COMPARED or uses % COMPARED_EVERY == 0:
            return self._compared(recording, estimate, kind, uses)
        try:
            return recording(estimate.tensors), recording.spec
        except (
            RuntimeError,
            MemoryError,
        ):  # usually too little memory; the ordinary computation raises an error with advice
            return self._computed(estimate)

    def look(self) -> None:
        """Read the caller's settings. This comes before chunks are computed, which change some of them."""
        self._around = surroundings()
        self.look_again()

    def look_again(self) -> None:
        """Say that the user's code may have run. The places that recordings rest on are looked at again before use.

        Between two such moments only recordings are replayed, which run none of the user's code. So one look serves
        all chunks of a call.
        """
        with self._lock:
            self._moment += 1

    def _computed(self, estimate: Estimate) -> tuple[list[Any], pytree.TreeSpec]:
        """Compute the result in the ordinary way, which runs the user's code."""
        try:
            return estimate.compute(estimate.tensors)
        finally:
            self.look_again()

    @property
    def settled(self) -> bool:
        """Whether all kinds of calls so far have reached their final speed."""
        with self._lock:
            return self._off or all(kind.ordinary or kind.uses >= COMPARED[1] for kind in self._kinds.values())

    def explain(self) -> list[str]:
        """For each kind of call, whether it is recorded, or the reason why not. The latest kind is last."""
        if self._off:
            return ["not recorded: " + ("replay='off'" if _torch.has("recording") else "PyTorch lacks what it takes")]
        with self._lock:
            return [_described(kind) for kind in self._kinds.values()]

    def _kind(self, estimate: Estimate) -> _Kind:
        known, kept = key_of(estimate)
        key = (known, self._around)
        kind = self._kinds.pop(key, None) or _Kind(kept)
        self._kinds[key] = kind
        if len(self._kinds) > MOST:
            self._kinds.popitem(last=False)
        return kind

    def _looked_into(self, estimate: Estimate, kind: _Kind) -> tuple[list[Any], pytree.TreeSpec]:
        """Compute the result in the ordinary way, and find out what it depends on, or why that cannot be found."""
        witness = Witness()
        try:
            with witness:
                outputs, spec = estimate.compute(estimate.tensors)
        except RefusedError as error:  # raised before anything was computed
            kind.calls, kind.looked, kind.reason = 0, False, str(error)
            return self._computed(estimate)
        finally:
            self.look_again()
        with self._refused(kind):
            model = estimate.problem.model.fresh()
            roots = (estimate.method, estimate.problem.loss_fn)
            proof = Proof() if self._promised else proved(roots, witness, model.module)
            kind.known = _Known(witness, proof, model, Moment(model.module))
        return outputs, spec

    def _recorded(self, estimate: Estimate, kind: _Kind, known: _Known) -> tuple[list[Any], pytree.TreeSpec]:
        """Compute the result in the ordinary way, and make a recording with other data."""
        held = known.proof.holds()
        outputs, spec = self._computed(estimate)
        with self._refused(kind):
            # The user's code runs a second time only if that changes nothing.
            if not (held and (self._promised or known.proof.holds())):
                raise RefusedError("what it depends on changes from call to call")
            try:
                kind.recording = self._recording(estimate, known, outputs, spec)
            finally:
                self.look_again()
            kind.reason = None
        return outputs, spec

    @contextlib.contextmanager
    def _refused(self, kind: _Kind) -> Iterator[None]:
        """A context in which any error means that calls of this kind are not recorded."""
        try:
            yield
        except Exception as error:  # the result is already computed, whatever the error is
            kind.reason, kind.ordinary = first_line(error), True
            _log.debug("a meta-gradient is not recorded: %s", kind.reason)

    def _recording(self, estimate: Estimate, known: _Known, outputs: list[Any], spec: pytree.TreeSpec) -> _Recording:
        copies = [_copied(t, changed=place in estimate.data) for place, t in enumerate(estimate.tensors)]
        if len({_torch.storage_id(t) for t in known.proof.tensors}) < len(known.proof.tensors):
            raise RefusedError("tensors that it reaches share their memory")
        again = Witness()
        with Recorder([*copies, *known.proof.tensors]) as recorder, again:
            others, _ = estimate.compute(copies, known.model)
        if not self._promised:
            if again.refused is not None:
                raise RefusedError(again.refused)
            if further := again.codes - known.witness.codes:
                raise RefusedError(f"it runs {next(iter(further)).co_name} for some data and not for other")
            if not (known.module.lasts() and known.proof.holds()):
                raise RefusedError("it changes what it depends on, such as an attribute, a list or a global name")
        program = Program(recorder, recorder.outputs([t for t in others if isinstance(t, Tensor)]))
        if not (self._promised or program.read.isdisjoint(recorder.unknown)):
            raise RefusedError("it reads a tensor that is neither an input nor an attribute that can be found")
        rest = [None if isinstance(t, Tensor) else (t,) for t in outputs]
        return _Recording(program, rest, spec, known.proof)

    def _compared(
        self, recording: _Recording, estimate: Estimate, kind: _Kind, uses: int
    ) -> tuple[list[Any], pytree.TreeSpec]:
        """Compute both ways. If the results differ, drop the recording."""
        outputs, spec = self._computed(estimate)
        try:
            same = spec == recording.spec and all(map(_same, outputs, recording(estimate.tensors)))
        except (RuntimeError, MemoryError):
            same = False
        if not same:
            kind.ordinary, kind.recording = True, None
            kind.reason = "the recording gave other bits than the computation"
            if uses > 1:
                warnings.warn(
                    f"a recorded meta-gradient was used {uses} times, and now differs from the computation: the model "
                    "or its loss depends on something other than parameters and data. From here on it is computed "
                    "each time; for such a model, make the engine with replay='off'",
                    stacklevel=2,
                )
        return outputs, spec


def _described(kind: _Kind) -> str:
    if kind.recording is not None:
        return f"recorded, and used {kind.uses} times"
    if kind.ordinary or kind.reason:
        return f"not recorded: {kind.reason}"
    return f"not recorded yet: the call {kind.wanted} of one kind is, and there were {kind.calls}"


def _copied(tensor: Tensor, *, changed: bool) -> Tensor:
    """A copy with its own memory and the same strides. The strides decide how PyTorch computes.

    With ``changed``, its examples are in another order, and floating-point numbers are halved. A computation may take
    values from its data in ways that the recorder does not see, for example by NumPy. With other data these values
    differ, so a comparison shows it.
    """
    once = tensor.detach()[tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())]
    copy = torch.empty_strided(once.shape, once.stride(), dtype=once.dtype, device=once.device)
    copy.copy_(once.roll(1, 1) if changed else once)
    if changed and copy.is_floating_point():
        copy *= 0.5
    return copy.as_strided(tensor.shape, tensor.stride())


def _same(one: Any, other: Any) -> bool:
    """Whether two results are equal, where all NaNs count as equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    return bool(one == other)
