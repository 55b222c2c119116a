"""Inputs as a person has them, and the tensor that the network takes for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerloop.data import Preprocessing

__all__ = ["is_prepared", "read_inputs"]


def is_prepared(x: Any) -> bool:
    """Whether inputs are a tensor that the network takes as it is, such as one that a sampler of episodes drew."""
    return isinstance(x, Tensor) and x.is_floating_point()


def read_inputs(x: Any, preprocessing: Preprocessing | None, like: Tensor) -> Tensor:
    """The inputs as a tensor for the network.

    Args:
        x: the inputs.
        preprocessing: how they are prepared. Without one, a tensor stays as it is, and arrays of numbers become floats.
        like: a parameter of the network. The tensor is moved to its device, and made floats get its type.

    Raises:
        ValueError: the inputs are not of a kind that can be prepared.
    """
    if preprocessing is not None:
        prepared = preprocessing(x)
        return prepared.to(like.device) if is_prepared(x) else prepared.to(like)
    if isinstance(x, Tensor):
        return x.to(like.device)
    if isinstance(x, list | tuple) and x and all(isinstance(each, Tensor) for each in x):
        return torch.stack(list(x)).to(like.device)
    remedy = (
        "this learner has no preprocessing, so it takes tensors and arrays of numbers only; load it with "
        "preprocessing=, such as il.data.ImagePreprocessing(...)"
    )
    try:
        array = np.asarray(x)
        if array.dtype == np.uint8 and array.ndim > 2:
            raise ValueError(f"the inputs are uint8, as pixels are; {remedy}")
        if array.dtype.kind not in "fiub":
            array = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as error:
        if "preprocessing" in str(error):
            raise
        raise ValueError(f"the inputs are not numbers ({error}); {remedy}") from None
    return torch.from_numpy(array.astype(np.float64)).to(like)
