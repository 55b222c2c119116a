"""Networks of a user's own, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from innerloop.folders import user_cache

__all__ = ["OwnNetworkError", "is_own", "made_by_own", "own_network", "trust"]


class OwnNetworkError(ValueError):
    """A network of a user's own cannot be found, or may not be imported."""


def is_own(name: str) -> bool:
    """Whether a network's name is that of a function of a user's own.

    Example:
        >>> is_own("my_package.nets:small"), is_own("conv4")
        (True, False)
    """
    return ":" in name


def own_network(name: str, *, trusted: bool = False) -> Callable[..., nn.Module]:
    """The function that makes a network, by its name ``package.module:function``.

    To import a module is to run its code. So a name that was read from a file is imported only if the user has named it
    before, see :func:`trust`, or if its module is imported already.

    Args:
        name: the name. The current folder is searched too.
        trusted: whether the user has just named it.

    Raises:
        OwnNetworkError: there is no such function, or it was read from a file and the user has never named it.

    Example:
        >>> own_network("no_such_module:net", trusted=True)
        Traceback (most recent call last):
            ...
        innerloop.nets.own.OwnNetworkError: the network no_such_module:net cannot be imported (No module named \
'no_such_module'): expected package.module:function, with the module on PYTHONPATH or in the current folder
    """
    module, _, function = name.partition(":")
    if not trusted and module not in sys.modules and name not in _trusted():
        raise OwnNetworkError(
            f"the network {name} is code from outside innerloop, and was never named on this machine. If you trust it, "
            f"import {module} first, or name it on the command line: --network {name}"
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module does when it is imported
        raise OwnNetworkError(
            f"the network {name} cannot be imported ({error}): expected package.module:function, with the module on "
            "PYTHONPATH or in the current folder"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise OwnNetworkError(f"the network {name} is a {type(found).__name__}: expected a function that makes one")
    make: Callable[..., nn.Module] = found
    return make


def trust(name: str) -> None:
    """Remember that the user has named a network, so that a run that was trained with it can be read again."""
    if name in (known := _trusted()):
        return
    path = _list()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(sorted({*known, name})), encoding="utf-8")
        temporary.replace(path)
    except OSError:  # the folder cannot be written: the name must be given again
        temporary.unlink(missing_ok=True)


def made_by_own(name: str, arguments: Mapping[str, Any], *, trusted: bool = False) -> nn.Module:
    """Call the function with those arguments.

    Raises:
        OwnNetworkError: it cannot be found, fails, or makes something else than a module.
    """
    make = own_network(name, trusted=trusted)
    try:
        net = make(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise OwnNetworkError(f"the network {name}({given}) cannot be made: {error}") from error
    if not isinstance(net, nn.Module):
        raise OwnNetworkError(f"the network {name} made a {type(net).__name__}: expected a torch.nn.Module")
    return net


def _list() -> Path:
    return user_cache() / "networks.json"


def _trusted() -> set[str]:
    try:
        names = json.loads(_list().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
