"""Fine-tuning an ordinary classifier, the baseline that learns nothing about adapting."""

from __future__ import annotations

from dataclasses import replace

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.starts import new_head
from innerloop.metagrad import unrolled
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["finetune"]


@registered(
    title="Fine-tuning",
    tasks="all_classes",
    like="maml",
    recipes={
        # A classifier of 1,100 characters at four angles.
        "omniglot-5w1s omniglot-20w1s": {
            "train_ways": 4400,
            "joint_batch": 128,
            "tasks": 1,
            "iterations": 20_000,
            "inner_lr": 0.1,
            "test_steps": 20,
            "adapt": "@last",
            "head_std": None,
        }
    },
)
def finetune(
    inner_lr: float = 0.1,
    test_steps: int = 20,
    *,
    ways: int | None = None,
    adapt: str = "@last",
    head: str = "@last",
) -> Method:
    r"""An ordinary classifier of all training classes, with a new head for each task, fine-tuned on its support set.

    .. math:: \theta \leftarrow \theta - \beta \nabla L(\theta) \text{ on mini-batches of all classes}, \qquad
              \theta_0 = (\theta_{\mathrm{body}}, 0), \quad
              \theta_{k+1} = \theta_k - \alpha \nabla L^{\mathrm{support}}(\theta_k)

    Meta-training has no inner steps: the meta-gradient is the gradient of the query loss. Its tasks must be
    mini-batches with the labels of all classes, as :meth:`innerloop.data.ImageClasses.batches` draws them. The
    network's head has one output for each of these classes.

    Args:
        inner_lr: the inner learning rate α.
        test_steps: the number of inner steps on new tasks.
        ways: classes of a new task. None means as many as the network's head has outputs.
        adapt: name patterns of the parameters to fine-tune, including the head. By default only the last layer; ``"*"``
            for all.
        head: the name of the linear layer that is replaced by zeros; the last layer by default.

    Raises:
        ValueError: a negative rate or number of steps, or less than one class.

    Example:
        >>> import torch, innerloop as il
        >>> net = il.nets.mlp(3, 60, (4,))  # of 60 classes
        >>> predictor = il.Learner(net, il.finetune(ways=2)).adapt(torch.randn(6, 3), torch.arange(6) % 2)
        >>> predictor.params["2.weight"].shape, torch.equal(predictor.params["0.weight"], net[0].weight)
        (torch.Size([2, 4]), True)

    References:
        Chen, Liu, Kira, Wang, Huang: A Closer Look at Few-shot Classification. ICLR 2019, section 3.2 (Baseline).
    """
    training = Adaptation(sgd(inner_lr), 0, adapt=adapt)
    return Method(training, unrolled(), replace(training, steps=test_steps, start=new_head(head, ways)))
