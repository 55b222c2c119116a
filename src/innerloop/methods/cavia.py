"""CAVIA: a few context parameters are adapted, from zero."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.starts import zero
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, NetworkOption, registered
from innerloop.rules import sgd

__all__ = ["cavia"]


@registered(
    title="CAVIA",
    network="with_context",
    network_options={
        "context_size": NetworkOption(
            "size",
            5,
            "Context parameters; further inputs in regression, a modulation of the third block in classification.",
        )
    },
    like="maml",
    recipes={
        "omniglot-5w1s omniglot-20w1s": {"inner_lr": 10.0, "inner_steps": 2, "test_steps": 2, "context_size": 100},
        "sinusoid": {"inner_lr": 1.0, "test_steps": 1, "iterations": 50_000},
    },
)
def cavia(
    inner_lr: float = 1.0,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    context: str = "context*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""CAVIA: the network is meta-learned and shared. Each task adapts only context parameters φ, which start at zero.

    .. math:: \phi_i = -\alpha \nabla_\phi L_i^{\mathrm{support}}(\phi = 0, \theta), \qquad
              \theta \leftarrow \theta - \beta \nabla_\theta \textstyle\sum_i L_i^{\mathrm{query}}(\phi_i, \theta)

    :func:`innerloop.nets.with_context` gives any network a context, as further inputs or by modulating features.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        context: name patterns of the context parameters, see :func:`innerloop.inner.selection.partition`. They start at
            zero, whatever their values in the module.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net = il.nets.with_context(il.nets.mlp(inputs=1 + 5), size=5)
        >>> adapted = il.adapt(net, il.cavia(), torch.randn(10, 1), torch.randn(10, 1), torch.nn.functional.mse_loss)
        >>> [name for name, p in net.named_parameters() if not torch.equal(adapted[name], p)]
        ['context']

    References:
        Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson: Fast Context Adaptation via Meta-Learning. ICML 2019, section 3.
    """
    adaptation = Adaptation(sgd(inner_lr), inner_steps, adapt=context, start=zero)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
