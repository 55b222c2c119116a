"""A module as a pure function of its parameters, and the one place that decides what batch norm normalises by.

Normalisation modes (:data:`Norm`), to be named beside every accuracy:

``transductive``
    Every batch is normalised by its own statistics; the query set is one batch, so a prediction depends on the
    other queries. The published MAML and MAML++ numbers are of this kind.
``inductive``
    Each query is normalised together with the support set and nothing else, as in the first row of the tables
    of Nichol et al., 2018 (Reptile): a prediction never depends on the other queries.
``running``
    By the statistics stored in the module, at adaptation and at prediction. Also independent of other queries.
``per_step``
    For evaluation: at inner iterate k by statistics that were gathered at iterate k on tasks of meta-training, see
    :func:`innerloop.evaluation.norm_statistics.statistics_by_step`, as MAML++ is described (Antoniou et al., 2019,
    section 4, BNRS).
    Also independent of other queries. Meta-training goes on with batch statistics, as in MAML++'s published code.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.parameter import UninitializedParameter

from innerloop.inner.layers import BATCH_NORMS, NORMS, has_hooks
from innerloop.inner.meta import METHOD_PREFIX
from innerloop.inner.moment import Moment
from innerloop.inner.private import CopyOfThread, PrivateCopy, levels
from innerloop.params import Params

__all__ = ["Norm", "StatelessModel"]

Norm = Literal["transductive", "inductive", "running", "per_step"]
"""How batch statistics are taken; see the module's documentation."""


