"""``MetaTrainer``: what is trained, with its optimizer, and all that a run resumes from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from innerloop.data import Preprocessing
from innerloop.display import Shown
from innerloop.engine.engine import Engine
from innerloop.engine.plans import Execution
from innerloop.engine.precision import Precision
from innerloop.engine.runtime import runtime
from innerloop.episode import Episode, EpisodeSampler
from innerloop.evaluation.evaluate import Evaluation, evaluate
from innerloop.inner.losses import LossFn
from innerloop.inner.meta import METHOD_PREFIX, Meta
from innerloop.inner.model import Norm
from innerloop.inner.selection import partition
from innerloop.learner.description import fresh_rule_state
from innerloop.learner.files import CheckpointError, save_state
from innerloop.learner.learner import Learner
from innerloop.metagrad.base import Info
from innerloop.methods.base import Method
from innerloop.params import map_nested
from innerloop.randomness import RandomState, Stream, drawn_again, generator_at
from innerloop.rules.base import RuleState
from innerloop.training.callbacks import Callback, Callbacks, Training
from innerloop.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from innerloop.training.divergence import DivergedError, advise, all_finite
from innerloop.training.folder import RunFolder
from innerloop.training.loggers import loggers_of_a_folder
from innerloop.training.loop import OuterLoop, RunFiles
from innerloop.training.runlog import RunLog, RunningMeans
from innerloop.training.signals import TrainingStopped, stop_signals
from innerloop.training.validation import Validation, Validations

__all__ = ["DivergedError", "MetaTrainer", "TrainingStopped", "Validation"]


class MetaTrainer(Shown):
    r"""The outer loop.

    In each iteration it draws a meta-batch, estimates the meta-gradient, and takes an optimizer step.

    Args:
        net: the module to train. Its parameters are updated in place.
        method: the method, such as :func:`innerloop.maml`.
        optimizer: makes a ``torch.optim`` optimizer from parameters: the module's own, and what the method learns. For
            Reptile this is ``lambda params: torch.optim.SGD(params, lr=beta)``. Optimizers that evaluate the gradient
            several times in a step work with any method, see :meth:`step`.
        scheduler: makes a learning-rate scheduler from the optimizer. It steps once in each iteration.
        loss_fn: ``(outputs, targets) -> scalar``, the mean over the examples of one task.
        norm: the normalisation mode, see :mod:`innerloop.inner.model`.
        execution: how tasks are run, see :data:`innerloop.engine.plans.Execution`. ``auto`` decides by sizes alone, so
            a seed gives the same bits each time on the same machine. With ``fastest``, :meth:`fit` times the possible
            ways before it starts and reports its choice. Timings vary, so the choice and the rounding may vary. A
            resumed run keeps its choice.
        precision: see :data:`innerloop.engine.precision.Precision`.
        compile: whether meta-gradients are compiled, see :class:`innerloop.engine.engine.Engine`.
        unused: whether a parameter that the loss does not use is an error, or gets a gradient of zero.
        seed: the seed of the tasks and mini-batches. What an iteration draws depends only on the seed and the
            iteration's number.

    Raises:
        ValueError: an option is unknown, the module cannot be used, or ``adapt`` patterns do not fit it.

    Example:
        >>> import innerloop as il
        >>> net = il.nets.mlp()
        >>> trainer = MetaTrainer(net, il.maml(0.01), lambda p: torch.optim.Adam(p, 1e-3), loss_fn=F.mse_loss)
        >>> trainer.fit(il.data.sinusoids().episodes(), iterations=2)
        >>> trainer.iteration
        2
    """

    def __init__(
        self,
        net: nn.Module,
        method: Method,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        loss_fn: LossFn = F.cross_entropy,
        norm: Norm = "transductive",
        execution: Execution | Literal["fastest"] = "auto",
        precision: Precision = "full",
        compile: bool = False,  # noqa: A002 - torch's word
        unused: Literal["error", "ignore"] = "error",
        seed: int = 0,
    ) -> None:
        self.net, self.method, self.norm, self.seed = net, method, norm, seed
        self._timed = execution == "fastest"
        self._execution: Execution = "auto" if execution == "fastest" else execution
        self._engine = Engine(
            net, loss_fn, norm=norm, execution=self._execution, precision=precision, compile=compile, unused=unused
        )
        for adaptation in (method.adaptation, method.test):
            partition(self._engine.model.initial, adaptation.adapt)  # raises now if a pattern has no match
        initial = method.meta(self._engine.model.initial).named()
        self.meta_params: dict[str, nn.Parameter] = {
            name: value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone())
            for name, value in initial.items()
        }
        self.device = next(iter(self.meta_params.values())).device
        self.optimizer = optimizer(self.meta_params.values())
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.rule_state: RuleState | None = None
        self.iteration = 0
        self._threads: int | None = None  # those of the run so far, if it was resumed
        self._validations = Validations()
        self._window = RunningMeans()
        self._callbacks = Callbacks()

    @property
    def best(self) -> float | None:
        """The best score of a validation so far, if the best learner is kept."""
        return self._validations.best

    def step(self, episode: Episode, generator: torch.Generator | None = None) -> Info:
        """One outer update on a meta-batch.

        The optimizer gets a closure. It evaluates the meta-gradient of this meta-batch at the current parameters, and
        returns the mean loss (NaN if the method has none). Most optimizers call it once. Some call it several times,
        such as ``torch.optim.LBFGS`` and :class:`innerloop.SharpnessAware`. All calls use the same tasks, the same
        inner mini-batches and the same random numbers.

        A parameter that was frozen after the trainer was made is not updated.

        Args:
            episode: the tasks.
            generator: the source of randomness of inner mini-batches; by default torch's global generator.

        Raises:
            DivergedError: the meta-gradient is not finite. This is checked only on a CPU, where the check costs
                nothing. The parameters are unchanged, unless the optimizer moved them before it asked for another
                gradient.
            RuntimeError: the optimizer does not call the closure.
            ValueError: the module's parameters are not the ones that the optimizer was made for.
        """
        method, learning, again = self.method.at(self.iteration), self._learning(), drawn_again(self.device, generator)
        observed: list[Info] = []

        def closure() -> Any:
            if observed:
                again()
            grads, info = self._engine.meta_gradient(
                method, episode, learning, rule_state=self.rule_state, generator=generator
            )
            if self.device.type == "cpu" and not all_finite(grads.values()):
                raise DivergedError(f"the meta-gradient of iteration {self.iteration + 1} is not finite")
            for name, parameter in self.meta_params.items():
                parameter.grad = grads.get(name)
            observed.append(info)
            return torch.tensor(math.nan) if info.loss is None else info.loss.mean()

        self.optimizer.step(closure)
        if not observed:
            raise RuntimeError(
                f"{type(self.optimizer).__name__}.step did not call its closure, so there is no meta-gradient; use an "
                "optimizer whose step(closure) evaluates the closure, as those of torch.optim do"
            )
        info = observed[0]
        if self.scheduler is not None:
            self.scheduler.step()
        self.rule_state = info.rule_state
        self.iteration += 1
        return info

    def facts(self) -> dict[str, str]:
        """What is trained and how, in a few words each, as it prints."""
        count = sum(p.numel() for p in self.meta_params.values())
        return {
            "network": f"{type(self.net).__name__}, {count:,} meta-parameters on {self.device}",
            "method": repr(self.method),
            "optimizer": f"{type(self.optimizer).__name__}, rate {self.optimizer.param_groups[0].get('lr')}",
            "normalisation": self.norm,
            "iterations": f"{self.iteration:,}",
            "best validation": "none yet" if self.best is None else f"{self.best:.4g}",
        }

    def _learning(self) -> dict[str, nn.Parameter]:
        """The meta-parameters that are trained.

        Parameters that were frozen later, and what was learned for them, are out.
        """
        own = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        names = self.method.meta(own).named()
        odd = [n for n in names if n not in self.meta_params or (n in own and own[n] is not self.meta_params[n])]
        of_module = {n for n in self.meta_params if not n.startswith(METHOD_PREFIX)}
        odd += sorted(of_module - dict(self.net.named_parameters()).keys())
        if odd:
            raise ValueError(
                f"since the trainer was made, the parameters {', '.join(odd)} were added, replaced, unfrozen or "
                "removed, and the optimizer still has the old ones; make a new trainer"
            )
        return {name: self.meta_params[name] for name in names}

    def fit(
        self,
        episodes: EpisodeSampler,
        iterations: int,
        *,
        validation: Validation | None = None,
        callbacks: Sequence[Callback] = (),
        folder: str | Path | None = None,
        resume: bool = False,
        save_every: int = 500,
        log_every: int = 50,
        progress: bool | None = None,
        net_spec: dict[str, Any] | None = None,
        preprocessing: Preprocessing | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """Train until ``iterations`` outer updates are done.

        A folder gets a checkpoint, metrics (``metrics.jsonl``, and TensorBoard events if TensorBoard is installed), the
        learner to deploy, and under ``best`` the learners of the best validations. With a folder, SIGINT and SIGTERM
        save everything before training stops. A run that was killed resumes from its last checkpoint, to the same bits
        on the same machine.

        Args:
            episodes: draws the meta-batches.
            iterations: the number of outer updates in all.
            validation: what to validate on, and how often.
            callbacks: what is called during training, such as loggers and :class:`innerloop.EarlyStopping`.
            folder: the run's folder. It is made if it does not exist.
            resume: resume from the folder's checkpoint, if it has one.
            save_every: the number of iterations between checkpoints.
            log_every: the number of iterations between records of the metrics. A record holds means over them.
            progress: whether to show a progress bar. None shows it only on a terminal.
            net_spec: how to make the network again, for the saved learner.
            preprocessing: how inputs of new tasks are prepared, for the saved learner.
            about: anything to keep with the saved learner.

        Raises:
            DivergedError: the loss is not finite. The message names the last good checkpoint.
            TrainingStopped: a signal asked to stop. Everything is saved.
            CheckpointError: the folder holds a run and ``resume`` is not set, the run does not fit, or another training
                uses the folder.
            OSError: a file cannot be written. Everything saved before is intact.
        """
        folder = None if folder is None else Path(folder)
        with contextlib.nullcontext() if folder is None else RunFolder(folder) as held:
            if held is not None:
                checkpoint = held.path / CHECKPOINT_FILE
                if checkpoint.exists():
                    if not resume:
                        raise CheckpointError(f"{folder} already holds a run; pass resume=True, or another folder")
                    self.load(checkpoint)

            log = RunLog(iterations, self.iteration, progress=progress)
            own = [] if folder is None else loggers_of_a_folder(callbacks, log.say)
            self._callbacks = told = Callbacks([*own, *callbacks], self._callbacks.untaken)
            training = Training(self, iterations, validation, folder, log.say)
            learner = partial(self.learner, net_spec=net_spec, preprocessing=preprocessing)
            loop = OuterLoop(
                training,
                episodes,
                evaluate=self._validate,
                validations=self._validations,
                window=self._window,
                callbacks=told,
                log=log,
                files=None if held is None else RunFiles(held, learner, about or {}),
                save_every=save_every,
                log_every=log_every,
            )
            try:
                self._prepare(episodes, iterations, log)
                with stop_signals(enabled=folder is not None) as received, told.during(training), runtime.undisturbed():
                    loop.run(received)
            except DivergedError as error:
                advise(error, None if folder is None else folder / CHECKPOINT_FILE)
                raise
            finally:
                log.close()

    def evaluate(self, episodes: EpisodeSampler, *, tasks: int = 600, norm: Norm | None = None) -> Evaluation:
        """Evaluate the current meta-parameters on new tasks, see :func:`innerloop.evaluate`.

        If ``norm`` is None, it is the mode of training.
        """
        return self._evaluate(episodes, tasks, norm or self.norm, Stream.TESTING)

    def learner(
        self,
        *,
        net_spec: dict[str, Any] | None = None,
        preprocessing: Preprocessing | None = None,
        about: dict[str, Any] | None = None,
    ) -> Learner:
        """The current meta-parameters as a learner to deploy."""
        return Learner(
            self.net,
            self.method,
            meta_params=self._learning(),
            rule_state=self.rule_state,
            loss_fn=self._engine.loss_fn,
            net_spec=net_spec,
            preprocessing=preprocessing,
            about={**(about or {}), "iteration": self.iteration},
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint: everything that the next iteration depends on."""
        random = RandomState.now(self.device)
        state = {
            "iteration": self.iteration,
            "execution": self._engine.execution,
            "plans": self._engine.chosen_plans.saved(),
            "threads": runtime.cores(),
            **self._validations.state(),
            "meta_params": dict(self.meta_params),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "rule_state": self.rule_state,
            "window": self._window.state(),
            "callbacks": self._callbacks.state(),
            "random": {"cpu": random.cpu, "cuda": random.cuda},
        }
        save_state(state, path)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged, or belongs to another network, method or optimizer.
        """
        state = read_checkpoint(
            path,
            meta_params=self.meta_params,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            rule_state=lambda: fresh_rule_state(self.method, Meta.of(self.meta_params)),
        )
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, parameter in self.meta_params.items():
                parameter.copy_(state["meta_params"][name])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.rule_state = map_nested(lambda t: t.to(self.device), state["rule_state"])
        if self._engine.execution == "auto":
            self._engine.execution = state.get("execution", "auto")
            threads = runtime.cores() if self.device.type == "cpu" else 1
            self._engine.chosen_plans.restore(state.get("plans", ()), threads)
        self._threads = state.get("threads")
        self.iteration = state["iteration"]
        self._validations.restore(state)
        self._window.restore(state["window"])
        self._callbacks = Callbacks(states=state.get("callbacks"))
        cuda = state["random"]["cuda"] if self.device.type == "cuda" else None  # a run may resume on another device
        RandomState(state["random"]["cpu"], cuda, self.device).restore()

    def _prepare(self, episodes: EpisodeSampler, iterations: int, log: RunLog) -> None:
        """Report another number of threads. If it is asked for, find the fastest way to run meta-batches."""
        if self._threads not in (None, threads := runtime.cores()):
            log.say(f"this run had {self._threads} threads and now has {threads}, which rounds differently")
        if not self._timed or self._engine.execution != "auto" or self.iteration >= iterations:
            return  # the first checkpoint of a run keeps the choice
        episode = episodes(generator_at(self.seed, Stream.TRAINING, self.iteration, self.device))
        method = self.method.at(self.iteration)
        seconds = self._engine.calibrate(method, episode, self._learning(), rule_state=self.rule_state)
        if seconds:
            (plan, best), *others = seconds.items()
            slower = "; ".join(f"{other}: {time / best:.1f} times as long" for other, time in others)
            log.say(f"running {plan}, {best:.3f} s a meta-batch ({slower})")

    def _validate(self, validation: Validation) -> Evaluation:
        return self._evaluate(validation.episodes, validation.tasks, self.norm, Stream.VALIDATION, every_step=False)

    def _evaluate(
        self, episodes: EpisodeSampler, tasks: int, norm: Norm, stream: Stream, *, every_step: bool = True
    ) -> Evaluation:
        return evaluate(
            self.net,
            self.method,
            episodes,
            tasks=tasks,
            loss_fn=self._engine.loss_fn,
            norm=norm,
            meta_params=self._learning(),
            rule_state=self.rule_state,
            execution="serial" if self._engine.execution == "serial" else self._execution,
            seed=self.seed,
            stream=stream,
            every_step=every_step,
        )
