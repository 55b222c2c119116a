"""The sizes of a convolution or pooling, in the form of the C code."""

from __future__ import annotations

import ctypes

__all__ = ["Geometry"]


class Geometry(ctypes.Structure):
    """The sizes of a convolution or pooling over tasks; the C code's ``Convolution``."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("tasks", "images", "height", "width", "channels_in", "channels_out"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
            *("out_height", "out_width", "shared_weights"),
        )
    )
