"""A number that lives outside of the program, or in what all of it shares."""

from __future__ import annotations

import decimal
import logging
import os
import pickle
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile.places import place

Read = Callable[[], Any]
Put = Callable[[float], object]
Place = Callable[..., tuple[Read, Put]]


@place
def an_environment_variable(patch: pytest.MonkeyPatch):
    patch.setenv("HOSTILE_SCALE", "1.0")
    return lambda: float(os.environ["HOSTILE_SCALE"]), lambda value: patch.setenv("HOSTILE_SCALE", str(value))


@place
def a_file():
    path = Path(tempfile.mkdtemp()) / "scale.txt"
    path.write_text("1.0")
    return lambda: float(path.read_text()), lambda value: path.write_text(str(value))


@place
def whether_a_file_is_there():
    path = Path(tempfile.mkdtemp()) / "flag"
    return lambda: 2.0 if path.exists() else 1.0, lambda value: path.touch()


@place
def a_pickle():
    held = [pickle.dumps(1.0)]
    return lambda: pickle.loads(held[0]), lambda value: held.__setitem__(0, pickle.dumps(value))


@place
def the_clock(patch: pytest.MonkeyPatch):
    patch.setattr(time, "monotonic", lambda: 1.0)
    return lambda: time.monotonic(), lambda value: patch.setattr(time, "monotonic", lambda: value)


@place
def the_level_of_a_logger():
    logger = logging.getLogger("hostile")
    logger.setLevel(10)
    return lambda: logger.getEffectiveLevel() / 10, lambda value: logger.setLevel(int(10 * value))


@place
def the_precision_of_decimals():
    context = decimal.Context(prec=1)
    third = decimal.Decimal(2)
    return lambda: float(context.divide(third, decimal.Decimal(3))), lambda value: setattr(context, "prec", int(value))


@place
def a_limit_of_the_interpreter(patch: pytest.MonkeyPatch):
    before = sys.getswitchinterval()
    patch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    sys.dont_write_bytecode = False
    assert before
    return lambda: 2.0 if sys.dont_write_bytecode else 1.0, lambda value: setattr(sys, "dont_write_bytecode", True)


@place
def the_filters_of_warnings():
    count = len(warnings.filters)
    return lambda: 1.0 + len(warnings.filters) - count, lambda value: warnings.filterwarnings(
        "ignore", message=f"hostile {value}"
    )
