"""Preprocessing: how inputs as a person has them become the tensors that a network takes.

A preprocessing is a value. It is made with the training data, and saved with the learner as JSON by
:func:`innerloop.parts.describe`. So a deployed learner treats new inputs as it treated those that it was trained on.
There is one class for images, one for tables and one for plain arrays.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from innerloop.data._pixels import Fit, Resample, fitted, pixels_of
from innerloop.data.errors import DataError
from innerloop.parts import Part

__all__ = ["ArrayPreprocessing", "ImagePreprocessing", "Preprocessing", "Scale", "as_list", "checked_shape"]


@dataclass(frozen=True, repr=False)
class Scale(Part):
    """Regression targets in units of their spread: ``(y - mean) / std``.

    Args:
        mean: the mean of the targets of the training tasks.
        std: their standard deviation.

    Raises:
        ValueError: a number is not finite, or ``std`` is not positive.

    Example:
        >>> scale = Scale(mean=20.0, std=5.0)
        >>> scale([25.0, 20.0])
        tensor([[1.],
                [0.]])
        >>> scale.inverse(scale([25.0])).item()
        25.0
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean is {self.mean} and std is {self.std}: expected finite numbers, std above zero.")

    def __call__(self, targets: Any) -> Tensor:
        """The scaled targets, float32 ``[N, 1]``, of ``N`` targets in their own units.

        Raises:
            DataError: a target is not a finite number.
        """
        try:
            values = np.asarray(as_list(targets), dtype=np.float64).reshape(-1, 1)
        except (TypeError, ValueError) as error:
            raise DataError(f"the targets are not numbers ({error}).") from error
        if not np.isfinite(values).all():
            raise DataError("the targets hold numbers that are missing or infinite: leave those examples out.")
        return torch.from_numpy(((values - self.mean) / self.std).astype(np.float32))

    def inverse(self, outputs: Tensor) -> Tensor:
        """Outputs of the network in the targets' own units."""
        return outputs * self.std + self.mean


