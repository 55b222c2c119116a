"""The learners that the package brings along, trained by this project."""

from __future__ import annotations

from pathlib import Path

import torch

from innerloop.inner.model import Norm
from innerloop.learner.learner import Learner

__all__ = ["PRETRAINED", "pretrained"]

_WEIGHTS = Path(__file__).parent / "weights"

PRETRAINED: tuple[str, ...] = tuple(sorted(path.parent.name for path in _WEIGHTS.glob("*/learner.json")))
"""The names of the learners that :func:`pretrained` loads."""


def pretrained(name: str, *, norm: Norm | None = None, device: torch.device | str = "cpu") -> Learner:
    """Load one of the learners in the package. Nothing is downloaded.

    Each is a small convolutional network for drawings ``[1, 28, 28]``, in which ink is 1 and paper is 0. It adapts by
    10 steps of gradient descent on all layers, from a linear head of zeros. With the head that it has, it can tell
    apart up to 20 classes. Where ``ways`` is given to :meth:`innerloop.Learner.adapt`, it makes a head for that many.
    Its ``about`` says what it was trained on, by which command, and how accurate it is on unseen classes.

    Args:
        name: one of :data:`PRETRAINED`: the data set and the method.
        norm: a normalisation mode to use instead of the saved one, ``inductive``.
        device: the device of the learner.

    Raises:
        ValueError: there is no learner of that name.

    Example:
        >>> import innerloop as il
        >>> il.PRETRAINED
        ('glyphs-maml', 'glyphs-reptile', 'omniglot-maml', 'omniglot-reptile')
        >>> learner = il.pretrained("omniglot-maml")
        >>> learner.adapt(torch.rand(7, 1, 28, 28), torch.arange(7), ways=7).predict(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3])
    """
    if name not in PRETRAINED:
        raise ValueError(f"there is no pretrained learner {name!r}; choose one of {', '.join(PRETRAINED)}")
    return Learner.load(_WEIGHTS / name, norm=norm, device=device)
