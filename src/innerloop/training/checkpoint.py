"""The checkpoint of a training run: what it must hold so that the run can be resumed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop.engine.plans import Execution
from innerloop.learner.files import CheckpointError, load_state
from innerloop.learner.schema import (
    ANYTHING,
    FLAG,
    TEXT,
    ListOf,
    Maybe,
    Number,
    OneOf,
    Record,
    Table,
    TupleOf,
    Whole,
    check,
    shown,
)
from innerloop.learner.tensors import TENSORS, Like, TensorOf
from innerloop.rules.base import RuleState

__all__ = ["CHECKPOINT", "CHECKPOINT_FILE", "read_checkpoint"]

CHECKPOINT_FILE = "checkpoint.safetensors"
"""The name of the file in a run's folder."""

REMEDY = "train into a new folder"

EXECUTION = Maybe(
    Whole(1), OneOf(tuple(name for choice in get_args(Execution) for name in get_args(choice))), empty=False
)

CHECKPOINT = Record(
    {
        "iteration": Whole(0),
        "best": Maybe(Number(finite=False)),
        "validated": Whole(0),
        "meta_params": TENSORS,
        "optimizer": Record(
            {
                "state": Table(Table(ANYTHING), key=Whole(0)),
                "param_groups": ListOf(Table(ANYTHING)),
            }
        ),
        "scheduler": Maybe(Table(ANYTHING)),
        "rule_state": ANYTHING,  # depends on the rule
        "window": Record({"iterations": Whole(0), "sums": Table(TensorOf(torch.float64, ()))}),
        "random": Record({"cpu": TensorOf(torch.uint8), "cuda": Maybe(TensorOf(torch.uint8))}),
    },
    # Older files do not have these.
    optional={
        "execution": EXECUTION,
        "plans": ListOf(TupleOf((ListOf(Whole(0), of=tuple), Whole(1), FLAG, Whole(1)))),
        "threads": Whole(1),
        "callbacks": Table(Table(ANYTHING)),
        "best_learners": ListOf(TupleOf((Whole(0), TEXT, Number()))),
    },
)
"""The contents of a checkpoint that do not depend on what is trained."""


def read_checkpoint(
    path: Path,
    *,
    meta_params: Mapping[str, Tensor],
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    rule_state: Callable[[], RuleState],
) -> dict[str, Any]:
    """Read a checkpoint and check that all of it fits the run that resumes from it.

    Args:
        path: the file.
        meta_params: the meta-parameters of the run.
        optimizer: the optimizer of the run.
        scheduler: the scheduler of the run.
        rule_state: makes a new state of the run's rule, for one task.

    Raises:
        CheckpointError: the file is missing or damaged, or belongs to another network, method, optimizer or scheduler.
    """
    state = load_state(path)
    check(state, CHECKPOINT, path, REMEDY)
    if {n: _type(p) for n, p in state["meta_params"].items()} != {n: _type(p) for n, p in meta_params.items()}:
        raise CheckpointError(
            f"{path} holds the parameters of another network or method: "
            f"{_difference(state['meta_params'], meta_params)}; {REMEDY}"
        )
    state["optimizer"] = _optimizer_state(state["optimizer"], optimizer, path)
    if (state["scheduler"] is None) != (scheduler is None):
        has, have = ("no", "one") if state["scheduler"] is None else ("a", "none")
        raise CheckpointError(f"{path} is from a run with {has} scheduler, and now there is {have}; {REMEDY}")
    if scheduler is not None:
        now = {name: value for name, value in scheduler.state_dict().items() if not _is_private(name)}
        public = {name: value for name, value in state["scheduler"].items() if not _is_private(name)}
        check({"scheduler": public}, Record({"scheduler": Like(now)}), path, f"is it another scheduler's? {REMEDY}")
        private = {n: Like(v) for n, v in scheduler.state_dict().items() if _is_private(n) and n in state["scheduler"]}
        kept = {name: state["scheduler"][name] for name in private}
        check({"scheduler": kept}, Record({"scheduler": Record(private)}), path, REMEDY)
        state["scheduler"] = {**public, **kept}
    if state["rule_state"] is not None:
        kind = Record({"rule_state": Like(rule_state())})
        check({"rule_state": state["rule_state"]}, kind, path, f"is it another method's? {REMEDY}")
    random = torch.get_rng_state()
    check({"cpu": state["random"]["cpu"]}, Record({"cpu": TensorOf(random.dtype, tuple(random.shape))}), path, REMEDY)
    return dict(state)


def _optimizer_state(state: dict[str, Any], optimizer: Optimizer, path: Path) -> dict[str, Any]:
    """Return the state of an optimizer, after checking that it fits this optimizer and its parameters."""
    remedy = f"is it another optimizer's, or of another version of PyTorch? {REMEDY}"
    another = f"{path} holds the state of another optimizer"
    now = optimizer.state_dict()["param_groups"]
    check({"optimizer": {"param_groups": state["param_groups"]}}, _groups(now), path, remedy)
    for saved, own in zip(state["param_groups"], now, strict=True):
        if saved["params"] != own["params"]:
            raise CheckpointError(f"{another}: its groups have other parameters; {REMEDY}")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = _state_names(optimizer)
    for index, entries in state["state"].items():
        place = f"optimizer.state.{index}"
        if index >= len(parameters):
            raise CheckpointError(f"{another}: there is no parameter {index}; {REMEDY}")
        if names is not None and entries.keys() != names:
            has, must = (", ".join(map(str, each)) or "nothing" for each in (entries, sorted(names)))
            raise CheckpointError(f"{another}: {place} has {has}, and must have {must}; {REMEDY}")
        if names is not None:
            shape = tuple(parameters[index].shape)
            kinds = Maybe(TensorOf(shape=shape), TensorOf(shape=()), Number(finite=False))
            check(entries, Table(_Placed(kinds, place)), path, remedy)
    return state


def _groups(now: list[dict[str, Any]]) -> Record:
    return Record({"optimizer": Record({"param_groups": Like(now)})})


def _state_names(optimizer: Optimizer) -> set[str] | None:
    """The names of what an optimizer of PyTorch keeps for each parameter; None if a trial cannot show them."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim"):
        return None
    takes = inspect.signature(kind).parameters
    settings = {name: value for name, value in optimizer.param_groups[0].items() if name in takes and name != "params"}
    trial = nn.Parameter(torch.zeros(2, 2))
    trial.grad = torch.zeros(2, 2)
    try:
        other = kind([trial], **settings)
        other.step()
    except (TypeError, ValueError, RuntimeError):
        return None
    return set(other.state[trial])


class _Placed:
    """A kind at a fixed place of the file, for parts that are checked separately."""

    def __init__(self, kind: Maybe, place: str) -> None:
        self.kind, self.place, self.expected = kind, place, kind.expected

    def check(self, value: Any, place: str) -> None:
        """See :class:`innerloop.learner.schema.Kind`."""
        self.kind.check(value, f"{self.place}.{place}")


def _is_private(name: str) -> bool:
    """Whether a field of a scheduler is private to PyTorch. Such fields differ between its releases."""
    return name.startswith("_")


def _type(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)


def _difference(saved: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> str:
    """A message on the first parameter that differs."""
    for name, parameter in now.items():
        if name not in saved:
            return f"{name} is not in it"
        if _type(saved[name]) != _type(parameter):
            return f"{name} is {shown(saved[name])}, and now it is {shown(parameter)}"
    return f"{next(name for name in saved if name not in now)} is not in this one"
