"""Files that hold nested state: safetensors for the tensors, JSON for the rest, never a pickle."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["CheckpointError", "load_state", "save_state", "write_atomically"]

FORMAT = "innerloop-state-1"


class CheckpointError(ValueError):
    """A saved file is missing, damaged, or of another kind than expected."""


def save_state(state: Any, path: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values to one safetensors file, atomically.

    The structure is JSON in the file's header. A process killed while writing leaves the earlier file as it was.

    Args:
        state: what to save; keys are strings or integers, leaves are tensors or JSON values.
        path: the file, whose folder exists.

    Raises:
        TypeError: a leaf is of another kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state({"w": torch.ones(2), "step": 3}, Path(folder) / "state.safetensors")
        ...     load_state(Path(folder) / "state.safetensors")
        {'w': tensor([1., 1.]), 'step': 3}
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(state, tensors)
    data = save(tensors, metadata={"format": FORMAT, "structure": json.dumps(structure)})
    write_atomically(path, data)


def load_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read back what :func:`save_state` wrote.

    Args:
        path: the file.
        device: where the tensors are to be.

    Raises:
        CheckpointError: the file is missing, damaged or not such a file.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a file of the format {FORMAT}; was it saved by another program?")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return _decode(json.loads(metadata["structure"]), tensors)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete it and train again, or use another checkpoint"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment its name leads to the whole old or the whole new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# In the JSON, containers that JSON lacks, and tensors, are objects with a single key that begins with "$".


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        # A copy, since safetensors refuses tensors that share memory or are not contiguous.
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor": name}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, tensors) for key, item in value.items()}
        return {"$dict": [[_encode(key, tensors), _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"cannot save a {type(value).__name__}; only tensors, plain values and containers of them can be")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$dict": items}:
            return {_decode(key, tensors): _decode(item, tensors) for key, item in items}
        case {"$tuple": items}:
            return tuple(_decode(item, tensors) for item in items)
        case dict():
            return {key: _decode(item, tensors) for key, item in value.items()}
        case list():
            return [_decode(item, tensors) for item in value]
    return value
