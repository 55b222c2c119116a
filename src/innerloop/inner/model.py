"""A module as a pure function of its parameters. This file alone decides which statistics batch norm uses.

The normalisation modes (:data:`Norm`) are named beside every accuracy:

``transductive``
    Every batch is normalised with its own statistics. The query set is one batch, so a prediction depends on the other
    queries. The published numbers of MAML and MAML++ are of this kind.
``inductive``
    Each query is normalised together with the support set only. So a prediction never depends on the other queries. The
    first row of the tables of Nichol et al., 2018 (Reptile) is of this kind.
``running``
    The statistics stored in the module are used, both to adapt and to predict. Predictions do not depend on other
    queries either.
``per_step``
    For evaluation. Iterate k of the inner loop uses statistics that were gathered at iterate k on tasks of
    meta-training, see :func:`innerloop.evaluation.norm_statistics.statistics_by_step`. MAML++ is described in this way
    (Antoniou et al., 2019, section 4, BNRS). Predictions do not depend on other queries either. Meta-training uses
    batch statistics, as in MAML++'s published code.
"""

from __future__ import annotations

import contextlib
import copy
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.parameter import UninitializedParameter

from innerloop.inner.layers import BATCH_NORMS, NORMS, has_hooks
from innerloop.inner.meta import METHOD_PREFIX
from innerloop.inner.moment import Moment
from innerloop.inner.private import CopyOfThread, PrivateCopy, levels
from innerloop.inner.strays import Strays
from innerloop.params import Params

__all__ = ["Norm", "StatelessModel"]

Norm = Literal["transductive", "inductive", "running", "per_step"]
"""The normalisation mode: which statistics batch norm uses. The module's documentation explains the modes."""


class StatelessModel:
    """A private, stateless view of a user's module.

    The view shares the user's parameters, and copies everything that a forward pass may write to. So neither calling it
    nor differentiating through it changes the module, its buffers or its training mode. Batch-norm layers keep no
    statistics in the view, so none can pass from one task to another.

    Args:
        module: any ``nn.Module`` whose forward takes one tensor, with the batch as its first axis, and returns one
            tensor.
        norm: the normalisation mode.
        training: whether layers such as dropout are in training mode. By default each layer has the module's own mode.
        statistics: the statistics of ``per_step``, by the names of the layers' buffers: ``LAYER.running_mean`` and
            ``LAYER.running_var``, each ``[K + 1, C]`` for iterates 0 to K.

    Raises:
        ValueError: an unknown mode; ``running`` for a module that stores no statistics; ``per_step`` without statistics
            for every batch-norm layer; a module with lazy or complex parameters, without trainable parameters, with an
            embedding that has a ``max_norm``, or that cannot be copied.

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
        if elsewhere := self._moment.held_elsewhere(module, self.initial):
            raise ValueError(
                f"the module holds its parameters {', '.join(elsewhere)} in another attribute or list, too, where the "
                "inner loop cannot exchange them for the adapted values: use them through the layer that registers them"
            )
        master = PrivateCopy.of(module, self._moment)
        self._master = master
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
        if absent := master.missing(self.initial):
            raise ValueError(
                f"the parameters {', '.join(absent)} are held where they cannot be exchanged, as by a "
                "module of torch.jit; use the module that it was made from"
            )
        self.constants: Params = master.tensors_besides(self.initial)
        self._frozen = {name for name, p in master.module.named_parameters() if not p.requires_grad}
        self._may_write = any(_may_write(layer) for layer in master.module.modules())
        self._layers = {name for name, _ in master.module.named_modules()}

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module's output for a batch ``x`` of ``[N, ...]``, with the parameters of one task."""
        frozen = {name: self.constants[name] for name in self._frozen}
        versions = [t._version for t in frozen.values()]
        # A forward pass may write to its input and to everything except parameters. So each call gets copies of these.
        scratch = {n: t if n in frozen else t.detach().clone() for n, t in self.constants.items()}
        own = self._module_of_thread()
        with self._strays(params) if self._may_write else contextlib.nullcontext():
            output: Tensor = own.call({**scratch, **params}, x.clone() if self._may_write else x)
        if versions != [t._version for t in frozen.values()]:
            written = [n for (n, t), v in zip(frozen.items(), versions, strict=True) if t._version != v]
            raise ValueError(
                f"a forward pass writes to {', '.join(written)}, which are frozen parameters of the module; register "
                "them as buffers: each call gets a copy of the buffers"
            )
        return output

    def _strays(self, params: Mapping[str, Tensor]) -> Strays:
        """Sees to it that the module's own parameters are not used where others should be in their place."""
        given = {id(t) for t in params.values()}
        return Strays({id(p): name for name, p in self.initial.items() if id(p) not in given})

    def lasts(self) -> bool:
        """Whether the user's module is as it was when this view was made, apart from the values of its tensors.

        The structure, the modes, the frozen parameters and the plain attributes are compared. The values of tensors
        need no comparison: the view shares the tensors, or reads them at each call.
        """
        return self._moment.lasts()

    @property
    def unreadable(self) -> str | None:
        """A sentence about a part of the module that cannot be looked into; None if there is none.

        A change of such a part would not be seen.
        """
        return self._moment.unreadable

    def with_constants(self, constants: Mapping[str, Tensor]) -> Self:
        """The same model with other values for the tensors that it does not learn.

        These are buffers, frozen parameters and plain tensors.
        """
        view = copy.copy(self)
        view.constants = dict(constants)
        return view

    def fresh(self) -> Self:
        """The same model with copies of the module that were never called."""
        view = copy.copy(self)
        view._module_of_thread = CopyOfThread(self._master)
        return view

    @property
    def module(self) -> nn.Module:
        """The private copy of the module that this thread calls. Do not change it."""
        return self._module_of_thread().module

    def at(self, step: int) -> Self:
        """The model with the statistics of an inner iterate, for ``per_step``.

        Iterates beyond the last use the last.
        """
        if not self._statistics:
            return self
        view = copy.copy(self)
        rows_of_step = {n: rows[min(step, len(rows) - 1)] for n, rows in self._statistics.items()}
        view.constants = self.constants | rows_of_step
        return view

    def batch_statistics(self, params: Mapping[str, Tensor], x: Tensor) -> Params:
        """The mean and the variance ``[C]`` of each batch-norm layer's inputs for a batch.

        They are returned under the names of the layers' buffers. The variance is unbiased, as PyTorch stores it. A
        layer that is called several times gives the means over its calls. A layer that is not called gives 0 and 1.
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
        """The inputs of a submodule when the module is called for a batch.

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
        """Names the innermost layer whose forward pass raised an error; None if the error is from elsewhere."""
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

        In the inductive mode, ``looped`` runs the queries one after another, for modules that ``vmap`` cannot map. With
        a ``layer``, the inputs of that layer are returned in place of the outputs.
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
    """Let normalisation layers use their stored statistics (``running``), or remove these (the other modes)."""
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
    """The names of the buffers that hold a batch-norm layer's mean and variance."""
    return [f"{layer}.{part}".removeprefix(".") for part in ("running_mean", "running_var")]


