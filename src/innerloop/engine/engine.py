"""``Engine`` runs the tasks of a meta-batch: one by one, all together, or in chunks.

:func:`innerloop.meta_gradient` and :func:`innerloop.adapt` are the plain functions for single calls.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.engine.bound import BoundParts, watched
from innerloop.engine.calibrate import timed
from innerloop.engine.caller import Caller, normal_mode, usual
from innerloop.engine.chosen import ChosenPlans
from innerloop.engine.compiled import CompiledEstimates
from innerloop.engine.estimate import Estimate
from innerloop.engine.explain import Explanation, threads_in_words
from innerloop.engine.fallback import advised, with_a_loop_to_fall_back_on
from innerloop.engine.forward import EngineTasks
from innerloop.engine.kernels import why_no_kernels
from innerloop.engine.packing import Packing
from innerloop.engine.plans import Execution, Plan, candidates, checked, planned
from innerloop.engine.precision import Precision, checked_precision, computing_in
from innerloop.engine.replay import Replay, Replays, checked_replay
from innerloop.engine.runtime import runtime
from innerloop.engine.targets import with_own_targets
from innerloop.engine.threads import Workers
from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation, draw_batches
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.losses import LossFn
from innerloop.inner.meta import Meta
from innerloop.inner.model import Norm, StatelessModel
from innerloop.inner.problem import Problem
from innerloop.metagrad.base import Info
from innerloop.methods.base import Method
from innerloop.params import Params, map_params
from innerloop.randomness import RandomState
from innerloop.rules.base import RuleState

__all__ = ["Engine"]

T = TypeVar("T")

FIRST_CALLS = 8
"""The most calls that an engine needs to reach its full speed."""


class Engine:
    """Computes meta-gradients of a module and its loss, and adapts the module to tasks.

    Args:
        net: any ``nn.Module`` that maps one tensor to one tensor, with the batch as first axis. It is never changed.
        loss_fn: ``(outputs, targets) -> scalar``, a mean over the examples of one task.
        norm: the normalisation mode, see :mod:`innerloop.inner.model`.
        execution: how tasks are run, see :data:`innerloop.engine.plans.Execution`.
        precision: see :data:`innerloop.engine.precision.Precision`.
        compile: whether to compile meta-gradients, once for each size of episode. On a GPU this takes the host out of
            the loop. On a CPU it replaces the kernels of :mod:`innerloop.engine.kernels`, which are usually faster.
        replay: whether repeated meta-gradients are recorded and replayed on a CPU. ``auto`` records a meta-gradient
            only if it is shown to depend on nothing but its inputs. ``always`` is your promise that it does, where that
            cannot be shown. ``off`` records nothing.
        unused: whether a parameter that the loss does not use is an error, or gets a gradient of zero.
        training: whether layers such as dropout are in training mode. By default they have the modes of ``net``.
        statistics: the batch-norm statistics of the ``per_step`` mode. That mode is for adapting and predicting, not
            for meta-gradients.

    Raises:
        ValueError: an unknown option, or a module that cannot be used (see
            :class:`innerloop.inner.model.StatelessModel`).
    """

    def __init__(
        self,
        net: nn.Module,
        loss_fn: LossFn = F.cross_entropy,
        *,
        norm: Norm = "transductive",
        execution: Execution = "auto",
        precision: Precision = "full",
        compile: bool = False,  # noqa: A002 - torch's word
        replay: Replay = "auto",
        unused: Literal["error", "ignore"] = "error",
        training: bool | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        if unused not in ("error", "ignore"):
            raise ValueError(f"unused is {unused!r}; choose 'error' or 'ignore'")
        self._make_model = partial(StatelessModel, net, norm, training=training, statistics=statistics)
        self.model = self._make_model()
        self._at_test = self.model if training is False else None
        self._precision = checked_precision(precision)
        self._compiled = CompiledEstimates() if compile else None
        self._replay = checked_replay(replay)
        self._recorded = replay != "off"
        self._replays = Replays(replay)
        self._workers = Workers()
        self._net = net
        self.packed = Packing(net)
        self._lock = threading.RLock()
        self._calls_inside = 0
        self._proved = False  # whether the model has run as planned
        self._draws = False  # whether it draws random numbers, as dropout does
        self._bound: str | None = None  # what the module and its loss use that only the caller's thread has
        self._bound_parts = BoundParts()  # the same for a method
        self.chosen_plans = ChosenPlans()
        self._latest: Plan | None = None
        self._not_batched = ""
        self.loss_fn = self._loss_seen = loss_fn
        self.execution: Execution = checked(execution)
        self.unused: Literal["error", "ignore"] = unused

    def meta_gradient(
        self,
        method: Method,
        episode: Episode,
        meta_params: Mapping[str, Tensor] | None = None,
        *,
        rule_state: RuleState | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Params, Info]:
        """The meta-gradient, averaged over tasks, see :func:`innerloop.meta_gradient`."""
        with self.at_this_moment():
            self._replays.look_again()
            meta = self.packed(method.meta(self.model.initial, meta_params, state=rule_state))
            adaptation = method.adaptation

            def estimate(problem: Problem, chunk: Episode, support: Support) -> tuple[Meta, Info]:
                if not self._proved or self._draws:
                    with advised():
                        return method.meta_gradient(InnerLoop(problem, adaptation, meta, support), chunk)
                call = Estimate(method, problem, meta, chunk, support)
                return call.result(*(self._replays if self._compiled is None else self._compiled)(call))

            infos: list[Info] = []

            def gradients() -> Iterator[Meta]:
                parts = (adaptation, method.meta_gradient)
                for grads, info in self._each_chunk(estimate, adaptation, episode, generator, parts):
                    infos.append(info)
                    yield grads

            grads = functools.reduce(lambda one, other: one.map(torch.add, other), gradients())
            mean = grads.map(lambda total: (total * (1 / episode.tasks)).contiguous())
            return mean.named(), Info.joined(infos)

    def adapt(
        self,
        method: Method,
        x_support: Tensor,
        y_support: Tensor,
        meta_params: Mapping[str, Tensor] | None = None,
        *,
        rule_state: RuleState | None = None,
        generator: torch.Generator | None = None,
    ) -> Params:
        """Adapt to one task as the method does in a test, see :func:`innerloop.adapt`.

        Layers such as dropout are off.

        Args:
            method: its ``test`` adaptation is used.
            x_support: the support inputs ``[S, ...]``.
            y_support: their targets ``[S, ...]``.
            meta_params: values to start from instead of the module's own, by name.
            rule_state: the inner rule's state carried over from training.
            generator: the source of randomness of inner mini-batches.

        Returns:
            All trainable parameters by name, without a graph.
        """
        with self.at_this_moment():
            if self._at_test is None or not self._at_test.lasts():
                self._at_test = self._make_model(training=False)
            model, adaptation = self._at_test, method.test
            meta = method.meta(model.initial, meta_params, state=rule_state).map(usual)
            x, y = usual(x_support)[None], usual(y_support)[None]
            support = Support(x, y, draw_batches(adaptation, 1, x.shape[1], generator, x.device))
            tasks = EngineTasks(batched=False, recurrent=model.recurrent)
            problem = Problem(model, with_own_targets(self.loss_fn), tasks, self.unused)
            last, _ = InnerLoop(problem, adaptation, meta, support).run(Track.NOTHING)
        return {
            **map_params(Tensor.detach, last.fixed),
            **{name: t[0].detach() for name, t in last.adapted.items()},
        }

    def explain(self) -> Explanation:
        """How this engine computes, and the reasons for it. The result can be printed.

        Example:
            >>> import torch, innerloop as il
            >>> engine = il.Engine(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, replay="off")
            >>> print(engine.explain().recordings[0])
            not recorded: replay='off'
        """
        with self._lock:
            plan = "" if self._latest is None else f"{self._latest} (execution={self.execution!r})"
            plan += f"; {self._not_batched}" if self._not_batched else ""
            bound = Caller.now().bound_to or self._bound or self._bound_parts.latest
            threads = threads_in_words(bound, draws=self._draws, compiled=self._compiled is not None)
            reason = why_no_kernels()
            recordings = self._replays.explain() if self._compiled is None else ["not recorded: compile=True"]
            if self._draws:
                recordings = ["not recorded: the module or its loss draws random numbers"]
        unreadable = self.model.unreadable
        recordings += [f"the module is copied anew for each call: {unreadable}"] if unreadable else []
        return Explanation(plan, threads, "used on the CPU" if reason is None else reason, tuple(recordings))

    def warm_up(self, call: Callable[[], object]) -> None:
        """Repeat a call of this engine until the engine has reached its full speed."""
        for _ in range(FIRST_CALLS):
            call()
            if self._proved and (self._draws or self._compiled is not None or self._replays.settled):
                break

    def calibrate(
        self,
        method: Method,
        episode: Episode,
        meta_params: Mapping[str, Tensor] | None = None,
        *,
        rule_state: RuleState | None = None,
        rounds: int = 3,
    ) -> dict[Plan, float]:
        """Time the possible plans for meta-batches of this size, and use the fastest from then on.

        Other plans than the first are tried only with ``execution="auto"``. Timings vary from run to run, and another
        plan means another order of summation. To repeat a run to the bit, pass its plan as ``execution``.

        Args:
            method: as for :meth:`meta_gradient`.
            episode: as for :meth:`meta_gradient`. Its values do not matter.
            meta_params: as for :meth:`meta_gradient`.
            rule_state: as for :meth:`meta_gradient`.
            rounds: how often each plan is timed, in turns. Its best time counts.

        Returns:
            The seconds of each plan, the fastest first.
        """
        choose = partial(self.chosen_plans.choose, method.adaptation, episode)

        def run(plan: Plan | None) -> None:
            if plan is not None:
                choose(plan)
            self.meta_gradient(method, episode, meta_params, rule_state=rule_state)

        fastest = timed(
            lambda: candidates(self.execution, self.model, method.adaptation, episode, recorded=self._recorded),
            run,
            lambda plan: self.warm_up(lambda: run(plan)),
            episode.support_x.device,
            rounds,
        )
        choose(None)
        if fastest:
            self.execution = next(iter(fastest)).execution
        return fastest

    @contextlib.contextmanager
    def at_this_moment(self) -> Iterator[None]:
        """A context in which only this thread computes, with the module as it was on entry.

        The module's structure, modes, frozen parameters and attributes are read once, when the outermost such context
        is entered. They hold for all chunks.
        """
        with self._lock, normal_mode(), runtime.undisturbed():
            if not self._calls_inside:
                self._look()
            self._calls_inside += 1
            try:
                yield
            finally:
                self._calls_inside -= 1

    def _look(self) -> None:
        """Read the module and the caller's settings as they are now."""
        if not self.model.lasts():
            self.model, self._at_test = self._make_model(), None
            self.packed = Packing(self._net)
            self._proved, self._replays = False, Replays(self._replay)
        if self.loss_fn is not self._loss_seen:
            self._loss_seen, self._proved = self.loss_fn, False
        self._replays.look()

    def over_chunks(
        self,
        fn: Callable[[Problem, Episode, Support], T],
        adaptation: Adaptation,
        episode: Episode,
        generator: torch.Generator | None,
    ) -> list[T]:
        """The results of ``fn`` for each chunk of tasks, in order. Mini-batches are drawn for all tasks beforehand."""
        return list(self._each_chunk(fn, adaptation, episode, generator, (adaptation, fn)))

    def _each_chunk(
        self,
        fn: Callable[[Problem, Episode, Support], T],
        adaptation: Adaptation,
        episode: Episode,
        generator: torch.Generator | None,
        parts: tuple[Any, ...],
    ) -> Iterator[T]:
        """Yield the results one after another, so that they are not all in memory at once."""
        with self.at_this_moment():
            loss_fn, episode = with_own_targets(self.loss_fn), episode.map(usual)
            support_x = episode.support_x
            batches = draw_batches(adaptation, episode.tasks, support_x.shape[1], generator, support_x.device)

            def run(tasks: slice) -> T:
                plan, draws = self.plan(adaptation, episode), self._draws or not self._proved
                how = EngineTasks(plan.batched, self.model.recurrent, watched=draws)
                problem = Problem(self.model, loss_fn, how, self.unused)
                chunk = episode[tasks]
                support = Support(chunk.support_x, chunk.support_y, None if batches is None else batches[tasks])
                with computing_in(self._precision, support_x.device):
                    result, why = with_a_loop_to_fall_back_on(
                        lambda problem: fn(problem, chunk, support), problem, self.execution
                    )
                if why:
                    self.execution, self._not_batched = "serial", why
                    self.chosen_plans.clear()
                    warnings.warn(why, stacklevel=2)
                return result

            self._bound_parts.look(*parts)
            first = 0
            results: list[T] = []
            while first < episode.tasks and not self._proved:
                first += self._prove(run, adaptation, episode, first, results)
            plan = self._latest = self.plan(adaptation, episode)
            jobs = [slice(start, start + plan.tasks) for start in range(first, episode.tasks, plan.tasks)]
            yield from results
            if not self._side_by_side(plan, episode):
                with runtime.on_all_cores():
                    yield from map(run, jobs)
            elif len(jobs) < 2 or self._bound or self._bound_parts.latest:
                yield from map(run, jobs)
            else:
                yield from self._workers.map(Caller.now().taken_along(run), jobs, plan.threads)

    def _side_by_side(self, plan: Plan, episode: Episode) -> bool:
        """Whether chunks run side by side, with one thread each. Otherwise they take turns, each on all cores.

        Products and sums can round differently with another number of threads. So the whole episode decides, and never
        the number of chunks that are left. The first call of a process then gives the same bits as all later ones.
        """
        alone = self._draws or self._compiled is not None or Caller.now().bound_to is not None
        return plan.threads > 1 and episode.tasks > plan.tasks and not alone

    def plan(self, adaptation: Adaptation, episode: Episode) -> Plan:
        """The plan for an episode of this size."""
        usual_plan = planned(self.execution, self.model, adaptation, episode, recorded=self._recorded)
        return self.chosen_plans.get(adaptation, episode) or usual_plan

    def _prove(
        self,
        run: Callable[[slice], T],
        adaptation: Adaptation,
        episode: Episode,
        first: int,
        results: list[T],
    ) -> int:
        """Run the first chunk alone, to find out whether it runs, fits in memory, and draws random numbers.

        Add its result to ``results``, and return the number of its tasks.
        """
        plan = self.plan(adaptation, episode)
        before = RandomState.now(episode.support_x.device)
        chunk = slice(first, first + plan.tasks)
        apart = self._side_by_side(plan, episode)
        try:
            with contextlib.nullcontext() if apart else runtime.on_all_cores():
                result, self._bound = watched(partial(run, chunk), self._net, self.loss_fn)
            self._bound = self._bound or self.model.unreadable
            # Random numbers must be drawn in the same order each time. Threads would not keep the order.
            self._draws = not before.same_as(RandomState.now(before.device))
            if self._draws and apart:  # from now on chunks are computed on all cores, and so is this one
                before.restore()
                with runtime.on_all_cores():
                    result = run(chunk)
        except torch.OutOfMemoryError:
            if self.execution != "auto" or plan.tasks == 1:
                raise
            smaller = replace(plan, tasks=-(-plan.tasks // 2))
            self.chosen_plans.choose(adaptation, episode, smaller)
            warnings.warn(f"out of memory with {plan}; going on with {smaller}", stacklevel=2)
            return 0
        self._proved = True
        results.append(result)
        return plan.tasks
