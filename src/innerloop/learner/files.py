"""Files for nested state. Tensors are stored as safetensors, everything else as JSON. There is never a pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["CheckpointError", "load_json", "load_state", "read_bytes", "save_state", "write_atomically"]

FORMAT = "innerloop-state-1"
REMEDY = "delete it and train again, or use another checkpoint"


class CheckpointError(ValueError):
    """A saved file is missing, damaged, or not of the expected kind."""


def save_state(state: Any, path: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and plain values to one safetensors file, atomically.

    The structure is JSON in the file's header, beside a digest of the whole content. If the process is killed while
    writing, the earlier file is unchanged.

    Args:
        state: the state to save. Keys are strings or integers, leaves are tensors or JSON values.
        path: the file. Its folder must exist.

    Raises:
        TypeError: a leaf is neither a tensor nor a JSON value.
        OSError: the file cannot be written. The earlier file is unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state({"w": torch.ones(2), "step": 3}, Path(folder) / "state.safetensors")
        ...     load_state(Path(folder) / "state.safetensors")
        {'w': tensor([1., 1.]), 'step': 3}
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_encode(state, tensors))
    metadata = {"format": FORMAT, "structure": structure, "digest": _digest(structure, tensors)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read the state that :func:`save_state` wrote.

    Args:
        path: the file.
        device: the device of the tensors.

    Raises:
        CheckpointError: the file is missing, cannot be read, is damaged, or is another kind of file.
    """
    read_bytes(path, most=1)  # raises with the reason if the file cannot be read
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: it is no safetensors file ({error}); {REMEDY}") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a file of the format {FORMAT}; was it saved by another program?")
    structure = metadata.get("structure")
    # Older files have no digest.
    if structure is None or metadata.keys() - {"format", "structure", "digest"}:
        raise CheckpointError(f"{path} is damaged: its header has the fields {', '.join(sorted(metadata))}; {REMEDY}")
    if metadata.get("digest", "") not in ("", digest := _digest(structure, tensors)):
        raise CheckpointError(f"{path} is damaged: its content has the digest {digest} and another is noted; {REMEDY}")
    try:
        return _decode(json.loads(structure), {name: tensor.to(device) for name, tensor in tensors.items()})
    except json.JSONDecodeError as error:
        reason = f"the structure in its header is not JSON ({error})"
    except _StructureError as error:
        reason = f"the structure in its header {error}"
    except RecursionError:
        reason = "the structure in its header is nested too deeply"
    raise CheckpointError(f"{path} is damaged: {reason}; {REMEDY}")


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: the file is missing, cannot be read, or is not JSON text.
    """
    data = read_bytes(path)
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8 text"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON ({error})"
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        reason = "it is JSON of a kind that no program writes"
    raise CheckpointError(f"{path} is damaged: {reason}; restore it or train again")


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The bytes of a file, or its first ``most`` bytes.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        what = "; it is a folder, which is to be removed" if path.is_dir() else ""
        raise CheckpointError(f"there is no file {path}{what}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; see to its permissions") from None


def _digest(structure: str, tensors: Mapping[str, Tensor]) -> str:
    """A hash of the structure and of each tensor's type, shape and bytes."""
    digest = hashlib.blake2b(structure.encode(errors="surrogatepass"), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: at any moment it has the whole old content or the whole new content.

    Raises:
        OSError: the file cannot be written. The old content is still there. The error names the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error  # names the file, not the temporary one
        raise


# In the JSON, tensors and containers that JSON lacks are objects with one key, which begins with "$".


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        # This is a copy, because safetensors refuses tensors that share memory or are not contiguous.
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


class _StructureError(Exception):
    """An error in a structure. Its message continues "the structure in its header"."""


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            if not isinstance(name, str) or name not in tensors:
                raise _StructureError(f"names a tensor {name!r} that the file does not hold")
            return tensors[name]
        case {"$dict": items}:
            if not isinstance(items, list) or not all(isinstance(item, list) and len(item) == 2 for item in items):
                raise _StructureError("has under $dict something else than a list of pairs")
            if not all(isinstance(key, str | int | float | None) for key, _ in items):
                raise _StructureError("has a key that is no plain value")
            return {key: _decode(item, tensors) for key, item in items}
        case {"$tuple": items}:
            if not isinstance(items, list):
                raise _StructureError("has under $tuple something else than a list")
            return tuple(_decode(item, tensors) for item in items)
        case dict():
            return {key: _decode(item, tensors) for key, item in value.items()}
        case list():
            return [_decode(item, tensors) for item in value]
    return value
