"""The learners that the page sets side by side, and what they answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from innerloop.learner.description import made_net
from innerloop.learner.files import CheckpointError
from innerloop.learner.learner import Learner
from innerloop.learner.pretrained import pretrained
from innerloop.learner.trace import Trace

__all__ = ["Contender", "Shown", "opened"]

MOST_WAYS, MOST_STEPS = 20, 50
DRAWN = {"omniglot": {"reptile": 0}, "glyphs": {}}
"""Data sets of drawings: the value of ink for the splits in which it is not 1."""


@dataclass(frozen=True)
class Contender:
    """A learner on the page.

    Attributes:
        key: its name in requests: letters and hyphens.
        title: its name on the page.
        learner: the learner.
        steps: the number of inner steps that the page shows.
        facts: what it was trained on and how well it does, as JSON values for the page.
        photographs: whether its own preprocessing is for the images of the page.
    """

    key: str
    title: str
    learner: Learner
    steps: int
    facts: Mapping[str, Any]
    photographs: bool = False

    def trace(self, x: Tensor, y: Tensor, queries: Tensor, ways: int) -> Trace:
        """The inner loop on a task of ``ways`` classes, see :meth:`innerloop.Learner.trace`."""
        return self.learner.trace(self._inputs(x), y, self._inputs(queries), ways=ways, steps=self.steps)

    def _inputs(self, x: Tensor) -> Tensor:
        """Images from 0 to 1 as the network takes them."""
        preprocessing = self.learner.preprocessing
        if preprocessing is None or not self.photographs or not len(x):
            return x
        levels = (255 * x).round().byte().permute(0, 2, 3, 1).numpy()
        return preprocessing([each[..., 0] if each.shape[-1] == 1 else each for each in levels])

    @property
    def any_ways(self) -> bool:
        """Whether the learner makes a head for each task, of any number of classes."""
        return bool(getattr(self.learner.method.test.start, "any_ways", False))

    def answer(self, x: Tensor, y: Tensor, queries: Tensor, ways: int) -> dict[str, Any]:
        """The support losses, the class probabilities of a query after each step, and the time, as JSON values."""
        started = time.perf_counter()
        trace = self.trace(x, y, queries, ways)
        # A network with a head for more classes than the task has can only choose among those of the task.
        probabilities = trace.outputs[..., :ways].softmax(-1)
        return {
            "id": self.key,
            "losses": _plain(trace.support_loss),
            "probabilities": _plain(probabilities[:, 0]) if len(queries) else None,
            "milliseconds": round(1000 * (time.perf_counter() - started), 1),
        }

    def header(self) -> dict[str, Any]:
        """What the file of an adapted network says of this learner. The network is described as a value."""
        return {
            "format": "innerloop-adapted-1",
            "learner": self.key,
            "net": dict(self.learner.net_spec or {}),
            "norm": self.learner.norm,
            "steps": str(self.steps),
        }

    def adapted(self, x: Tensor, y: Tensor, ways: int, names: Sequence[str]) -> bytes:
        """The network adapted to a task, as a safetensors file.

        It holds all parameters, and the support set as ``support``, which batch norm needs beside each query. The
        header names the network, its arguments, the classes and how batch norm is used.
        """
        trace = self.trace(x, y, x[:0], ways)
        header = self.header()
        net = {**header["net"], "arguments": {**header["net"].get("arguments", {}), "ways": trace.outputs.shape[-1]}}
        header |= {"net": json.dumps(net), "classes": json.dumps(list(names), ensure_ascii=False)}
        tensors = {name: tensor.contiguous() for name, tensor in trace.params.items()}
        return save({**tensors, "support": self._inputs(x).contiguous()}, metadata=header)


@dataclass(frozen=True)
class Shown:
    """What the page shows: the learners, and the images that they take.

    Attributes:
        contenders: the learners.
        channels: 1 for grey, 3 for colour.
        size: the height and the width of the images in pixels.
        ink: the value of ink where the images are drawings; None for photographs.
        ways: the most classes.
    """

    contenders: tuple[Contender, ...]
    channels: int = 1
    size: int = 28
    ink: Literal[0, 1] | None = 1
    ways: int = MOST_WAYS


def opened(run: Path | None = None) -> Shown:
    """The learners of a page: those of the package, or the one of a run. An untrained network stands beside them.

    A query comes alone. So a learner that normalises all queries together takes the mode ``inductive`` here.

    Args:
        run: the folder of a training run or of a saved learner.

    Raises:
        CheckpointError: there is no learner in the folder, it is damaged, or it does not classify square images.
    """
    if run is None:
        maml, reptile = pretrained("omniglot-maml"), pretrained("omniglot-reptile")
        first, second = (_contender(key, one) for key, one in (("maml", maml), ("reptile", reptile)))
        return Shown((first, second, _untrained(reptile, first.steps)))
    learner = Learner.load(run)
    if learner.norm == "transductive":  # a drawing comes alone, and there are no other queries to be normalised with
        learner = Learner.load(run, norm="inductive")
    channels, size, ways = _images_of(learner, run)
    own = _contender("run", learner, title=str(learner.about.get("recipe", run.name or run.absolute().name)))
    ink = _ink(learner, run)
    both = (own, _untrained(learner, own.steps))
    return Shown(
        tuple(replace(one, photographs=ink is None) for one in both),
        channels,
        size,
        ink,
        MOST_WAYS if own.any_ways else min(MOST_WAYS, ways),
    )


def _contender(key: str, learner: Learner, title: str = "") -> Contender:
    about = learner.about
    facts: dict[str, Any] = {name: about[name] for name in ("data", "accuracy", "command") if name in about}
    steps = min(MOST_STEPS, learner.method.test.steps)
    return Contender(key, title or str(about.get("title", key)), learner, steps, facts)


def _untrained(learner: Learner, steps: int) -> Contender:
    """The same network with random weights, and the same inner loop."""
    spec = learner.net_spec or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = made_net(dict(spec), Path("learner.json"))
    made = Learner(
        net,
        learner.method,
        loss_fn=learner.loss_fn,
        norm=learner.norm,
        net_spec=spec,
        statistics=learner.statistics,
        preprocessing=learner.preprocessing,
    )
    return Contender("untrained", "", made, steps, {})


def _images_of(learner: Learner, run: Path) -> tuple[int, int, int]:
    """The channels and the size of the images that a learner classifies, and its number of classes."""
    arguments = (learner.net_spec or {}).get("arguments", {})
    if "ways" not in arguments:
        raise CheckpointError(f"the learner in {run} does not classify images, and the page shows nothing else")
    channels, size = arguments.get("channels", 1), arguments.get("size", 28)
    if channels not in (1, 3) or not 8 <= size <= 128:
        raise CheckpointError(
            f"the learner in {run} takes {size}x{size} images of {channels} channels, and the page makes images of 1 "
            "or 3 channels and at most 128x128 pixels"
        )
    return channels, size, arguments["ways"]


def _ink(learner: Learner, run: Path) -> Literal[0, 1] | None:
    """The value of ink in the images that a run was trained on; None if they are no drawings."""
    if "ink" in learner.about:
        return 1 if learner.about["ink"] else 0
    try:
        config = json.loads((run / "config.json").read_text())["config"]
        inks = DRAWN[config["dataset"]]
        return 0 if inks.get(config.get("dataset_settings", {}).get("scheme"), 1) == 0 else 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(values: Tensor) -> Any:
    """Numbers for JSON, which knows no infinity."""
    return values.nan_to_num(0.0, 1e9, -1e9).tolist()
