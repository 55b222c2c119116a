"""``Learner``: a meta-learned start that adapts to new tasks."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.engine.functions import adapt
from innerloop.episode import EpisodeSampler
from innerloop.evaluation.evaluate import Evaluation, Member, evaluate_together
from innerloop.evaluation.norm_statistics import statistics_by_step
from innerloop.inner.adaptation import draw_batches
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.losses import LOSSES, LossFn
from innerloop.inner.meta import METHOD_PREFIX, Meta
from innerloop.inner.model import Norm, StatelessModel
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne
from innerloop.learner.description import (
    DESCRIPTION,
    FORMAT,
    WEIGHTS,
    described,
    fresh_rule_state,
    made_net,
    restored,
    statistics_of,
    unfit_tensor,
)
from innerloop.learner.files import CheckpointError, load_json, load_state, save_state, write_atomically
from innerloop.learner.predictor import Predictor
from innerloop.learner.schema import Record, check
from innerloop.learner.tensors import Like
from innerloop.learner.trace import Trace, for_ways, traced
from innerloop.methods.base import Method
from innerloop.params import Params, detached, map_nested, map_params
from innerloop.randomness import Stream, generator_at
from innerloop.rules.base import RuleState

__all__ = ["Learner"]


class Learner:
    """A meta-learned start, together with the method that adapts it. A learner never changes.

    Args:
        net: the module, which holds the meta-learned initialisation. It is copied.
        method: its ``test`` adaptation is used.
        meta_params: values to use instead of the module's own, and the values of what the method learned.
        rule_state: the inner rule's state carried over from training.
        statistics: the batch-norm statistics of the ``per_step`` mode. :meth:`with_statistics` gathers them.
        loss_fn: ``(outputs, targets) -> scalar``. To save the learner, use one of
            :data:`innerloop.inner.losses.LOSSES`.
        norm: the normalisation mode of predictions, see :mod:`innerloop.inner.model`. With ``inductive``, the default,
            a prediction does not depend on the other queries.
        net_spec: ``{"name": ..., "arguments": {...}}`` of one of :data:`innerloop.nets.NETS`. With it, :meth:`load` can
            make the network itself.
        about: anything else to keep with the learner, as JSON values.

    Raises:
        ValueError: ``meta_params`` holds something that the method does not learn.

    Example:
        >>> import innerloop as il
        >>> learner = Learner(il.nets.conv4(ways=3), il.maml(inner_lr=0.1))
        >>> predictor = learner.adapt(torch.rand(3, 1, 28, 28), torch.arange(3))
        >>> predictor.predict(torch.rand(7, 1, 28, 28)).shape, predictor.predict_proba(torch.rand(2, 1, 28, 28)).shape
        (torch.Size([7]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        net: nn.Module,
        method: Method,
        *,
        meta_params: Mapping[str, Tensor] | None = None,
        rule_state: RuleState | None = None,
        statistics: Params | None = None,
        loss_fn: LossFn = F.cross_entropy,
        norm: Norm = "inductive",
        net_spec: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._net = copy.deepcopy(net).eval()
        own = dict(self._net.named_parameters())
        given = Meta.of(meta_params or {})
        with torch.no_grad():
            for name, value in given.model.items():
                own[name].copy_(value)
        statistics = None if statistics is None else detached(statistics)
        self._model = StatelessModel(self._net, norm, training=False, statistics=statistics)
        initial = method.meta(self._model.initial)
        learned = {**initial.learned, **given.learned}
        if unfit := [n for n, t in learned.items() if n not in initial.learned or t.shape != initial.learned[n].shape]:
            names = ", ".join(METHOD_PREFIX + n for n in unfit)
            raise ValueError(f"the method learns nothing with these names and shapes: {names}")
        # These are copies, so that nothing can later write a gradient to the start or extend its graph.
        copied = Meta(initial.model, learned).map(lambda t: t.detach().clone())
        state = map_nested(lambda t: t.detach().clone(), rule_state)
        self._meta = replace(copied, state=state, statistics=statistics)
        self.method, self.loss_fn, self.norm = method, loss_fn, norm
        self.net_spec, self.about = net_spec, dict(about or {})

    @property
    def statistics(self) -> Params | None:
        """The batch-norm statistics of the mode ``per_step``; None if they were not gathered."""
        return self._meta.statistics

    def adapt(self, x_support: Tensor, y_support: Tensor) -> Predictor:
        """Adapt to one task. The learner itself does not change, and the result is deterministic.

        Args:
            x_support: the support inputs ``[S, ...]``.
            y_support: class indices ``[S]`` from 0 to ways - 1, or regression targets ``[S, ...]``.

        Raises:
            ValueError: inputs and targets differ in number, there are none, or a class index is out of range.
        """
        device = next(iter(self._meta.model.values())).device
        x, y = x_support.to(device, copy=True), y_support.to(device)
        classes = self._check(x, y, None)
        params = adapt(
            self._net,
            self.method,
            x,
            y,
            self.loss_fn,
            meta_params=self._meta.named(),
            norm=self.norm,
            statistics=self._meta.statistics,
            unused="ignore",
            rule_state=self._meta.state,
            generator=generator_at(0, Stream.ADAPTING, device=device),
        )
        # These are copies, because parameters that are not adapted would otherwise be the start's own tensors.
        return Predictor(map_params(Tensor.clone, params), classes, self._model.at(self.method.test.steps), x)

    def trace(
        self,
        x_support: Tensor,
        y_support: Tensor,
        queries: Tensor,
        *,
        ways: int | None = None,
        steps: int | None = None,
    ) -> Trace:
        """Adapt to one task, and predict before the first inner step and after each one.

        Args:
            x_support: the support inputs ``[S, ...]``.
            y_support: class indices ``[S]`` from 0 to ways - 1, or regression targets ``[S, ...]``.
            queries: the inputs to predict for, ``[Q, ...]``. There may be none.
            ways: the number of classes of the task, where the start makes the head: ``NewHead`` or ``Prototypes``.
                None means as many as the network or the start has.
            steps: the number of inner steps. None means the method's, on new tasks.

        Raises:
            ValueError: inputs and targets differ in number, there are none, a class index is out of range, or the
                start cannot make a head of this many classes.

        Example:
            >>> import innerloop as il
            >>> learner = Learner(il.nets.conv4(ways=3, filters=4), il.maml(inner_lr=0.1))
            >>> trace = learner.trace(torch.rand(3, 1, 28, 28), torch.arange(3), torch.rand(2, 1, 28, 28), steps=4)
            >>> trace.support_loss.shape, trace.probabilities.shape
            (torch.Size([5]), torch.Size([5, 2, 3]))
        """
        adaptation = for_ways(self.method.test, ways)
        adaptation = adaptation if steps is None else replace(adaptation, steps=steps)
        device = next(iter(self._meta.model.values())).device
        x, y, queries = x_support.to(device, copy=True), y_support.to(device), queries.to(device)
        self._check(x, y, ways)
        batches = draw_batches(adaptation, 1, len(x), generator_at(0, Stream.ADAPTING, device=device), device)
        problem = Problem(self._model, self.loss_fn, OneByOne(), unused="ignore")
        return traced(InnerLoop(problem, adaptation, self._meta, Support(x[None], y[None], batches)), queries)

    def with_statistics(
        self, episodes: EpisodeSampler, *, tasks: int = 100, norm: Norm | None = None, seed: int = 0
    ) -> Learner:
        """The same learner with batch-norm statistics for each inner step, which the mode ``per_step`` needs.

        Args:
            episodes: draws tasks of meta-training, with queries.
            tasks: the number of tasks to average over.
            norm: the mode of the new learner. None means this learner's mode.
            seed: the seed of the tasks.

        Raises:
            ValueError: as for :func:`innerloop.evaluation.norm_statistics.statistics_by_step`.

        Example:
            >>> import innerloop as il
            >>> learner = Learner(il.nets.conv4(ways=5, filters=4), il.maml(0.1))
            >>> tasks = il.data.glyphs("train").episodes(ways=5, shots=1, queries=1, tasks=2)
            >>> learner.with_statistics(tasks, tasks=2, norm="per_step").evaluate(tasks, tasks=2).norm
            'per_step'
        """
        statistics = statistics_by_step(
            self._net,
            self.method,
            episodes,
            tasks=tasks,
            loss_fn=self.loss_fn,
            meta_params=self._meta.named(),
            rule_state=self._meta.state,
            seed=seed,
        )
        return Learner(
            self._net,
            self.method,
            meta_params=self._meta.named(),
            rule_state=self._meta.state,
            statistics=statistics,
            loss_fn=self.loss_fn,
            norm=norm or self.norm,
            net_spec=self.net_spec,
            about=self.about,
        )

    def evaluate(
        self,
        episodes: EpisodeSampler,
        *,
        tasks: int = 600,
        norm: Norm | None = None,
        seed: int = 0,
        every_step: bool = True,
        others: Sequence[Learner] = (),
    ) -> Evaluation:
        """Adapt to new tasks and score the predictions, see :func:`innerloop.evaluate`.

        If ``norm`` is None, it is the learner's own mode. With ``others``, this learner and the others form an
        ensemble. Each adapts by itself, and their outputs are averaged, see
        :func:`innerloop.evaluation.evaluate.evaluate_together`.
        """
        members = [Member(each._net, each.method, each._meta) for each in (self, *others)]
        return evaluate_together(
            members,
            episodes,
            tasks=tasks,
            loss_fn=self.loss_fn,
            norm=norm or self.norm,
            seed=seed,
            every_step=every_step,
        )

    def save(self, folder: str | Path) -> None:
        """Write ``learner.json`` and ``learner.safetensors`` into a folder. The folder is made if it does not exist.

        Raises:
            ValueError: the loss is not one of :data:`innerloop.inner.losses.LOSSES`.
        """
        losses = [name for name, fn in LOSSES.items() if fn is self.loss_fn]
        if not losses:
            raise ValueError(f"only learners with one of the losses {', '.join(LOSSES)} can be saved")
        description = {
            "format": FORMAT,
            "net": self.net_spec,
            "method": described(self.method),
            "loss": losses[0],
            "norm": self.norm,
            "about": self.about,
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "net": dict(self._net.state_dict()),
            "learned": self._meta.learned,
            "rule_state": self._meta.state,
            "statistics": self._meta.statistics,
        }
        save_state(state, folder / "learner.safetensors")
        write_atomically(folder / "learner.json", (json.dumps(description, indent=2) + "\n").encode())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        net: nn.Module | None = None,
        method: Method | None = None,
        norm: Norm | None = None,
        device: torch.device | str = "cpu",
    ) -> Learner:
        """Read a learner from a folder that :meth:`save` or a training run wrote.

        Args:
            folder: the folder.
            net: the network, if the folder does not name it. Its values are replaced.
            method: the method, if the folder does not describe it.
            norm: a normalisation mode to use instead of the saved one.
            device: the device of the learner.

        Raises:
            CheckpointError: there is no learner in the folder, it is damaged, or ``net`` or ``method`` is needed.
        """
        folder = Path(folder)
        path, weights = folder / "learner.json", folder / "learner.safetensors"
        if not path.exists():
            raise CheckpointError(
                f"there is no learner in {folder} (no learner.json); give the folder of a finished training run"
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
        state = load_state(weights, device)
        check(state, WEIGHTS, weights, "train again")
        net = copy.deepcopy(net).to(device)
        if unfit := unfit_tensor(state["net"], net.state_dict()):
            raise CheckpointError(f"the weights in {folder} do not fit the network: {unfit}; load them into their own")
        net.load_state_dict(state["net"])
        if state.get("statistics"):
            kind = Record({"statistics": statistics_of(net)})
            check({"statistics": state["statistics"]}, kind, weights, "train again")
        try:
            if state["rule_state"] is not None:
                own = method.meta({name: p for name, p in net.named_parameters() if p.requires_grad})
                kind = Record({"rule_state": Like(fresh_rule_state(method, own))})
                check({"rule_state": state["rule_state"]}, kind, weights, "is it another method's? Train again")
            return cls(
                net,
                method,
                meta_params=Meta({}, state["learned"]).named(),
                rule_state=state["rule_state"],
                statistics=state.get("statistics"),
                loss_fn=LOSSES[description["loss"]],
                norm=norm or description["norm"],
                net_spec=net_spec,
                about=description["about"],
            )
        except CheckpointError:
            raise
        except ValueError as error:
            what = f"what {folder} holds is of another method or an earlier version: {error}"
            raise CheckpointError(f"{what}; pass its own as method=, or train again") from error

    def _check(self, x: Tensor, y: Tensor, ways: int | None) -> Tensor | None:
        """The class indices of a support set, None for regression. Raise if they do not fit its inputs or the ways."""
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(f"there are {len(x)} support inputs and {len(y)} targets; give one target for each input")
        if y.is_floating_point():
            return None
        classes: Tensor = y.unique()
        ways = ways or self._ways(x, y)
        if int(classes[0]) < 0 or int(classes[-1]) >= ways:
            raise ValueError(
                f"the support set has the class indices {classes.tolist()}, and this learner was trained for "
                f"{ways} ways: number the classes from 0 to {ways - 1}"
            )
        return classes

    def _ways(self, x: Tensor, y: Tensor) -> int:
        """The number of classes: the outputs of the network at the start, which may have replaced the head."""
        problem = Problem(self._model, self.loss_fn, OneByOne(), unused="ignore")
        loop = InnerLoop(problem, self.method.test, self._meta, Support(x[None], torch.zeros_like(y)[None]))
        start = loop.begin(Track.NOTHING)
        with torch.no_grad():
            return self._model({**start.fixed, **{n: t[0] for n, t in start.adapted.items()}}, x).shape[-1]
