"""Starts: the values of the adapted parameters before the first inner step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from innerloop.params import Params, expand_tasks, map_params
from innerloop.parts import Part

__all__ = [
    "Initialisation",
    "NearestNeighbours",
    "NewHead",
    "Prototypes",
    "Start",
    "Tasks",
    "Zero",
    "initialisation",
    "neighbours",
    "new_head",
    "prototypes",
    "zero",
]


@dataclass(frozen=True)
class Tasks:
    """The support sets of ``T`` tasks, which a start may use.

    Attributes:
        support_x: ``[T, S, ...]``.
        support_y: ``[T, S, ...]``.
        inputs_of: takes the name of a layer and returns that layer's inputs for the support sets, ``[T, S, ...]``. They
            are computed by the network at its meta-learned initialisation.
    """

    support_x: Tensor
    support_y: Tensor
    inputs_of: Callable[[str], Tensor]

    @property
    def count(self) -> int:
        """T."""
        return len(self.support_x)


Start = Callable[[Mapping[str, Tensor], Tasks], Params]
"""``(meta-parameters to be adapted, tasks) -> starting values [T, ...]``.

It is a plain function or an instance of a class below."""


@dataclass(frozen=True, repr=False)
class Initialisation(Part):
    """Every task starts from the meta-learned initialisation θ (MAML, Reptile)."""

    def __call__(self, adapted: Mapping[str, Tensor], tasks: Tasks) -> Params:
        """The starting values of each task."""
        return expand_tasks(adapted, tasks.count)


initialisation = Initialisation()
"""The start from the meta-learned initialisation."""


@dataclass(frozen=True, repr=False)
class Zero(Part):
    """Every task starts from zero (CAVIA's context). The values of the meta-parameters have no effect."""

    def __call__(self, adapted: Mapping[str, Tensor], tasks: Tasks) -> Params:
        """The starting values of each task."""
        # The product with 0 gives the meta-parameters a gradient of zero. Without it they would count as unused.
        return expand_tasks(map_params(lambda p: p * 0, adapted), tasks.count)


zero = Zero()
"""The start from zero."""


@dataclass(frozen=True, repr=False)
class Prototypes(Part):
    r"""The linear head starts as the classifier of prototypical networks, all other parameters at the initialisation.

    .. math:: \mu_c = \mathrm{mean}_{y_j = c} f_\theta(x_j), \qquad w_c = 2 \mu_c, \qquad b_c = -\lVert\mu_c\rVert^2

    The logits are then :math:`-\lVert f(x) - \mu_c \rVert^2`, up to a term that all classes share. The head's own
    meta-parameters have no effect. A class without support examples has a prototype of zero.

    Args:
        head: the name of the linear layer; ``@last`` for the last one.
        ways: the number of classes. None means as many as the network's own head has.

    Raises:
        ValueError: less than one class; when used, a head that is not adapted or is not a linear layer with a bias, or
            targets that are not class indices.

    References:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning. NeurIPS 2017, section 2.4. Triantafillou et
        al.: Meta-Dataset. ICLR 2020, section 3.
    """

    of_classes: ClassVar[bool] = True
    """The targets must be class indices."""
    any_ways: ClassVar[bool] = True
    """The head is made for each task, with any number of outputs."""
    head: str = "@last"
    ways: int | None = None

    def __post_init__(self) -> None:
        _check_ways(self.ways)

    def __call__(self, adapted: Mapping[str, Tensor], tasks: Tasks) -> Params:
        """The starting values of each task."""
        weight, bias = _linear(self.head, adapted, "a prototype head")
        _check_classes(tasks, "prototypes")
        features = tasks.inputs_of(weight.rpartition(".")[0])
        member = _members(tasks, self.ways or len(adapted[weight])).to(features.dtype)
        means = member.mT @ features / member.sum(1).clamp(min=1)[..., None]
        return _with_head(adapted, tasks, {weight: 2 * means, bias: -(means * means).sum(-1)})


prototypes = Prototypes
"""The usual name of :class:`Prototypes`."""


@dataclass(frozen=True, repr=False)
class NearestNeighbours(Part):
    """The head stores the support set: its own input for each example, and the example's class.

    Args:
        head: the name of the layer, an :class:`innerloop.nets.Neighbours`; ``@last`` for the last one.
        ways: the number of classes. None means as many as the network's own head has.

    Raises:
        ValueError: less than one class; when used, targets that are not class indices, or a layer that cannot store
            examples.
    """

    of_classes: ClassVar[bool] = True
    """The targets must be class indices."""
    any_ways: ClassVar[bool] = True
    """The head is made for each task, with any number of outputs."""
    head: str = "@last"
    ways: int | None = None

    def __post_init__(self) -> None:
        _check_ways(self.ways)

    def __call__(self, adapted: Mapping[str, Tensor], tasks: Tasks) -> Params:
        """The starting values of each task."""
        _check_classes(tasks, "neighbours")
        layer, examples, members = _parts(self.head, adapted, "examples", "members")
        if examples not in adapted or members not in adapted:
            raise ValueError(
                f"the layer {layer!r} cannot store examples, which nearest neighbours need; let it be an "
                "il.nets.Neighbours, as in il.nets.pixels"
            )
        member = _members(tasks, self.ways or len(adapted[members])).mT
        kept = adapted[members].new_zeros(member.shape).masked_fill(~member, -math.inf)
        return _with_head(adapted, tasks, {examples: tasks.inputs_of(layer), members: kept})


neighbours = NearestNeighbours
"""The usual name of :class:`NearestNeighbours`."""


@dataclass(frozen=True, repr=False)
class NewHead(Part):
    """The linear head starts at zero, all other parameters at the initialisation.

    The head's own meta-parameters have no effect. They may be for other classes, and for another number of classes.

    Args:
        head: the name of the linear layer; ``@last`` for the last one.
        ways: the number of classes. None means as many as the network's own head has.

    Raises:
        ValueError: less than one class; when used, a head that is not adapted or is not a linear layer with a bias.
    """

    any_ways: ClassVar[bool] = True
    """The head is made for each task, with any number of outputs."""
    head: str = "@last"
    ways: int | None = None

    def __post_init__(self) -> None:
        _check_ways(self.ways)

    def __call__(self, adapted: Mapping[str, Tensor], tasks: Tasks) -> Params:
        """The starting values of each task."""
        weight, bias = _linear(self.head, adapted, "a new head")
        like, width = adapted[weight], adapted[weight].shape[1]
        outputs = self.ways or len(like)
        made = {weight: like.new_zeros(tasks.count, outputs, width), bias: like.new_zeros(tasks.count, outputs)}
        return _with_head(adapted, tasks, made)


new_head = NewHead
"""The usual name of :class:`NewHead`."""


def _check_ways(ways: int | None) -> None:
    if ways is not None and ways < 1:
        raise ValueError(f"ways is {ways}; there must be at least 1 class")


def _check_classes(tasks: Tasks, what: str) -> None:
    if tasks.support_y.is_floating_point():
        raise ValueError(
            f"{what} need class indices as targets, but these targets are {tasks.support_y.dtype}; use another start"
        )


def _members(tasks: Tasks, ways: int) -> Tensor:
    """Whether each support example is of each class, ``[T, S, ways]``. A label outside 0 to ways - 1 is an error."""
    # F.one_hot would read the values of the labels to check them. Within torch.func.vmap no value may be read.
    labels = tasks.support_y[..., None]
    return torch.zeros(*labels.shape[:-1], ways, dtype=torch.bool, device=labels.device).scatter(-1, labels, True)


def _parts(head: str, adapted: Mapping[str, Tensor], first: str, second: str) -> tuple[str, str, str]:
    """The name of the layer ``head``, and the full names of two of its parameters."""
    layer = list(adapted)[-1].rpartition(".")[0] if head == "@last" else head
    one, other = (f"{layer}.{part}".removeprefix(".") for part in (first, second))
    return layer, one, other


def _linear(head: str, adapted: Mapping[str, Tensor], what: str) -> tuple[str, str]:
    """The names of the weight and the bias of the linear layer ``head``."""
    layer, weight, bias = _parts(head, adapted, "weight", "bias")
    if weight not in adapted or bias not in adapted or adapted[weight].ndim != 2:
        raise ValueError(
            f"{what} needs a linear layer {layer!r} whose weight and bias are both adapted; the adapted "
            f"parameters are {', '.join(adapted)}: name the head, and leave it in adapt="
        )
    return weight, bias


def _with_head(adapted: Mapping[str, Tensor], tasks: Tasks, head: Params) -> Params:
    """The initialisation with new values for the head. The head's own meta-parameters get a gradient of zero."""
    begun = initialisation({name: p for name, p in adapted.items() if name not in head}, tasks)
    for name, value in head.items():
        begun[name] = value + (adapted[name] * 0).sum()
    return {name: begun[name] for name in adapted}