def _checked(statistics: Mapping[str, Tensor], layers: Sequence[str]) -> Params:
    """The statistics of these layers. Raise if some are missing."""
    names = [buffer for layer in layers for buffer in _buffers_of(layer)]
    if absent := [name for name in names if name not in statistics]:
        raise ValueError(
            f"norm='per_step' needs statistics of meta-training tasks, and there are none for {', '.join(absent)}: "
            "evaluate the learner that il.Learner.with_statistics returns. For meta-training choose 'transductive' or "
            "'inductive'"
        )
    return {name: statistics[name] for name in names}


def _check_parameters(initial: Params) -> None:
    if not initial:
        raise ValueError("no parameter of the module requires a gradient; there is nothing to meta-learn")
    if taken := [name for name in initial if name.startswith(METHOD_PREFIX)]:
        raise ValueError(f"the names {', '.join(taken)} are reserved for what a method learns; rename the submodule")
    if numbers := [name for name, p in initial.items() if p.is_complex()]:
        raise ValueError(
            f"the parameters {', '.join(numbers)} are complex, and only real parameters have meta-gradients: hold the "
            "real and the imaginary part as real parameters and join them with torch.complex in forward"
        )


def _settle_embeddings(module: nn.Module) -> None:
    """Make embeddings give dense gradients, which can be differentiated again."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            if layer.max_norm is not None:
                raise ValueError(
                    f"the embedding {name!r} has a max_norm, with which a forward pass changes the weights; "
                    "make it without max_norm, or normalise its outputs"
                )
            layer.sparse = False  # sparse gradients have no second derivative


def _may_write(layer: nn.Module) -> bool:
    """Whether a layer may change its input in place. A layer of an unknown class may."""
    known = type(layer).__module__.startswith(("torch.nn.modules.", "innerloop.nets."))
    replaced = any(isinstance(value, FunctionType | MethodType) for value in vars(layer).values())
    return not known or replaced or bool(getattr(layer, "inplace", False)) or has_hooks(layer)
