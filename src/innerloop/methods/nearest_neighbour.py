"""Nearest neighbour, the baseline that learns nothing at all."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.starts import neighbours
from innerloop.metagrad import untrained
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["nearest_neighbour"]


@registered(
    title="Nearest neighbour",
    network="pixels",
    like="maml",
    recipes={"omniglot-5w1s omniglot-20w1s": {"iterations": 0}},
)
def nearest_neighbour(*, head: str = "@last") -> Method:
    r"""A query gets the class of the nearest support example, by Euclidean distance.

    .. math:: \hat y(x) = y_s, \quad s = \operatorname{argmin}_j \lVert f(x) - f(x_j) \rVert^2

    It has no steps and learns nothing. The network's head must be an :class:`innerloop.nets.Neighbours`, which stores
    the support set. With :func:`innerloop.nets.pixels` it compares pixels; behind other layers it compares features.
    With one example of each class this is :func:`prototypical`. Of classes that are equally near, the first is taken.

    Args:
        head: the name of the layer that stores examples; the last layer by default.

    Raises:
        ValueError: when used, a layer that cannot store examples.

    Example:
        >>> import torch, innerloop as il
        >>> x, y = torch.rand(6, 1, 28, 28), torch.arange(6) % 3
        >>> predictor = il.Learner(il.nets.pixels(ways=3), il.nearest_neighbour()).adapt(x, y)
        >>> bool((predictor.predict(x) == y).all())
        True

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning. NeurIPS 2016,
        section 4.1, table 1 (Pixels), by the cosine as in :func:`innerloop.nets.pixels`.
    """
    only = head if head == "@last" else f"{head}.*"
    return Method(Adaptation(sgd(0.0), 0, adapt=only, start=neighbours(head)), untrained())  # the rule is never applied
