"""Parameters that a module reaches past the places in which it registers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Strays"]


class Strays(TorchFunctionMode):
    """Within it, an operation on one of a module's own parameters is an error.

    While a module is called, other tensors are in the place of its parameters. A function that closes over a layer, or
    a global name, still reaches the module's own. Its gradient would be lost without a word.

    Args:
        names: the parameters' names, by their identity.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for argument in (*args, *kwargs.values()) if kwargs else args:
            if id(argument) in self._names and isinstance(argument, Tensor):
                raise ValueError(
                    f"the forward pass uses the parameter {self._names[id(argument)]} past the module, as a function "
                    "that closes over a layer does; the inner loop cannot exchange it there for its adapted value: "
                    "reach it by the module's attributes"
                )
        return func(*args, **(kwargs or {}))
