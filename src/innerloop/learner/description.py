"""A learner's two files: what each must hold, and how to make the network and the method from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from innerloop.data import Preprocessing
from innerloop.engine.messages import first_line
from innerloop.inner.losses import LOSSES
from innerloop.inner.meta import Meta
from innerloop.inner.model import Norm
from innerloop.inner.selection import partition
from innerloop.learner.files import CheckpointError
from innerloop.learner.schema import ANYTHING, TEXT, Maybe, OneOf, Record, Table, arguments_of, check, shown
from innerloop.learner.tensors import TENSORS, Rows
from innerloop.methods.base import METHODS, Method
from innerloop.nets import NETS
from innerloop.nets.own import OwnNetworkError, is_own, made_by_own
from innerloop.params import detached
from innerloop.parts import describe, restore
from innerloop.rules.base import RuleState

__all__ = [
    "DESCRIPTION",
    "FORMAT",
    "WEIGHTS",
    "described",
    "fresh_rule_state",
    "made_net",
    "restored",
    "restored_preprocessing",
    "statistics_of",
    "unfit_tensor",
]

FORMAT = "innerloop-learner-1"
"""The name of the format of ``learner.json``."""

DESCRIPTION = Record(
    {
        "format": OneOf((FORMAT,)),
        "net": Maybe(Record({"name": TEXT, "arguments": Table(ANYTHING)})),
        "method": Maybe(Table(ANYTHING)),  # innerloop.parts describes its form
        "loss": OneOf(tuple(LOSSES)),
        "norm": OneOf(get_args(Norm)),
        "about": Table(ANYTHING),
    },
    optional={"preprocessing": Maybe(Table(ANYTHING))},  # older folders have none
)
"""The contents of ``learner.json``."""

WEIGHTS = Record(
    {"net": TENSORS, "learned": TENSORS, "rule_state": ANYTHING},
    optional={"statistics": Maybe(TENSORS)},  # older folders have none
)
"""The contents of ``learner.safetensors``. The form of the rule's state depends on the rule."""


def fresh_rule_state(method: Method, meta: Meta) -> RuleState:
    """The inner rule's state before the first step, for one task."""
    adapted, _ = partition(meta.model, method.adaptation.adapt)
    return method.adaptation.rule.init(detached(adapted), detached(meta.learned))


def described(part: Method | Preprocessing) -> Any:
    """The description of a method or a preprocessing.

    If it cannot be described, the reason, so that its learner can still be saved.
    """
    try:
        return describe(part)
    except ValueError as error:
        return {"undescribed": str(error)}


def restored(description: dict[str, Any], path: Path) -> Method:
    """Make the method from its description. Older descriptions are a registered name and its arguments."""
    try:
        if description.keys() == {"name", "arguments"}:
            check(
                description, Record({"name": OneOf(tuple(METHODS)), "arguments": Table(ANYTHING)}), path, "train again"
            )
            return METHODS[description["name"]](**description["arguments"])
        method = restore(description)
    except (TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is damaged: method cannot be made: {first_line(error)}; train again") from error
    if not isinstance(method, Method):
        kind = type(method).__name__
        raise CheckpointError(f"{path} is damaged: method is a {kind}, and must be a Method; train again")
    return method


def restored_preprocessing(description: dict[str, Any], path: Path) -> Preprocessing:
    """Make the preprocessing from its description."""
    if "undescribed" in description:
        reason = description["undescribed"]
        raise CheckpointError(f"{path} does not say how inputs are prepared ({reason}); pass it as preprocessing=")
    try:
        preprocessing = restore(description)
    except (TypeError, ValueError) as error:
        reason = f"preprocessing cannot be made: {first_line(error)}"
        raise CheckpointError(f"{path} is damaged: {reason}; pass it as preprocessing=, or train again") from error
    if not isinstance(preprocessing, Preprocessing):
        kind = type(preprocessing).__name__
        raise CheckpointError(f"{path} is damaged: preprocessing is a {kind}; pass it as preprocessing=")
    return preprocessing


def made_net(spec: dict[str, Any], path: Path) -> nn.Module:
    """Make the network that a description names."""
    if isinstance(spec["name"], str) and is_own(spec["name"]):
        try:
            return made_by_own(spec["name"], spec["arguments"])
        except OwnNetworkError as error:
            raise CheckpointError(f"{path}: {error}; or pass it as net=") from error
    _check_name("net", spec, NETS, path)
    kind = Record({"net": Record({"name": TEXT, "arguments": arguments_of(NETS[spec["name"]])})})
    check({"net": spec}, kind, path, "train again")
    try:
        return NETS[spec["name"]](**spec["arguments"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"net.arguments do not make a {spec['name']}: {first_line(error)}"
        raise CheckpointError(f"{path} is damaged: {reason}; train again") from error


def _check_name(field: str, described: dict[str, Any], known: Mapping[str, Any], path: Path) -> None:
    kind = Record({field: Record({"name": OneOf(tuple(known)), "arguments": Table(ANYTHING)})})
    check({field: described}, kind, path, "train again")


def unfit_tensor(saved: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> str | None:
    """A message on the first tensor of a network that is absent or has another shape or type; None if all fit."""
    for name, tensor in now.items():
        if name not in saved:
            return f"{name} is not among them"
        one = saved[name]
        if one.shape != tensor.shape or one.is_floating_point() != tensor.is_floating_point():
            return f"{name} is {shown(one)}, and the network has {shown(tensor)}"
    unknown = next((name for name in saved if name not in now), None)
    return None if unknown is None else f"the network has no {unknown}"


def statistics_of(net: nn.Module) -> Record:
    """The form of batch-norm statistics for each step: ``[steps, channels]`` for layers of the network."""
    kinds = {}
    for name, layer in net.named_modules():
        if channels := getattr(layer, "num_features", None):
            for part in ("running_mean", "running_var"):
                kinds[f"{name}.{part}".removeprefix(".")] = Rows(channels)
    return Record({}, optional=kinds)
