"""Notices reads of a tensor's values or state that do not appear as operations of PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from innerloop.engine.replay.trust import of_package

__all__ = ["Reads"]

_SEEN_SAFELY = {
    *("shape", "dtype", "device", "ndim", "layout", "T", "mT", "H", "mH", "real", "imag", "requires_grad"),
    *("is_cpu", "is_cuda", "is_sparse", "is_quantized", "is_meta", "is_mkldnn", "is_nested", "is_xla", "is_mps"),
    *("is_sparse_csr", "is_xpu", "itemsize", "nbytes", "is_vulkan", "is_maia", "is_ipu", "is_mtia", "is_hpu"),
}
"""Attributes of tensors that depend only on the form of a computation's inputs."""

_ATTRIBUTES = {
    attribute.__get__: name
    for name, attribute in ((name, getattr(Tensor, name)) for name in dir(Tensor) if not name.startswith("__"))
    if type(attribute).__name__ in ("getset_descriptor", "property") and name not in _SEEN_SAFELY
}

_ATTRIBUTES |= {
    attribute.__set__: f"{name}, which it sets"
    for name, attribute in ((name, getattr(Tensor, name)) for name in dir(Tensor) if not name.startswith("__"))
    if type(attribute).__name__ == "getset_descriptor"
}

_METHODS = (
    *("tolist", "numpy", "item", "data_ptr", "storage", "untyped_storage", "storage_type", "dlpack", "is_shared"),
    *("__array__", "__array_wrap__", "__bool__", "__float__", "__int__", "__index__", "__complex__", "__contains__"),
    *("__format__", "__repr__", "__str__", "__dlpack__", "__dlpack_device__", "__reduce_ex__", "__deepcopy__"),
    *("__setstate__", "is_pinned", "share_memory_", "pin_memory", "set_", "resize_", "resize_as_", "apply_", "map_"),
    *("map2_", "retain_grad", "register_hook", "register_post_accumulate_grad_hook", "backward", "get_device"),
    *("is_nonzero", "is_set_to", "const_data_ptr", "module_load", "__cuda_array_interface__", "nonzero_static"),
)
_FUNCTIONS: dict[Any, str] = {getattr(Tensor, name): name for name in _METHODS if hasattr(Tensor, name)}
_FUNCTIONS |= {
    function: str(getattr(function, "__name__", function))
    for function in (
        *(F.ctc_loss, torch.ctc_loss, torch.is_nonzero, nn.utils.rnn.pack_padded_sequence),
        *(nn.utils.rnn.pad_packed_sequence, torch.from_numpy, torch.frombuffer),
    )
}
_SPLITS = (torch.tensor_split, Tensor.tensor_split)


def _of_engine(frame: FrameType | None) -> bool:
    """Whether this library itself makes the call, and does not only pass on a call of the user's code."""
    while frame is not None and frame.f_code.co_name == "__torch_function__":
        frame = frame.f_back
    return frame is not None and of_package(frame.f_globals.get("__name__"))


class Reads(TorchFunctionMode):
    """Inside this context, calls that ask for a value, an address or the history of a tensor are reported.

    PyTorch answers most of these without any operation. So a recording of operations would treat the answer as a
    constant.

    Args:
        refuse: called with the reason, in words. The call itself still goes through.
    """

    def __init__(self, refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._refuse = refuse

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _FUNCTIONS.get(func) or _ATTRIBUTES.get(func)
        if name is None and func in _SPLITS:
            where = args[1] if len(args) > 1 else kwargs.get("tensor_indices_or_sections")
            name = "tensor_split by a tensor" if isinstance(where, Tensor) else None
        if name is not None and not _of_engine(inspect.currentframe()):
            self._refuse(f"it reads {name}, the values or the state of a tensor")
        return func(*args, **kwargs)
