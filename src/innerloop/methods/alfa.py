"""ALFA: MAML with learning rates and weight decays that a small meta-learned network generates at each step."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import alfa as alfa_rule

__all__ = ["alfa"]


@registered(
    title="ALFA",
    like="maml",
    recipes={"omniglot-5w1s omniglot-20w1s": {}, "sinusoid": {"inner_steps": 5, "test_steps": 5}},
)
def alfa(
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    inner_decay: float = 5e-4,
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""ALFA: the initialisation and a generator of the inner loop's hyperparameters are meta-learned together.

    .. math:: \theta_{k+1} = (1 - \beta_{i,k}) \odot \theta_k - \alpha_{i,k} \odot g_{i,k}, \qquad
              (\alpha_{i,k}, \beta_{i,k}) = h_\phi(\theta_k, g_{i,k}), \qquad
              g_{i,k} = \nabla L_i^{\mathrm{support}}(\theta_k)

    There is a rate α and a decay β for each named tensor (:func:`innerloop.rules.alfa`). The defaults are those of the
    published code for mini-ImageNet.

    Args:
        inner_lr: the initial value of every rate.
        inner_steps: the number of inner steps in meta-training.
        test_steps: inner steps on new tasks; ``inner_steps`` by default. Further steps reuse the last scales.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        inner_decay: the initial weight decay of every layer.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate, decay or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.alfa(), il.Episode(x, y, x, y))
        >>> grads["method.alfa.scale.lr.weight"].shape
        torch.Size([5])

    References:
        Baik, Choi, Choi, Kim, Lee: Meta-Learning with Adaptive Hyperparameters. NeurIPS 2020, algorithm 1.
    """
    adaptation = Adaptation(alfa_rule(inner_lr, inner_decay, steps=inner_steps), inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