@runtime_checkable
class Preprocessing(Protocol):
    """Makes the tensor that a network takes from the inputs of one set of examples.

    Every preprocessing follows one rule for tensors: a floating-point tensor is taken to be prepared already, and only
    its shape is checked. So what a sampler of episodes draws passes through unchanged.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prepared input, without the axis of examples."""
        ...

    @property
    def target(self) -> Scale | None:
        """How regression targets are scaled; None if they are not, and for classification."""
        ...

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare ``N`` inputs: float32 ``[N, *shape]``.

        Raises:
            DataError: the inputs are not of the kind that this preprocessing takes. It is a ``ValueError``.
        """
        ...


@dataclass(frozen=True, repr=False)
class ImagePreprocessing(Part):
    """Images of any kind and size become float32 ``[N, channels, height, width]``.

    The steps are, in this order: turn the image upright by its EXIF orientation, put white behind transparent parts,
    convert to grey or colour, scale to ``size``, swap dark and light if ``invert``, divide by 255, subtract ``mean``
    and divide by ``std``.

    Args:
        size: the height and the width, in pixels.
        channels: 1 for grey, 3 for colour.
        fit: what happens to images of another shape: ``crop``, ``stretch`` or ``pad``.
        resample: how pixels are computed in scaling: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        invert: swap dark and light. Omniglot's recipes do, so that ink is 1 and paper 0.
        mean: what is subtracted from each channel. Empty for nothing. Networks that were trained elsewhere need it.
        std: what each channel is divided by. Empty for nothing.

    Raises:
        ValueError: a size below 1, another number of channels, an unknown word, or a mean or std that does not fit.

    Example:
        >>> prepare = ImagePreprocessing(size=(28, 28), channels=1, invert=True)
        >>> photographs = [np.zeros((480, 640, 3), dtype=np.uint8), np.full((32, 32), 255, dtype=np.uint8)]
        >>> x = prepare(photographs)
        >>> list(x.shape), x.amax((1, 2, 3))
        ([2, 1, 28, 28], tensor([1., 0.]))
        >>> prepare(x) is x  # a tensor of floats is prepared already
        True
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"
    resample: Resample = "bilinear"
    invert: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(type(n) is not int for n in self.size) or min(self.size) < 1:
            raise ValueError(f"size is {self.size!r}: expected the height and the width, whole numbers of at least 1.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels!r}: expected 1 for grey or 3 for colour.")
        for name, known in (("fit", get_args(Fit)), ("resample", get_args(Resample))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(known)}.")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, self.channels):
                raise ValueError(f"{name} is {getattr(self, name)}: expected {self.channels} numbers, or none.")
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: expected positive numbers.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prepared image: ``(channels, height, width)``."""
        return (self.channels, *self.size)

    @property
    def target(self) -> Scale | None:
        """None: images are for classification."""
        return None

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare images.

        Args:
            inputs: a sequence of images, of any of these kinds: paths, Pillow images, arrays, bytes of image files. Or
                all images in one array: ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``, of uint8 or of floats from
                0 to 1. Or a floating-point tensor ``[N, channels, height, width]``, which is prepared already and is
                returned as it is. A single image or path counts as a sequence of one.

        Raises:
            DataError: an image cannot be read, or the inputs are something else.
        """
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return checked_shape(inputs, self.shape, "Pass images as uint8, arrays, Pillow images or paths.")
        if isinstance(inputs, str | os.PathLike | bytes | Mapping) or _is_picture(inputs):
            inputs = [inputs]
        if isinstance(inputs, Tensor | np.ndarray) and inputs.ndim not in (3, 4):
            raise DataError(f"the images have the shape {list(inputs.shape)}: expected [N, height, width] or 4 axes.")
        images = as_list(inputs)
        if images and all(isinstance(image, Tensor) and image.is_floating_point() for image in images):
            return self(torch.stack(images))
        pixels = np.empty((len(images), *self.size, self.channels), dtype=np.uint8)
        for row, image in zip(pixels, images, strict=True):
            row[:] = self.pixels(image)
        return self.finish(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    def pixels(self, image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One image as uint8 ``[height, width, channels]``, before :meth:`finish`. This is what a cache holds.

        Raises:
            DataError: the image cannot be read.
        """
        return fitted(pixels_of(image, self.channels), self.size, self.fit, self.resample)

    def finish(self, pixels: Tensor) -> Tensor:
        """uint8 pixels ``[..., channels, height, width]`` as the floats that the network takes."""
        levels = 255 - pixels if self.invert else pixels
        x = levels.to(torch.float32, memory_format=torch.contiguous_format, copy=True).div_(255)
        if self.mean:
            x = x.sub_(torch.tensor(self.mean, device=x.device)[:, None, None])
        if self.std:
            x = x.div_(torch.tensor(self.std, device=x.device)[:, None, None])
        return x


@dataclass(frozen=True, repr=False)
class ArrayPreprocessing(Part):
    """Arrays of numbers become float32 ``[N, *shape]``. ``mean`` and ``std`` standardise them.

    Args:
        shape: the shape of one input.
        mean: what is subtracted from each entry of the first axis of an input. Empty for nothing.
        std: what each of these entries is divided by. Empty for nothing.
        target: how regression targets are scaled; None if they are not, and for classification.

    Raises:
        ValueError: a length below 1, or a mean or std that does not fit.

    Example:
        >>> ArrayPreprocessing(shape=(2,), mean=(1.0, 0.0))([[1, 2], [3, 4]])
        tensor([[0., 2.],
                [2., 4.]])
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target: Scale | None = None

    def __post_init__(self) -> None:
        if not self.shape or any(type(n) is not int or n < 1 for n in self.shape):
            raise ValueError(f"shape is {self.shape!r}: expected whole numbers of at least 1.")
        if any(len(given) not in (0, self.shape[0]) for given in (self.mean, self.std)) or 0 in self.std:
            raise ValueError(f"mean and std must have {self.shape[0]} numbers or none, and no std of zero.")

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare arrays.

        Args:
            inputs: an array, a nested sequence of numbers or an integer tensor ``[N, *shape]``. Or a floating-point
                tensor of that shape, which is prepared already.

        Raises:
            DataError: the inputs have another shape, or are not finite numbers.
        """
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return checked_shape(inputs, self.shape, "")
        rows = as_list(inputs)
        if rows and all(isinstance(row, Tensor) and row.is_floating_point() for row in rows):
            return self(torch.stack(rows))
        try:
            array = np.asarray([np.asarray(row) for row in rows], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"the inputs are not numbers in a regular array ({error}).") from error
        array = array.reshape(-1, *self.shape) if not rows else array
        if array.shape[1:] != self.shape:
            raise DataError(f"the inputs have the shape {list(array.shape)}: expected [N, {str(self.shape)[1:-1]}].")
        if not np.isfinite(array).all():
            raise DataError("the inputs hold numbers that are infinite or not a number: remove or replace them.")
        ones = (1,) * (len(self.shape) - 1)
        if self.mean:
            array = array - np.asarray(self.mean).reshape(-1, *ones)
        if self.std:
            array = array / np.asarray(self.std).reshape(-1, *ones)
        return torch.from_numpy(array.astype(np.float32))


def checked_shape(prepared: Tensor, shape: tuple[int, ...], remedy: str) -> Tensor:
    """A prepared tensor, unchanged if it is float32 already. Raise ``DataError`` unless it is ``[N, *shape]``."""
    if tuple(prepared.shape[1:]) != shape or prepared.ndim != len(shape) + 1:
        hint = " For a single input add an axis with x[None]." if tuple(prepared.shape) == shape else f" {remedy}"
        raise DataError(
            f"a floating-point tensor is taken as prepared already; it has the shape {list(prepared.shape)} and "
            f"{['N', *shape]} was expected.{hint}".rstrip()
        )
    return prepared.to(torch.float32)


def as_list(inputs: Any) -> list[Any]:
    """The inputs of a sequence, an array, or a column of a data frame."""
    try:
        return list(inputs)
    except TypeError:
        raise DataError(f"the inputs are of type {type(inputs).__name__}: expected a sequence of inputs.") from None


def _is_picture(inputs: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")  # who has an image of Pillow's has imported it
    return pillow is not None and isinstance(inputs, pillow.Image)
