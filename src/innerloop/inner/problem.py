"""``Problem``: the model and its loss, computed for many tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.gradients import Unused
from innerloop.inner.losses import InnerLoss, LossFn
from innerloop.inner.model import StatelessModel
from innerloop.inner.tasks import TaskMap
from innerloop.params import Params, aliased

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """A stateless model with its loss, and the way to apply the two to many tasks.

    Args:
        model: the stateless model.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        tasks: applies a function of one task to all tasks.
        unused: whether a parameter that the loss does not use is an error, or gets a gradient of zero.
    """

    model: StatelessModel
    loss_fn: LossFn
    tasks: TaskMap
    unused: Unused = "error"

    def at(self, step: int) -> Problem:
        """The problem at the iterate θ_step, see :meth:`innerloop.inner.model.StatelessModel.at`."""
        model = self.model.at(step)
        return self if model is self.model else replace(self, model=model)

    def support_losses(
        self, inner_loss: InnerLoss, adapted: Params, fixed: Params, x: Tensor, y: Tensor, *, second_order: bool
    ) -> Tensor:
        """The inner loss of each task, ``[T]``. Set ``second_order`` if it will be differentiated twice."""

        def one(adapted: Params, x: Tensor, y: Tensor) -> Tensor:
            return _scalar(inner_loss(self.model, self.loss_fn, {**fixed, **adapted}, x, y))

        losses: Tensor = self.tasks(one, adapted, x, y, second_order=second_order)
        return losses

    def query(self, adapted: Params, fixed: Params, episode: Episode) -> tuple[Tensor, Tensor]:
        """The query losses ``[T]`` and outputs ``[T, Q, ...]``."""

        def one(adapted: Params, support_x: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.model.predict({**fixed, **adapted}, x, support_x, looped=not self.tasks.batched)
            return _scalar(self.loss_fn(outputs, y)), outputs

        losses, outputs = self.tasks(one, aliased(adapted), episode.support_x, episode.query_x, episode.query_y)
        return losses, outputs

    def inputs_of(self, layer: str, params: Params, x: Tensor) -> Tensor:
        """The inputs of a layer for the batches ``x`` of ``T`` tasks, ``[T, N, ...]``.

        All tasks share the parameters.
        """
        inputs: Tensor = self.tasks(lambda _, batch: self.model.inputs_of(layer, params, batch), {}, x)
        return inputs


def _scalar(loss: Tensor) -> Tensor:
    if loss.ndim:
        raise ValueError(f"loss_fn returned a tensor of shape {list(loss.shape)}; it must return a scalar")
    return loss
