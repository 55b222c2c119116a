"""A learner adapted to one task: its predictions, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from innerloop.inner.model import StatelessModel
from innerloop.params import Params
from innerloop.particles import MIXTURE

__all__ = ["Predictor", "Uncertainty"]


@dataclass(frozen=True)
class Uncertainty:
    """How sure predictions are; made by :meth:`Predictor.uncertainty`.

    Attributes:
        entropy: of the class probabilities, in nats, ``[N]``: 0 where one class is certain, log(ways) where all are as
            probable. None for regression.
        mutual_information: the part of the entropy that is there because the particles disagree, in nats, ``[N]``. It
            is high where the support set says too little and more examples would help; the rest is there because each
            particle by itself is undecided, as where an image could be of two classes. None without particles, and
            for regression.
        std: the standard deviation of the particles' outputs, shaped as the outputs; None for classification.
    """

    entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    std: Tensor | None = None


@dataclass(frozen=True)
class Predictor:
    """A learner adapted to one task; made by :meth:`innerloop.Learner.adapt`.

    Attributes:
        params: the adapted parameters by name.
        classes: the class indices ``[C]`` that the support set showed; None for regression.
    """

    params: Params
    classes: Tensor | None
    _model: StatelessModel = field(repr=False)
    _support_x: Tensor = field(repr=False)

    def outputs(self, x: Tensor) -> Tensor:
        """The network's outputs ``[N, ...]`` for queries ``x`` of ``[N, ...]``, with no graph.

        Raises:
            ValueError: the queries are not shaped as the support inputs are.
        """
        return self._run(x, None)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Class probabilities ``[N, ways]``; a class that the support set did not show has probability 0.

        With particles, the mean of theirs.

        Raises:
            ValueError: this is a regression task, or the queries are not shaped as the support inputs are.
        """
        if self.classes is None:
            raise ValueError("this learner was trained for regression, which has no class probabilities; use predict")
        return self._each_proba(x).mean(1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class ``[N]`` of each query; in regression, the network's outputs."""
        return self.outputs(x) if self.classes is None else self.predict_proba(x).argmax(-1)

    def uncertainty(self, x: Tensor) -> Uncertainty:
        """How sure the predictions for queries ``x`` of ``[N, ...]`` are, as far as this learner can say.

        Every classifier has an entropy. What comes from too little data of the task can be told apart with particles
        (:func:`innerloop.bmaml`); in regression, only they say anything.

        Raises:
            ValueError: this is a regression task and the network has no particles, or the queries are not shaped as
                the support inputs are.

        Example:
            >>> import innerloop as il
            >>> learner = il.Learner(il.nets.conv4_with_particles(3, ways=5), il.bmaml())
            >>> predictor = learner.adapt(torch.rand(5, 1, 28, 28), torch.arange(5))
            >>> doubt = predictor.uncertainty(torch.rand(7, 1, 28, 28))
            >>> bool((doubt.mutual_information <= doubt.entropy).all())
            True
        """
        if self.classes is None:
            if not self._has_particles:
                raise ValueError(
                    "this network gives one value and no spread; to know how sure it is, train one with particles: "
                    "il.nets.mlp_with_particles and il.bmaml"
                )
            return Uncertainty(std=self._run(x, MIXTURE).std(1, correction=0))
        each = self._each_proba(x)
        entropy = _entropy(each.mean(1))
        if not self._has_particles:
            return Uncertainty(entropy)
        return Uncertainty(entropy, (entropy - _entropy(each).mean(1)).clamp(min=0))

    @property
    def _has_particles(self) -> bool:
        return self._model.has_layer(MIXTURE)

    def _each_proba(self, x: Tensor) -> Tensor:
        """The class probabilities of each particle, or of the network as the only one, ``[N, M, ways]``."""
        outputs = self._run(x, MIXTURE) if self._has_particles else self.outputs(x)[:, None]
        unseen = torch.ones(outputs.shape[-1], dtype=torch.bool, device=outputs.device)
        unseen[self.classes] = False
        return outputs.masked_fill(unseen, -torch.inf).softmax(-1)

    def _run(self, x: Tensor, layer: str | None) -> Tensor:
        if x.shape[1:] != self._support_x.shape[1:]:
            raise ValueError(
                f"a query is {list(x.shape[1:])} and a support input was {list(self._support_x.shape[1:])}: they must "
                "be alike; for a single query add an axis with x[None]"
            )
        with torch.no_grad():
            return self._model.predict(self.params, x.to(self._support_x), self._support_x, looped=True, layer=layer)


def _entropy(p: Tensor) -> Tensor:
    """In nats, over the last axis."""
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy
