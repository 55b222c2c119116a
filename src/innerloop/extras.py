"""Optional packages: what each extra of the installation is for, and one clear error where its packages are absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["PURPOSES", "MissingExtraError", "extra", "need"]

PURPOSES = {
    "cli": ("the command line", "tyro"),
    "demo": ("the page to draw on", "uvicorn"),
    "export": ("writing and checking ONNX files", "onnx"),
    "hub": ("the Hugging Face Hub", "huggingface_hub"),
    "images": ("reading images", "PIL"),
    "plots": ("drawing pictures", "matplotlib"),
    "sklearn": ("the scikit-learn estimators", "sklearn"),
    "tables": ("reading Parquet", "pyarrow"),
    "tensorboard": ("writing TensorBoard events", "tensorboard"),
    "wandb": ("logging to Weights & Biases", "wandb"),
}
"""The extras by name: what needs each, and its main package."""


class MissingExtraError(ImportError):
    """A package of an extra is not installed. The message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import the packages of an extra within this context.

    Args:
        name: the extra, one of :data:`PURPOSES`.

    Raises:
        MissingExtraError: one of them cannot be imported.

    Example:
        >>> with extra("plots"):  # doctest: +ELLIPSIS
        ...     import a_package_that_is_absent
        Traceback (most recent call last):
        ...
        innerloop.extras.MissingExtraError: drawing pictures needs the extra 'plots': pip install 'innerloop[plots]' ...
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"{PURPOSES[name][0]} needs the extra {name!r}: pip install 'innerloop[{name}]' ({error})"
        ) from error


def need(*names: str) -> None:
    """Raise now if the main package of an extra is absent, before work begins that would need it at its end.

    Args:
        names: the extras.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for name in names:
        with extra(name):
            import_module(PURPOSES[name][1])
