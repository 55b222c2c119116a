"""``Predictor``: a learner adapted to one task. It gives predictions and their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerloop.data import Preprocessing
from innerloop.display import Shown
from innerloop.inner.model import StatelessModel
from innerloop.learner.inputs import read_inputs
from innerloop.learner.targets import Answers, Labels, Numbers, score_of
from innerloop.params import Params
from innerloop.particles import MIXTURE

__all__ = ["Predictor", "Uncertainty"]


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of predictions. :meth:`Predictor.uncertainty` makes it.

    Attributes:
        entropy: the entropy of the class probabilities, in nats, ``[N]``. It is 0 if one class is certain, and
            log(ways) if all classes are equally probable. None for regression.
        mutual_information: the part of the entropy that comes from disagreement between the particles, in nats,
            ``[N]``. It is high if the support set says too little, so that more examples would help. The rest of the
            entropy is there because each particle is undecided, for example about an image that could be of two
            classes. None without particles, and for regression.
        std: the standard deviation of the particles' outputs, of the same shape as the outputs; None for
            classification.
    """

    entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    std: Tensor | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Predictor(Shown):
    """A learner adapted to one task. :meth:`innerloop.Learner.adapt` makes it.

    Its methods take queries in any form that the learner takes support inputs in.

    Attributes:
        params: the adapted parameters by name.
        classes: the class indices ``[C]`` that occur in the support set; None for regression.
    """

    params: Params
    classes: Tensor | None
    _model: StatelessModel = field(repr=False)
    _support_x: Tensor = field(repr=False)
    _targets: Labels | Numbers = field(repr=False)
    _preprocessing: Preprocessing | None = field(repr=False)

    @property
    def labels(self) -> Answers | None:
        """The label of each column of the class probabilities; None for regression.

        It is a tensor if the targets of the support set were one, otherwise a NumPy array.
        """
        return self._targets.names if isinstance(self._targets, Labels) else None

    def facts(self) -> dict[str, str]:
        """What the predictor is, in a few words each, as it prints."""
        if isinstance(self._targets, Labels):
            names = [str(name) for name in self._targets.array[:8].tolist()]
            kind = f"{', '.join(names)}{', ...' if len(self._targets) > 8 else ''}"
        else:
            kind = "none: it predicts numbers"
        count = sum(p.numel() for p in self.params.values())
        return {
            "classes": kind,
            "adapted to": f"{len(self._support_x)} examples of the shape {list(self._support_x.shape[1:])}",
            "parameters": f"{count:,}",
            "normalisation": self._model.norm,
        }

    def outputs(self, x: Any) -> Tensor:
        """The network's outputs ``[N, ...]`` for queries ``x`` of ``[N, ...]``, without a graph.

        Raises:
            ValueError: the queries do not have the shape of the support inputs.
        """
        return self._run(x, None)

    def predict_proba(self, x: Any) -> Tensor:
        """Class probabilities ``[N, len(labels)]``. A class that is not in the support set has probability 0.

        With particles, these are the means of the particles' probabilities.

        Raises:
            ValueError: this is a regression task, or the queries do not have the shape of the support inputs.
        """
        if self.classes is None:
            raise ValueError("this learner was trained for regression, which has no class probabilities; use predict")
        return self._each_proba(x).mean(1)

    def predict(self, x: Any) -> Answers:
        """The label of the most probable class of each query ``[N]``. For regression, the predicted values.

        They are a tensor if the targets of the support set were one, otherwise a NumPy array. Predicted values are in
        the units of these targets.
        """
        if isinstance(self._targets, Labels):
            return self._targets.of(self.predict_proba(x).argmax(-1))
        return self._targets.of(self.outputs(x))

    def score(self, x: Any, y: Any) -> float:
        """The accuracy of the predictions for queries with known labels. For regression, R².

        Args:
            x: the queries.
            y: their targets, in the form of the support set's.

        Raises:
            ValueError: there is not one target for each query, there are none, or they are of another kind.

        Example:
            >>> import innerloop as il
            >>> learner = il.Learner(il.nets.mlp(2, 3), il.protomaml())
            >>> learner.adapt([[0, 0], [1, 1]], ["left", "right"]).score([[2, 1], [0, -1]], ["right", "left"])
            1.0
        """
        labels = self._targets if isinstance(self._targets, Labels) else None
        return score_of(self.predict(x), y, labels=labels)

    def uncertainty(self, x: Any) -> Uncertainty:
        """The uncertainty of the predictions for queries ``x`` of ``[N, ...]``, as far as this learner can tell.

        Every classifier has an entropy. Particles (:func:`innerloop.bmaml`) also show how much of it comes from too
        little data of the task. For regression, only a network with particles has an uncertainty.

        Raises:
            ValueError: this is a regression task and the network has no particles, or the queries do not have the shape
                of the support inputs.

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
                    "this network predicts one value without a spread; for an uncertainty, train a network with "
                    "particles: il.nets.mlp_with_particles and il.bmaml"
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

    def _each_proba(self, x: Any) -> Tensor:
        """The class probabilities of each particle, ``[N, M, C]``. A network without particles is a single one."""
        outputs = self._run(x, MIXTURE) if self._has_particles else self.outputs(x)[:, None]
        if isinstance(self._targets, Labels):
            outputs = outputs[..., : len(self._targets)]  # outputs beyond the task's classes mean nothing
        unseen = torch.ones(outputs.shape[-1], dtype=torch.bool, device=outputs.device)
        unseen[self.classes] = False
        return outputs.masked_fill(unseen, -torch.inf).softmax(-1)

    def _run(self, x: Any, layer: str | None) -> Tensor:
        x = read_inputs(x, self._preprocessing, self._support_x)
        if x.shape[1:] != self._support_x.shape[1:]:
            raise ValueError(
                f"a query has the shape {list(x.shape[1:])} and a support input had {list(self._support_x.shape[1:])}: "
                "they must be equal; for a single query add an axis with x[None]"
            )
        with torch.no_grad():
            return self._model.predict(self.params, x.to(self._support_x), self._support_x, looped=True, layer=layer)


def _entropy(p: Tensor) -> Tensor:
    """The entropy over the last axis, in nats."""
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy
