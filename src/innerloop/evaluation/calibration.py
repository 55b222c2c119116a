"""Whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BINS", "Calibration"]

BINS = 15
"""Bins of confidence, as in Guo et al."""


@dataclass(frozen=True)
class Calibration:
    r"""Scores of class probabilities, and their accuracy by confidence.

    A prediction's confidence is the probability of the class that it names. Predictions are sorted by it into bins
    of equal width, the first of ``(0, 1/B]``. In a well calibrated network, of the predictions of a bin as large a
    share is right as their confidence says.

    Attributes:
        counts: predictions in each bin, ``[B]``.
        confidence_sums: the sum of their confidences, ``[B]``.
        right: how many of them are right, ``[B]``.
        nll_sum: the sum over all predictions of minus the log of the probability of the true class.
        brier_sum: the sum over all predictions of the squared distance of the probabilities from the truth.

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
        """Look at predictions.

        Args:
            outputs: logits ``[..., C]``.
            targets: class indices ``[...]``.
            bins: B.

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
        """What several of them saw."""
        return cls(
            counts=torch.stack([part.counts for part in parts]).sum(0),
            confidence_sums=torch.stack([part.confidence_sums for part in parts]).sum(0),
            right=torch.stack([part.right for part in parts]).sum(0),
            nll_sum=sum(part.nll_sum for part in parts),
            brier_sum=sum(part.brier_sum for part in parts),
        )

    @property
    def predictions(self) -> int:
        """How many predictions there were."""
        return int(self.counts.sum())

    @property
    def ece(self) -> float:
        r"""The expected calibration error, :math:`\sum_b \frac{n_b}{n} | \mathrm{acc}_b - \mathrm{conf}_b |`.

        0 is best. It depends on the number of bins, and is only as precise as the bins are full.
        """
        return float((self.right - self.confidence_sums).abs().sum()) / self.predictions

    @property
    def nll(self) -> float:
        """The mean negative log-likelihood, in nats; 0 is best."""
        return self.nll_sum / self.predictions

    @property
    def brier(self) -> float:
        r"""The Brier score :math:`\mathrm{mean} \sum_c (p_c - y_c)^2`, from 0, which is best, to 2."""
        return self.brier_sum / self.predictions

    @property
    def confidence(self) -> Tensor:
        """The mean confidence in each bin, ``[B]``; NaN where it is empty."""
        return self.confidence_sums / self.counts

    @property
    def accuracy(self) -> Tensor:
        """The fraction of right predictions in each bin, ``[B]``; NaN where it is empty."""
        return self.right / self.counts
