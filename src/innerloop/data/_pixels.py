"""Images of any kind as 8-bit pixels: files, bytes, Pillow images, arrays and tensors."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from innerloop.data.errors import DataError
from innerloop.extras import extra

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Fit", "Resample", "fitted", "pixels_of"]

Fit = Literal["crop", "stretch", "pad"]
"""How an image of another shape becomes one of the wanted shape: the middle is cut out after scaling (``crop``), its
sides are scaled by different factors (``stretch``), or white borders are added after scaling (``pad``)."""

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""How pixels are computed when an image is scaled, by Pillow's names."""

_CHANNELS = (1, 3, 4)


def pixels_of(source: Any, channels: int) -> NDArray[np.uint8]:
    """The pixels of one image, ``[H, W, channels]``, upright as its EXIF orientation says.

    Grey levels of 16 bits become 8 bits. Transparent parts become white. Colour becomes grey, or grey colour, if
    ``channels`` asks for it.

    Args:
        source: a path, the bytes of a file, an object with ``bytes`` or ``path`` (as Hugging Face stores images), a
            Pillow image, or an array or tensor. An array is ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with 1, 3 or 4
            channels, and holds uint8, booleans, or floats from 0 to 1.
        channels: 1 for grey, 3 for colour.

    Raises:
        DataError: it is no such image, or cannot be read.
    """
    with extra("images"):
        from PIL import Image

    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        return _of_file(source, channels)
    if isinstance(source, Image.Image):
        return _of_image(source, channels)
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
        first = True
    else:
        source = np.asarray(source)
        first = False
    return _of_image(Image.fromarray(_levels(source, channels_first=first)), channels)


def _of_file(source: Any, channels: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    is_path = isinstance(source, str | os.PathLike)
    name = str(source) if is_path else "the image"
    try:
        with Image.open(Path(source) if is_path else io.BytesIO(source)) as image:
            return _of_image(image, channels)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is not an image that Pillow can read. Remove it, or replace it.") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{name} cannot be read ({reason}). Remove it, or replace it.") from error
    except Exception as error:  # decoders of damaged files raise many kinds of errors, such as struct.error
        raise DataError(f"{name} cannot be read ({type(error).__name__}: {error}). Replace it.") from error


def _of_image(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    eight = _eight_bits(upright)
    plain = _over_white(eight).convert("L" if channels == 1 else "RGB")
    return np.array(plain, dtype=np.uint8).reshape(plain.height, plain.width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of modes with more than 8 bits as 8 bits. Pillow itself would clip its levels."""
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int64)
        if levels.size and (levels.min() < 0 or levels.max() > 65535):
            raise DataError(f"its levels are 32-bit, from {levels.min()} to {levels.max()}. Save it with 8 or 16 bits.")
        return Image.fromarray((levels >> 8).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_levels(np.asarray(image), channels_first=False))
    return image


def _over_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return image


def _levels(array: NDArray[Any], *, channels_first: bool) -> NDArray[np.uint8]:
    """An array as ``[H, W]`` or ``[H, W, C]`` of uint8."""
    shape = list(array.shape)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not array.size or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            span = f"from {array.min():g} to {array.max():g}" if array.size else "without pixels"
            raise DataError(
                f"an image of floats {shape} is {span}. Floats must be from 0 to 1; use uint8 for 0 to 255."
            )
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"an image is {array.dtype} {shape}. Expected uint8, booleans, or floats from 0 to 1.")
    if array.ndim == 3:
        at_start, at_end = shape[0] in _CHANNELS, shape[2] in _CHANNELS
        if at_start and (channels_first or not at_end):
            array = np.moveaxis(array, 0, 2)
        elif not at_end:
            raise DataError(f"an image has the shape {shape}. Expected 1, 3 or 4 channels, first or last.")
        if array.shape[2] == 1:
            array = array[:, :, 0]
    if array.ndim not in (2, 3):
        raise DataError(f"an image has the shape {shape}. Expected [height, width], with or without channels.")
    if 0 in array.shape:
        raise DataError(f"an image has the shape {shape}, which has no pixels.")
    return np.ascontiguousarray(array)


def fitted(
    pixels: NDArray[np.uint8], size: tuple[int, int], fit: Fit = "crop", resample: Resample = "bilinear"
) -> NDArray[np.uint8]:
    """An image ``[H, W, C]`` scaled to ``size``, its height and width.

    Example:
        >>> wide = np.zeros((10, 20, 3), dtype=np.uint8)
        >>> fitted(wide, (4, 4), "pad")[:, 0, 0]
        array([255,   0,   0, 255], dtype=uint8)
    """
    with extra("images"):
        from PIL import Image, ImageOps

    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    how = Image.Resampling[resample.upper()]
    if fit == "stretch":
        scaled = image.resize((width, height), how)
    elif fit == "crop":
        scaled = ImageOps.fit(image, (width, height), how)
    else:
        scaled = ImageOps.pad(image, (width, height), how, color="white")
    return np.array(scaled, dtype=np.uint8).reshape(height, width, pixels.shape[2])
