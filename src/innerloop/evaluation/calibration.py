"""Calibration: whether predicted probabilities agree with how often the predictions are correct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BINS", "Calibration"]

BINS = 15
"""The number of bins of confidence, as in Guo et al."""


@dataclass(frozen=True)
class Calibration:
    r"""How good predicted class probabilities are, and the accuracy of predictions of each confidence.

    The confidence of a prediction is the probability of the predicted class. Predictions are sorted by confidence into
    B bins of equal width. The first bin is ``(0, 1/B]``. A network is well calibrated if in each bin the fraction of
    correct predictions equals the mean confidence.

    Attributes:
        counts: the number of predictions in each bin, ``[B]``.
        confidence_sums: the sum of their confidences, ``[B]``.
        right: the number of them that are correct, ``[B]``.
        nll_sum: the sum over all predictions of minus the log of the true class's probability.
        brier_sum: the sum over all predictions of the squared distance between the probabilities and the one-hot truth.

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, section 2. Brier:
        Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1950.
    """

    counts: Tensor
    confidence_sums: Tensor
    right: Tensor
    nll_sum: float
    brier_sum: float

    @classmethod
    def of(cls, outputs: Tensor, targets: Tensor, bins: int = BINS) -> Calibration:
        """The calibration of these predictions.

        Args:
            outputs: logits ``[..., C]``.
            targets: class indices ``[...]``.
            bins: the number of bins B.

        Example:
            >>> sure_and_wrong = Calibration.of(torch.tensor([[9.0, -9.0]]), torch.tensor([1]))
            >>> round(sure_and_wrong.ece, 3), round(sure_and_wrong.nll, 3), round(sure_and_wrong.brier, 3)
            (1.0, 18.0, 2.0)
        """
        logs = outputs.detach().double().flatten(0, -2).log_softmax(-1)
        truth = targets.flatten()
        confidence, predicted = logs.exp().max(-1)
        member = F.one_hot(((confidence * bins).ceil().long() - 1).clamp(0, bins - 1), bins).double()
        return cls(
            counts=member.sum(0).cpu(),
            confidence_sums=(confidence @ member).cpu(),
            right=((predicted == truth).double() @ member).cpu(),
            nll_sum=float(F.nll_loss(logs, truth, reduction="sum")),
            brier_sum=float((logs.exp() - F.one_hot(truth, logs.shape[-1])).square().sum()),
        )

    @classmethod
    def together(cls, parts: Sequence[Calibration]) -> Calibration:
        """Combine the calibrations of several sets of predictions into one."""
        return cls(
            counts=torch.stack([part.counts for part in parts]).sum(0),
            confidence_sums=torch.stack([part.confidence_sums for part in parts]).sum(0),
            right=torch.stack([part.right for part in parts]).sum(0),
            nll_sum=sum(part.nll_sum for part in parts),
            brier_sum=sum(part.brier_sum for part in parts),
        )

    @property
    def predictions(self) -> int:
        """The number of predictions."""
        return int(self.counts.sum())

    @property
    def ece(self) -> float:
        r"""The expected calibration error, :math:`\sum_b \frac{n_b}{n} | \mathrm{acc}_b - \mathrm{conf}_b |`.

        0 is best. The value depends on the number of bins, and is imprecise if the bins hold few predictions.
        """
        return float((self.right - self.confidence_sums).abs().sum()) / self.predictions

    @property
    def nll(self) -> float:
        """The mean negative log-likelihood, in nats. 0 is best."""
        return self.nll_sum / self.predictions

    @property
    def brier(self) -> float:
        r"""The Brier score :math:`\mathrm{mean} \sum_c (p_c - y_c)^2`, from 0 (best) to 2."""
        return self.brier_sum / self.predictions

    @property
    def confidence(self) -> Tensor:
        """The mean confidence in each bin, ``[B]``; NaN for an empty bin."""
        return self.confidence_sums / self.counts

    @property
    def accuracy(self) -> Tensor:
        """The fraction of correct predictions in each bin, ``[B]``; NaN for an empty bin."""
        return self.right / self.counts
