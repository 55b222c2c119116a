"""WarpGrad: warp layers that learn from each single step of the inner loop."""

from __future__ import annotations

from dataclasses import replace

from innerloop.metagrad import MetaGradient, trajectory, unrolled
from innerloop.methods.base import Method, registered
from innerloop.methods.t_net import WARP, t_net

__all__ = ["warpgrad"]


@registered(
    title="WarpGrad",
    network="with_warps",
    network_options={"warp": WARP},
    like="maml",
    recipes={
        "omniglot-5w1s omniglot-20w1s": {
            "warp": "residual",
            "warps": "*warp.* *.norm.*",
            "inner_lr": 0.1,
            "inner_steps": 5,
            "test_steps": 5,
        }
    },
)
def warpgrad(
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    *,
    test_steps: int | None = None,
    warps: str = "*warp.*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""WarpGrad: as T-Net, with warp layers that learn from each single step of the inner loop.

    .. math:: \min_\phi \sum_i \sum_k L_i^{\mathrm{query}}\big(
              \bar\theta_{i,k} - \alpha \nabla L_i^{\mathrm{support}}(\bar\theta_{i,k}; \phi); \phi\big), \qquad
              \min_\theta \sum_i L_i^{\mathrm{query}}(\theta_{i,K}; \phi)

    The first objective trains the warp layers φ (:func:`innerloop.metagrad.trajectory`). The iterates are constants in
    it. The second trains the initialisation, and may be any: the default is MAML's, as in the paper's few-shot
    experiment. With :func:`innerloop.displacement` nothing is differentiated through the inner loop, so the loop may be
    long. The learning rate is that of the published code, for tasks with 100 inner steps.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: inner steps K in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        warps: name patterns of the parameters φ that the inner loop does not adapt, including the warp layers; see
            :func:`innerloop.inner.selection.partition`.
        meta_gradient: the estimator of the initialisation's gradient; :func:`innerloop.unrolled` by default.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> x, y = torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> net = il.nets.with_warps(il.nets.mlp(3, 2), "residual")
        >>> grads, _ = il.meta_gradient(net, il.warpgrad(meta_gradient=il.displacement()), il.Episode(x, y, x, y))
        >>> all(bool(grads[name].any()) for name, _ in net.named_parameters())
        True

    References:
        Flennerhag, Rusu, Pascanu, Visin, Yin, Hadsell: Meta-Learning with Warped Gradient Descent. ICLR 2020,
        section 2 and algorithm 1.
    """
    method = t_net(inner_lr, inner_steps, test_steps=test_steps, warps=warps)
    return replace(method, meta_gradient=trajectory(meta_gradient or unrolled()))
