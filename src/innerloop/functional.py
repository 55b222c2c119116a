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
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from innerloop.params import METHOD_PREFIX, Params

__all__ = ["Norm", "StatelessModel"]

Norm = Literal["transductive", "inductive", "running"]
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

    Raises:
        ValueError: an unknown mode, ``running`` for a module that stores no statistics, or a module whose
            parameters are not created yet, or none of whose parameters is trainable, or an embedding with ``max_norm``.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> model = StatelessModel(net)
        >>> model(model.initial, torch.zeros(2, 4)).shape
        torch.Size([2, 3])
        >>> int(net[1].num_batches_tracked)
        0
    """

    def __init__(self, module: nn.Module, norm: Norm = "transductive", *, training: bool | None = None) -> None:
        if norm not in get_args(Norm):
            raise ValueError(f"norm is {norm!r}; choose one of {', '.join(map(repr, get_args(Norm)))}")
        if any(is_lazy(p) for p in module.parameters()):
            raise ValueError("the module has lazy parameters; run one forward pass through it first")
        self.initial: Params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self.initial:
            raise ValueError("no parameter of the module requires a gradient; there is nothing to meta-learn")
        if taken := [name for name in self.initial if name.startswith(METHOD_PREFIX)]:
            raise ValueError(f"the names {', '.join(taken)} are taken for what a method learns; rename the submodule")
        self.norm: Norm = norm
        self._module = _private_copy(module)
        if training is not None:
            self._module.train(training)
        for name, layer in self._module.named_modules():
            if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
                if layer.max_norm is not None:
                    raise ValueError(
                        f"the embedding {name!r} has a max_norm, with which a forward pass changes the weights; "
                        "make it without, or normalise what it gives"
                    )
                layer.sparse = False  # sparse gradients have no second derivative
        norms = [m for m in self._module.modules() if isinstance(m, _NormBase)]
        self.mixes_examples = norm != "running" and any(isinstance(m, _BatchNorm) for m in norms)
        for layer in norms:
            if norm != "running":
                layer.running_mean = layer.running_var = layer.num_batches_tracked = None
                layer.track_running_stats = False
            elif isinstance(layer, _BatchNorm) and layer.running_mean is None:
                raise ValueError(
                    "norm='running' needs batch-norm layers that store statistics, and this module has one made with "
                    "track_running_stats=False; choose 'transductive' or 'inductive'"
                )
            else:
                layer.eval()
        modes = {m.training for m in self._module.modules() if isinstance(m, nn.RNNBase)}
        self.recurrent: Literal["none", "training", "evaluating"] = (
            "none" if not modes else "training" if modes == {True} else "evaluating"
        )
        self._buffers = dict(self._module.named_buffers())
        self._layers = {name for name, _ in self._module.named_modules()}

    def __call__(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module's output for one batch ``x`` of ``[N, ...]``, at these parameters of a single task."""
        scratch = {name: buffer.clone() for name, buffer in self._buffers.items()}
        output: Tensor = functional_call(self._module, {**params, **scratch}, (x,))
        return output

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
            module = self._module.get_submodule(layer)
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
        names = {id(module): name for name, module in self._module.named_modules()}
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
            return run(torch.cat([support_x, query[None]]))[-1]

        if looped:
            return torch.stack([one(query) for query in query_x])
        outputs: Tensor = vmap(one, randomness="different")(query_x)
        return outputs


def _private_copy(module: nn.Module) -> nn.Module:
    """The module's structure and buffers copied, its parameters shared."""
    shared = {id(p): p for p in module.parameters()}
    try:
        return copy.deepcopy(module, shared)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be copied with copy.deepcopy ({error}); "
            "attributes that hold computed tensors or open handles must be dropped first"
        ) from error
