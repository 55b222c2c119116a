"""Bayesian MAML: particles that represent the posterior of a task."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.losses import each_particle
from innerloop.metagrad import MetaGradient, chaser, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, NetworkOption, registered
from innerloop.rules import svgd

__all__ = ["bmaml"]


@registered(
    title="Bayesian MAML",
    network="with_particles",
    network_options={"particles": NetworkOption("particles", 5, "Networks that stand for the posterior.")},
    like="maml",
    recipes={
        # The loss is a mean over the support examples, one of each class: 1 in ways is the posterior.
        "omniglot-5w1s": {"particles": 5, "repulsion": 0.2},
        "omniglot-20w1s": {"particles": 5, "repulsion": 0.05},
        # By the published code: its first noise of 0.01 and prior of N(0, 1), as weights of a mean squared error.
        "sinusoid": {
            "hidden": (40, 40, 40),
            "particles": 10,
            "inner_lr": 0.1,
            "repulsion": 0.002,
            "weight_decay": 0.002,
            "leader_steps": 1,
            "tasks": 10,
        },
    },
)
def bmaml(
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    *,
    repulsion: float = 1.0,
    weight_decay: float = 0.0,
    leader_steps: int = 0,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""Bayesian MAML: several initialisations are meta-learned, and moved together in each task.

    .. math:: \theta_m \leftarrow \theta_m - \frac{\alpha}{M} \sum_j \Big(
              k_{mj} \nabla L_i^{\mathrm{support}}(\theta_j) - \rho \nabla_{\theta_j} k_{mj} \Big)

    This is Stein variational gradient descent (:func:`innerloop.rules.svgd`). :func:`innerloop.nets.with_particles`
    makes a network of M particles. Any other network is one particle, and then this is MAML. The outer loss is the loss
    of the particles' joint prediction, or the chaser loss.

    Args:
        inner_lr: the inner learning rate α. Particles share their gradients, so each moves by 1 / M to 2 / M of the
            distance that it would move alone.
        inner_steps: the number of inner steps in meta-training.
        repulsion: ρ, how strongly particles drive each other apart, see :func:`innerloop.rules.svgd`.
        weight_decay: how strongly a Gaussian prior pulls each particle to zero.
        leader_steps: steps of the leader in the chaser loss (:func:`innerloop.chaser`); 0 for the loss of the
            predictions.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt. They must choose the same parameters of every particle; see
            :func:`innerloop.inner.selection.partition`.
        meta_gradient: another estimator than these.

    Raises:
        ValueError: a negative number; when used, patterns that do not choose the same parameters of every particle.

    Example:
        >>> import torch, innerloop as il
        >>> net = il.nets.with_particles(lambda: torch.nn.Linear(3, 2), particles=4)
        >>> x, y = torch.randn(6, 3), torch.arange(6) % 2
        >>> predictor = il.Learner(net, il.bmaml(0.5)).adapt(x, y)
        >>> predictor.predict_proba(x).shape
        torch.Size([6, 2])

    References:
        Yoon, Kim, Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning. NeurIPS 2018, section 3.
    """
    rule = svgd(inner_lr, repulsion=repulsion, weight_decay=weight_decay)
    adaptation = Adaptation(rule, inner_steps, adapt=adapt, inner_loss=each_particle)
    outer = chaser(leader_steps) if leader_steps else unrolled()
    return Method(adaptation, meta_gradient or outer, with_steps(adaptation, test_steps))
