"""T-Net: MAML in a network with learned matrices between its layers, which the inner loop leaves alone."""

from __future__ import annotations

from innerloop.inner.selection import complement
from innerloop.metagrad import MetaGradient
from innerloop.methods.base import Method, NetworkOption, registered
from innerloop.methods.maml import maml

__all__ = ["WARP", "t_net"]

WARP = NetworkOption(
    "warp", "linear", "A square matrix after each layer (linear), or a non-linear layer beside an identity (residual)."
)
"""The kind of warp layers that the network has."""


@registered(
    title="T-Net",
    network="with_warps",
    network_options={"warp": WARP},
    like="maml",
    recipes={
        "omniglot-5w1s omniglot-20w1s": {"warps": "*warp.* *.norm.*", "iterations": 40_000},
        "omniglot-20w1s": {"inner_steps": 1, "test_steps": 3},
        "sinusoid": {"tasks": 4, "iterations": 60_000},
    },
)
def t_net(
    inner_lr: float = 0.4,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    warps: str = "*warp.*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""T-Net: MAML in a network with a learned matrix T after each layer. The inner loop does not adapt T.

    .. math:: h = T W x + T b, \qquad W_i' = W - \alpha \nabla_W L_i^{\mathrm{support}}(W, T), \qquad
              (W, T) \leftarrow (W, T) - \beta \nabla_{(W, T)} \textstyle\sum_i L_i^{\mathrm{query}}(W_i', T)

    The effect of a step on the features is thus multiplied by :math:`T T^\top`, a learned metric for each layer.
    :func:`innerloop.nets.with_warps` gives any network such matrices. They begin as the identity. The paper's MT-Net,
    which also learns a mask of the adapted parameters, is not implemented.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        warps: name patterns of the parameters that the inner loop does not adapt, including the warp layers; see
            :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.with_warps(il.nets.mlp(3, 2, (4,))), torch.randn(6, 3), torch.randint(2, (6,))
        >>> adapted = il.adapt(net, il.t_net(), x, y)
        >>> [name for name, p in net.named_parameters() if torch.equal(adapted[name], p)]
        ['0.warp.weight', '2.warp.weight']

    References:
        Lee, Choi: Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace. ICML 2018, algorithm 1.
    """
    return maml(inner_lr, inner_steps, test_steps=test_steps, adapt=complement(warps), meta_gradient=meta_gradient)
