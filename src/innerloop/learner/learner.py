"""``Learner``: a meta-learned start that adapts to new tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.data import Preprocessing
from innerloop.display import Shown
from innerloop.engine.functions import adapt
from innerloop.episode import EpisodeSampler
from innerloop.evaluation.evaluate import Evaluation, Member, evaluate_together
from innerloop.evaluation.norm_statistics import statistics_by_step
from innerloop.inner.adaptation import Adaptation, draw_batches
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.losses import LossFn
from innerloop.inner.meta import METHOD_PREFIX, Meta
from innerloop.inner.model import Norm, StatelessModel
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne
from innerloop.learner.inputs import read_inputs
from innerloop.learner.predictor import Predictor
from innerloop.learner.saving import Saved, read_learner, unfit_learner, write_learner
from innerloop.learner.task import Task, read_task
from innerloop.learner.trace import Trace, traced
from innerloop.methods.base import Method
from innerloop.params import Params, detached, map_nested, map_params
from innerloop.randomness import Stream, generator_at
from innerloop.rules.base import RuleState

__all__ = ["Learner"]


class Learner(Shown):
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
        preprocessing: makes the tensor that the network takes from inputs as a person has them. It is saved with the
            learner.
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
        preprocessing: Preprocessing | None = None,
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
        self.net_spec, self.preprocessing, self.about = net_spec, preprocessing, dict(about or {})

    def facts(self) -> dict[str, str]:
        """What the learner is, in a few words each, as it prints."""
        test, count = self.method.test, sum(p.numel() for p in self._meta.model.values())
        batch = "" if test.batch_size is None else f", {test.batch_size} examples each"
        return {
            "network": f"{(self.net_spec or {}).get('name', type(self._net).__name__)}, {count:,} parameters",
            "method": repr(self.method),
            "adapts": f"{'all parameters' if test.adapt == '*' else test.adapt}, in {test.steps} steps{batch}",
            "normalisation": self.norm,
            "inputs": "tensors and arrays" if self.preprocessing is None else repr(self.preprocessing),
            **{name: str(value) for name, value in self.about.items()},
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Learner:
        return self  # a learner never changes

    def __reduce__(self) -> tuple[Any, ...]:
        # What a learner is made of can be pickled; the private copies of its module cannot.
        arguments: dict[str, Any] = {
            "meta_params": self._meta.named(),
            "rule_state": self._meta.state,
            "statistics": self._meta.statistics,
            "loss_fn": self.loss_fn,
            "norm": self.norm,
            "net_spec": self.net_spec,
            "preprocessing": self.preprocessing,
            "about": self.about,
        }
        return partial(Learner, **arguments), (self._net, self.method)

    @property
    def statistics(self) -> Params | None:
        """The batch-norm statistics of the mode ``per_step``; None if they were not gathered."""
        return self._meta.statistics

    def adapt(self, x: Any, y: Any, *, steps: int | None = None, ways: int | None = None) -> Predictor:
        """Adapt to one task. The learner itself does not change, and the result is deterministic.

        Args:
            x: the support inputs, of ``S`` examples: a tensor ``[S, ...]`` as the network takes it, or what the
                learner's preprocessing takes, such as paths, Pillow images, arrays or a data frame. Without a
                preprocessing, tensors and arrays of numbers.
            y: the targets of the ``S`` examples. For classification these are labels of any kind: texts, numbers,
                truth values. A tensor of whole numbers from 0 to ways - 1 is taken as class indices. For regression
                they are numbers, in their own units. If inputs and targets are both floating-point tensors, they are
                taken as prepared already.
            steps: the number of inner steps. None means the method's, on new tasks.
            ways: the number of classes of the task. None means as many as there are labels; of class indices, as many
                as the learner was trained for. It can be greater than in training if the method makes a head for each
                task, as :func:`innerloop.protomaml` does.

        Raises:
            ValueError: inputs and targets differ in number, there are none, they are of the wrong kind, or there are
                more classes than this learner can tell apart.

        Example:
            >>> import innerloop as il
            >>> learner = Learner(il.nets.mlp(2, 3), il.maml(0.1))
            >>> predictor = learner.adapt([[0.0, 0.0], [1.0, 1.0]], ["left", "right"], steps=5)
            >>> predictor.predict([[1.1, 0.9], [0.1, 0.0]]).tolist()
            ['right', 'left']
        """
        task = self._task(x, y, steps, ways)
        params = adapt(
            self._net,
            replace(self.method, test_adaptation=task.adaptation),
            task.x,
            task.y,
            self.loss_fn,
            meta_params=self._meta.named(),
            norm=self.norm,
            statistics=self._meta.statistics,
            unused="ignore",
            rule_state=self._meta.state,
            generator=generator_at(0, Stream.ADAPTING, device=task.x.device),
        )
        # These are copies, because parameters that are not adapted would otherwise be the start's own tensors.
        params = map_params(Tensor.clone, params)
        model = self._model.at(task.adaptation.steps)
        return Predictor(params, task.classes, model, task.x, task.targets, self.preprocessing)

    def trace(self, x: Any, y: Any, queries: Any, *, ways: int | None = None, steps: int | None = None) -> Trace:
        """Adapt to one task, and predict before the first inner step and after each one.

        Args:
            x: the support inputs, as for :meth:`adapt`.
            y: their targets, as for :meth:`adapt`.
            queries: the inputs to predict for. There may be none.
            ways: the number of classes of the task, as for :meth:`adapt`.
            steps: the number of inner steps. None means the method's, on new tasks.

        Raises:
            ValueError: as for :meth:`adapt`.

        Example:
            >>> import innerloop as il
            >>> learner = Learner(il.nets.conv4(ways=3, filters=4), il.maml(inner_lr=0.1))
            >>> trace = learner.trace(torch.rand(3, 1, 28, 28), torch.arange(3), torch.rand(2, 1, 28, 28), steps=4)
            >>> trace.support_loss.shape, trace.probabilities.shape
            (torch.Size([5]), torch.Size([5, 2, 3]))
        """
        task, device = self._task(x, y, steps, ways), next(iter(self._meta.model.values())).device
        batches = draw_batches(task.adaptation, 1, len(task.x), generator_at(0, Stream.ADAPTING, device=device), device)
        problem = Problem(self._model, self.loss_fn, OneByOne(), unused="ignore")
        loop = InnerLoop(problem, task.adaptation, self._meta, Support(task.x[None], task.y[None], batches))
        return traced(loop, read_inputs(queries, self.preprocessing, task.x))

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
            preprocessing=self.preprocessing,
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
        saved = Saved(
            self._net,
            self.method,
            self._meta,
            self.loss_fn,
            self.norm,
            self.net_spec,
            self.preprocessing,
            self.about,
        )
        write_learner(saved, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        net: nn.Module | None = None,
        method: Method | None = None,
        preprocessing: Preprocessing | None = None,
        norm: Norm | None = None,
        device: torch.device | str = "cpu",
    ) -> Learner:
        """Read a learner from a folder that :meth:`save` or a training run wrote.

        Args:
            folder: the folder.
            net: the network, if the folder does not name it. Its values are replaced.
            method: the method, if the folder does not describe it.
            preprocessing: a preprocessing of inputs to use instead of the saved one.
            norm: a normalisation mode to use instead of the saved one.
            device: the device of the learner.

        Raises:
            CheckpointError: there is no learner in the folder, it is damaged, or ``net`` or ``method`` is needed.
        """
        saved = read_learner(Path(folder), net=net, method=method, preprocessing=preprocessing, device=device)
        try:
            return cls(
                saved.net,
                saved.method,
                meta_params=saved.meta.named(),
                rule_state=saved.meta.state,
                statistics=saved.meta.statistics,
                loss_fn=saved.loss_fn,
                norm=norm or saved.norm,
                net_spec=saved.net_spec,
                preprocessing=saved.preprocessing,
                about=saved.about,
            )
        except ValueError as error:
            raise unfit_learner(Path(folder), error) from error

    def _task(self, x: Any, y: Any, steps: int | None, ways: int | None) -> Task:
        """A support set as the network takes it, and how to adapt to it."""
        return read_task(
            x,
            y,
            self.method.test,
            steps=steps,
            ways=ways,
            preprocessing=self.preprocessing,
            loss_fn=self.loss_fn,
            like=next(iter(self._meta.model.values())),
            start=self._start,
        )

    def _start(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """The outputs of the network for the support set at the start."""
        problem = Problem(self._model, self.loss_fn, OneByOne(), unused="ignore")
        labels = torch.zeros(1, len(x), dtype=torch.int64, device=x.device)
        loop = InnerLoop(problem, adaptation, self._meta, Support(x[None], labels))
        start = loop.begin(Track.NOTHING)
        with torch.no_grad():
            return self._model({**start.fixed, **{n: t[0] for n, t in start.adapted.items()}}, x)
