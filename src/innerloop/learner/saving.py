"""Write a learner's two files, and read what they hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from innerloop.data import Preprocessing
from innerloop.inner.losses import LOSSES, LossFn
from innerloop.inner.meta import Meta
from innerloop.inner.model import Norm
from innerloop.learner.description import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    described,
    fresh_rule_state,
    made_net,
    restored,
    restored_preprocessing,
    statistics_of,
    unfit_tensor,
)
from innerloop.learner.files import CheckpointError, load_json, load_state, save_state, write_atomically
from innerloop.learner.schema import Record, check
from innerloop.learner.tensors import Like
from innerloop.methods.base import Method

__all__ = ["Saved", "read_learner", "unfit_learner", "write_learner"]

DESCRIPTION_FILE, WEIGHTS_FILE = "learner.json", "learner.safetensors"


@dataclass(frozen=True)
class Saved:
    """What a learner is made of, and what its files hold. The fields are the arguments of ``Learner``."""

    net: nn.Module
    method: Method
    meta: Meta
    loss_fn: LossFn
    norm: Norm
    net_spec: Mapping[str, Any] | None
    preprocessing: Preprocessing | None
    about: dict[str, Any]


def write_learner(saved: Saved, folder: Path) -> None:
    """Write the two files into a folder, which is made if it does not exist.

    Raises:
        ValueError: the loss is not one of :data:`innerloop.inner.losses.LOSSES`.
    """
    losses = [name for name, fn in LOSSES.items() if fn is saved.loss_fn]
    if not losses:
        raise ValueError(f"only learners with one of the losses {', '.join(LOSSES)} can be saved")
    description = {
        "format": FORMAT,
        "net": saved.net_spec,
        "method": described(saved.method),
        "loss": losses[0],
        "norm": saved.norm,
        "preprocessing": None if saved.preprocessing is None else described(saved.preprocessing),
        "about": saved.about,
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "net": dict(saved.net.state_dict()),
        "learned": saved.meta.learned,
        "rule_state": saved.meta.state,
        "statistics": saved.meta.statistics,
    }
    save_state(state, folder / WEIGHTS_FILE)
    write_atomically(folder / DESCRIPTION_FILE, (json.dumps(description, indent=2) + "\n").encode())


def read_learner(
    folder: Path,
    *,
    net: nn.Module | None,
    method: Method | None,
    preprocessing: Preprocessing | None,
    device: torch.device | str,
) -> Saved:
    """Read the two files of a folder. What is given replaces what they describe.

    Raises:
        CheckpointError: there is no learner in the folder, it is damaged, or it does not describe what is not given.
    """
    path, weights = folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE
    if not path.exists():
        raise CheckpointError(
            f"there is no learner in {folder} (no {DESCRIPTION_FILE}); give the folder of a finished training run"
        )
    description = load_json(path)
    check(description, DESCRIPTION, path, "train again")
    net_spec, method_spec = description["net"], description["method"]
    if net is None and net_spec is not None:
        net = made_net(net_spec, path)
    if method is None and method_spec is not None and "undescribed" not in method_spec:
        method = restored(method_spec, path)
    if net is None or method is None:
        absent, argument = ("network", "net") if net is None else ("method", "method")
        why = f" ({method_spec['undescribed']})" if net is not None and method_spec else ""
        raise CheckpointError(f"{folder} does not say which {absent} it holds{why}; pass it as {argument}=")
    if preprocessing is None and description.get("preprocessing"):
        preprocessing = restored_preprocessing(description["preprocessing"], path)
    state = load_state(weights, device)
    check(state, WEIGHTS, weights, "train again")
    net = copy.deepcopy(net).to(device)
    if unfit := unfit_tensor(state["net"], net.state_dict()):
        raise CheckpointError(f"the weights in {folder} do not fit the network: {unfit}; load them into their own")
    net.load_state_dict(state["net"])
    if state.get("statistics"):
        kind = Record({"statistics": statistics_of(net)})
        check({"statistics": state["statistics"]}, kind, weights, "train again")
    if state["rule_state"] is not None:
        try:
            own = method.meta({name: p for name, p in net.named_parameters() if p.requires_grad})
            kind = Record({"rule_state": Like(fresh_rule_state(method, own))})
        except ValueError as error:
            raise unfit_learner(folder, error) from error
        check({"rule_state": state["rule_state"]}, kind, weights, "is it another method's? Train again")
    return Saved(
        net,
        method,
        Meta({}, state["learned"], state["rule_state"], state.get("statistics")),
        LOSSES[description["loss"]],
        description["norm"],
        net_spec,
        preprocessing,
        description["about"],
    )


def unfit_learner(folder: Path, error: ValueError) -> CheckpointError:
    """The error of a folder whose learner does not fit the method."""
    what = f"what {folder} holds is of another method or an earlier version: {error}"
    return CheckpointError(f"{what}; pass its own as method=, or train again")