class StatelessModel:
    """A private, stateless view of a user's module.

    The view shares the user's parameters and copies everything that a forward pass may write to, so neither
    calling it nor differentiating through it changes the module, its buffers or its training mode. Batch-norm
    layers keep no statistics in it, so that none can pass from one task to another.

    Args:
        module: any ``nn.Module`` whose forward takes one tensor with the batch as its first axis and returns one.
        norm: the normalisation mode.
        training: whether layers such as dropout are in training mode; the module's own modes by default.
        statistics: those of ``per_step``, by the names of the layers' buffers: ``LAYER.running_mean`` and
            ``LAYER.running_var``, each ``[K + 1, C]`` for iterates 0 to K.

    Raises:
        ValueError: an unknown mode, ``running`` for a module that stores no statistics, ``per_step`` without those of
            every batch-norm layer, or a module whose parameters are not created yet, or none of whose parameters is
            trainable, or an embedding with ``max_norm``.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> model = StatelessModel(net)
        >>> model(model.initial, torch.zeros(2, 4)).shape
        torch.Size([2, 3])
        >>> int(net[1].num_batches_tracked)
        0
    """

    def __init__(
        self,
        module: nn.Module,
        norm: Norm = "transductive",
        *,
        training: bool | None = None,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        if norm not in get_args(Norm):
            raise ValueError(f"norm is {norm!r}; choose one of {', '.join(map(repr, get_args(Norm)))}")
        if any(isinstance(p, UninitializedParameter) for p in module.parameters()):
            raise ValueError("the module has lazy parameters; run one forward pass through it first")
        self.initial: Params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        _check_parameters(self.initial)
        self.norm: Norm = norm
        self._moment = Moment(module)
        if twice := self._moment.held_elsewhere(module, self.initial):
            raise ValueError(
                f"the module holds its parameters {', '.join(twice)} in another attribute or a list too, where the "
                "inner loop cannot put their adapted values: reach them by the layer that registers them"
            )
        master = PrivateCopy.of(module, self._moment)
        self._module_of_thread = CopyOfThread(master)
        if training is not None:
            master.module.train(training)
        _settle_embeddings(master.module)
        self._batch_norms = [name for name, m in master.module.named_modules() if isinstance(m, BATCH_NORMS)]
        self.mixes_examples = norm in ("transductive", "inductive") and bool(self._batch_norms)
        self._statistics = _checked(statistics or {}, self._batch_norms) if norm == "per_step" else {}
        _settle_norms(master.module, norm)
        for name in self._batch_norms:
            if norm == "per_step":
                layer = master.module.get_submodule(name)
                layer.running_mean, layer.running_var = (self._statistics[buffer][0] for buffer in _buffers_of(name))
                layer.eval()
        widths = [m.embedding_dim for m in master.module.modules() if isinstance(m, nn.Embedding)]
        self.embedding_width = max(widths, default=1)
        modes = {m.training for m in master.module.modules() if isinstance(m, nn.RNNBase)}
        self.recurrent: Literal["none", "training", "evaluating"] = (
            "none" if not modes else "training" if modes == {True} else "evaluating"
        )
        master.find_places()
        self.constants: Params = master.tensors_besides(self.initial)
        self._frozen = {name for name, p in master.module.named_parameters() if not p.requires_grad}
        self._may_write = any(_may_write(layer) for layer in master.module.modules())
        self._layers = {name for name, _ in master.module.named_modules()}

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module's output for one batch ``x`` of ``[N, ...]``, at these parameters of a single task."""
        frozen = {name: self.constants[name] for name in self._frozen}
        versions = [t._version for t in frozen.values()]
        # A forward pass may write to what it is given, and to all but its parameters: each gets its own.
        scratch = {n: t if n in frozen else t.detach().clone() for n, t in self.constants.items()}
        output: Tensor = self._module_of_thread().call({**scratch, **params}, x.clone() if self._may_write else x)
        if versions != [t._version for t in frozen.values()]:
            written = [n for (n, t), v in zip(frozen.items(), versions, strict=True) if t._version != v]
            raise ValueError(
                f"a forward pass writes to {', '.join(written)}, which are frozen parameters of the module; register "
                "them as buffers, of which each call gets a copy"
            )
        return output

    def lasts(self) -> bool:
        """Whether the user's module is as it was when this view was made, but for the values of its tensors.

        Its structure, modes, frozen parameters and plain attributes are looked at. The values of tensors are always
        those of now, since they are shared, or read at each call.
        """
        return self._moment.lasts()

    @property
    def unreadable(self) -> str | None:
        """What of the module cannot be looked into, so that nobody can tell whether it has changed; None if nothing."""
        return self._moment.unreadable

    def with_constants(self, constants: Mapping[str, Tensor]) -> Self:
        """The same model with other values for what it does not learn: buffers, frozen parameters, plain tensors."""
        view = copy.copy(self)
        view.constants = dict(constants)
        return view

    @property
    def module(self) -> nn.Module:
        """The private copy of the module that this thread calls; not to be changed."""
        return self._module_of_thread().module

    def at(self, step: int) -> Self:
        """The model as it is at an inner iterate, which matters to ``per_step``; beyond the last known it stays so."""
        if not self._statistics:
            return self
        view = copy.copy(self)
        rows_of_step = {n: rows[min(step, len(rows) - 1)] for n, rows in self._statistics.items()}
        view.constants = self.constants | rows_of_step
        return view

    def batch_statistics(self, params: Mapping[str, Tensor], x: Tensor) -> Params:
        """The mean and the variance ``[C]`` of what each batch-norm layer is given for a batch.

        By the names of the layers' buffers. The variance is the unbiased one, as that which PyTorch stores; of a layer
        that is called several times, the means over the calls; of one that is not called, 0 and 1.
        """
        found: dict[str, list[Tensor]] = {}

        def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            var, mean = torch.var_mean(inputs[0], [0, *range(2, inputs[0].ndim)])
            for buffer, value in zip(_buffers_of(name), (mean, var), strict=True):
                found.setdefault(buffer, []).append(value)

        layers: dict[str, Any] = {name: self.module.get_submodule(name) for name in self._batch_norms}
        hooks = [m.register_forward_pre_hook(partial(note, name)) for name, m in layers.items()]
        try:
            self(params, x)
        finally:
            for hook in hooks:
                hook.remove()
        for name, layer in layers.items():
            for buffer, value in zip(_buffers_of(name), (0.0, 1.0), strict=True):
                found.setdefault(buffer, [x.new_full((int(layer.num_features),), value)])
        return {name: torch.stack(values).mean(0) for name, values in found.items()}

    def has_layer(self, layer: str) -> bool:
        """Whether the module has a submodule of this name."""
        return layer in self._layers

    def inputs_of(self, layer: str, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What a submodule is given when the module is called for a batch.

        Raises:
            ValueError: there is no such submodule, or it is not called exactly once.
        """
        given: list[Tensor] = []
        try:
            module = self.module.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(f"the module has no layer {layer!r}; named_modules() lists them") from error
        hook = module.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        try:
            self(params, x)
        finally:
            hook.remove()
        if len(given) != 1:
            raise ValueError(f"the layer {layer!r} is called {len(given)} times in a forward pass; it must be once")
        return given[0]

    def layer_of(self, error: BaseException) -> str | None:
        """The innermost layer whose forward pass an error came from, in words; None if it came from elsewhere."""
        names = {id(module): name for name, module in self.module.named_modules()}
        found = None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            layer = frame.f_locals.get("self")
            if isinstance(layer, nn.Module) and id(layer) in names:
                name, kind = names[id(layer)], type(layer).__name__
                found = f"the layer {name!r} ({kind})" if name else f"the module ({kind})"
        return found

    def predict(
        self,
        params: Mapping[str, Tensor],
        query_x: Tensor,
        support_x: Tensor,
        *,
        looped: bool,
        layer: str | None = None,
    ) -> Tensor:
        """Outputs ``[Q, ...]`` for the query set of one task, normalised as :attr:`norm` says.

        ``looped`` runs the queries of the inductive mode one after another, for modules that ``vmap`` cannot map.
        With a ``layer``, what that layer is given is returned instead.
        """
        run = partial(self if layer is None else partial(self.inputs_of, layer), params)
        if self.norm != "inductive" or not self.mixes_examples:
            return run(query_x)
        if len(query_x) == 0:
            return run(support_x)[:0]

        def one(query: Tensor) -> Tensor:
            with levels.one_deeper() if not looped else contextlib.nullcontext():
                return run(torch.cat([support_x, query[None]]))[-1]

        if looped:
            return torch.stack([one(query) for query in query_x])
        outputs: Tensor = vmap(one, randomness="different")(query_x)
        return outputs


def _settle_norms(module: nn.Module, norm: Norm) -> None:
    """Let normalisation layers use what they have stored, or forget it."""
    for layer in module.modules():
        if not isinstance(layer, NORMS):
            continue
        if norm != "running":
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
            layer.track_running_stats = False
        elif isinstance(layer, BATCH_NORMS) and layer.running_mean is None:
            raise ValueError(
                "norm='running' needs batch-norm layers that store statistics, and this module has one made with "
                "track_running_stats=False; choose 'transductive' or 'inductive'"
            )
        else:
            layer.eval()


def _buffers_of(layer: str) -> list[str]:
    """The names of the buffers in which a batch-norm layer has a mean and a variance."""
    return [f"{layer}.{part}".removeprefix(".") for part in ("running_mean", "running_var")]


def _checked(statistics: Mapping[str, Tensor], layers: Sequence[str]) -> Params:
    """The statistics of these layers; an error that says how to have them where they are absent."""
    names = [buffer for layer in layers for buffer in _buffers_of(layer)]
    if absent := [name for name in names if name not in statistics]:
        raise ValueError(
            f"norm='per_step' needs statistics of meta-training tasks, and there are none for {', '.join(absent)}: "
            "evaluate what il.Learner.with_statistics gives. Meta-training itself is 'transductive' or 'inductive'"
        )
    return {name: statistics[name] for name in names}


def _check_parameters(initial: Params) -> None:
    if not initial:
        raise ValueError("no parameter of the module requires a gradient; there is nothing to meta-learn")
    if taken := [name for name in initial if name.startswith(METHOD_PREFIX)]:
        raise ValueError(f"the names {', '.join(taken)} are taken for what a method learns; rename the submodule")
    if numbers := [name for name, p in initial.items() if p.is_complex()]:
        raise ValueError(
            f"the parameters {', '.join(numbers)} are complex, and meta-gradients are of real numbers: hold the "
            "real and the imaginary part as real parameters and join them with torch.complex in forward"
        )


def _settle_embeddings(module: nn.Module) -> None:
    """Have embeddings give gradients that can be differentiated again."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            if layer.max_norm is not None:
                raise ValueError(
                    f"the embedding {name!r} has a max_norm, with which a forward pass changes the weights; "
                    "make it without, or normalise what it gives"
                )
            layer.sparse = False  # sparse gradients have no second derivative


def _may_write(layer: nn.Module) -> bool:
    """Whether a layer may change its input in place, as far as its class tells."""
    known = type(layer).__module__.startswith(("torch.nn.modules.", "innerloop.nets."))
    return not known or bool(getattr(layer, "inplace", False)) or has_hooks(layer)
