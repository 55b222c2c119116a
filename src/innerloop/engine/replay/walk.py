"""Finds everything that a computation can depend on, and makes a proof of it, or refuses.

The walk starts at the loss, the method and the module. It follows the names that their code uses.
"""

from __future__ import annotations

import collections
import dis
import enum
import functools
import types
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.engine.replay.proof import Proof
from innerloop.engine.replay.refused import RefusedError
from innerloop.engine.replay.trust import (
    CONTAINERS,
    SAFE_ATTRIBUTES,
    SAFE_DUNDERS,
    of_package,
    of_torch,
    safe_class,
    safe_function,
    safe_module_class,
    trusted_code,
)
from innerloop.engine.replay.witness import Witness
from innerloop.inner.moment import ATOMS, Moment, readable

__all__ = ["proved"]

_FORBIDDEN = {
    **dict.fromkeys(("STORE_ATTR", "DELETE_ATTR"), "assigns the attribute"),
    **dict.fromkeys(("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME", "DELETE_NAME"), "assigns the global name"),
    **dict.fromkeys(("IMPORT_NAME", "IMPORT_STAR", "IMPORT_FROM"), "imports"),
    **dict.fromkeys(("LOAD_BUILD_CLASS", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"), "makes a class"),
    **dict.fromkeys(("GET_AWAITABLE", "GET_AITER", "BEFORE_ASYNC_WITH"), "is asynchronous"),
    **dict.fromkeys(("BUILD_SET", "SET_ADD", "SET_UPDATE"), "makes a set, whose order depends on addresses,"),
}
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "LOAD_SUPER_METHOD")
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_INSTANCES = (functools.partial, MethodType, property, staticmethod, classmethod)


def proved(roots: Iterable[Any], witness: Witness, module: nn.Module) -> Proof:
    """The proof of everything that a computation depends on beside its input tensors.

    The witness knows the code that ran. The walk finds everything that this code can reach by its names: globals,
    closures, defaults, attributes and containers. An attribute name stands for that attribute of every object found.

    Args:
        roots: the objects that are called: the loss and the method.
        witness: the code that ran.
        module: the module that was called. Its own attributes are watched elsewhere.

    Raises:
        RefusedError: the walk reaches something that cannot be looked into, or does not reach code that ran.
    """
    if witness.refused is not None:
        raise RefusedError(witness.refused)
    walk = _Walk(witness, module)
    for root in (*roots, module):
        walk.visit(root)
    walk.finish()
    return walk.proof


class _Walk:
    def __init__(self, witness: Witness, module: nn.Module) -> None:
        self.proof = Proof()
        self._witness = witness
        self._watched = Moment(module).identities
        self._seen: dict[int, Any] = {}
        self._waiting: list[Any] = []
        self._holders: list[Any] = []
        self._names: dict[str, str] = {}
        self._found: set[str] = set()
        self._classes: set[type] = set()
        self._walked: set[CodeType] = set()

    def visit(self, thing: Any) -> None:
        """Put a thing on the list of things to look into."""
        if type(thing) not in ATOMS and id(thing) not in self._seen:
            self._seen[id(thing)] = thing
            self._waiting.append(thing)

    def finish(self) -> None:
        """Look into everything. Then check that the walk has met all code that ran."""
        while self._waiting:
            self._look(self._waiting.pop())
        for code in self._witness.codes - self._walked:
            raise RefusedError(f"it runs {_called(code)}, and how that is reached cannot be seen")
        for name, where in self._names.items():
            if name not in self._found and name not in SAFE_ATTRIBUTES and name not in SAFE_DUNDERS:
                raise RefusedError(f"{where} reads the attribute {name} of something that cannot be looked into")
        self._trusted_names()
        self.proof.close()

    def _look(self, thing: Any) -> None:
        kind = type(thing)
        if isinstance(thing, Tensor):
            self._tensor(thing)
        elif kind in CONTAINERS:
            self._container(thing)
        elif isinstance(thing, tuple | frozenset):
            for item in thing:
                self.visit(item)
        elif isinstance(thing, FunctionType):
            self._function(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, ModuleType):
            self._holder(thing)
        elif isinstance(thing, _INSTANCES):
            self._parts(thing)
        elif isinstance(thing, nn.Module):
            self._module(thing)
        elif isinstance(thing, enum.Enum):
            self.visit(thing.value)
            self._holder(thing)
        elif not safe_function(thing):
            self._instance(thing)
        elif isinstance(owner := getattr(thing, "__self__", None), CONTAINERS) or readable(type(owner)):
            self.visit(owner)  # the object of a bound method

    def _tensor(self, tensor: Tensor) -> None:
        if id(tensor) not in self._watched:
            self.proof.tensors.append(tensor)
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) and type(tensor).__module__ != "torch.nn.parameter":
            raise RefusedError(f"it reaches a tensor of the class {type(tensor).__name__}")
        if vars(tensor):
            self._holder(tensor)

    def _container(self, container: Any) -> None:
        if id(container) not in self._watched:
            self.proof.container(container)
        for item in container:
            self.visit(item)
        if isinstance(container, dict):
            for item in container.values():
                self.visit(item)

    def _parts(self, thing: Any) -> None:
        if isinstance(thing, MethodType):
            self.visit(thing.__func__)
            self.visit(thing.__self__)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, thing.args, thing.keywords):
                self.visit(part)
        elif isinstance(thing, property):
            for function in (thing.fget, thing.fset, thing.fdel):
                self.visit(function)
        else:
            self.visit(thing.__func__)

    def _function(self, function: FunctionType) -> None:
        trusted = trusted_code(function)
        if not trusted and function.__code__ not in self._witness.codes:
            return  # it is not called
        self.proof.function(function)
        for cell in function.__closure__ or ():
            self.proof.cell(cell)
            if (content := _content(cell)) is not None:
                self.visit(content)
        for part in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.visit(part)
        if vars(function):
            self._holder(function)
        if not trusted:
            for code in _nested(function.__code__):
                self._code(code, function)

    def _code(self, code: CodeType, function: FunctionType) -> None:
        self._walked.add(code)
        if code.co_flags & (0x80 | 0x100 | 0x200):
            raise RefusedError(f"{_called(code)} is asynchronous")
        outer = function.__code__.co_freevars
        for step in dis.get_instructions(code):
            if (reason := _FORBIDDEN.get(step.opname)) is not None:
                raise RefusedError(f"{_called(code)} {reason} {step.argval or ''}".rstrip())
            if step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in outer:
                raise RefusedError(f"{_called(code)} assigns {step.argval}, which it shares with another function")
            if step.opname in _GLOBALS:
                self._global(step.argval, function, code)
            elif step.opcode in dis.hasname:
                self._name(_attribute(step), code)

    def _global(self, name: str, function: FunctionType, code: CodeType) -> None:
        builtin = _builtins(function)
        self.proof.name(function.__globals__, name)
        if name in function.__globals__:
            self.visit(function.__globals__[name])
            return
        self.proof.name(builtin, name)
        value = builtin.get(name)
        if not (safe_class(value) if isinstance(value, type) else safe_function(value)):
            raise RefusedError(f"{_called(code)} uses {name}, which is not known to depend on its arguments alone")

    def _name(self, name: str, code: CodeType) -> None:
        if name in self._names:
            return
        if name.startswith("__") and name.endswith("__") and name not in SAFE_DUNDERS:
            raise RefusedError(f"{_called(code)} uses {name}")
        self._names[name] = _called(code)
        for holder in self._holders:
            self._meet(holder, name)

    def _holder(self, thing: Any) -> None:
        """Note a thing whose attributes are read by name."""
        self._holders.append(thing)
        for name in list(self._names):
            self._meet(thing, name)

    def _meet(self, holder: Any, name: str) -> None:
        if isinstance(holder, ModuleType) and holder.__name__.startswith("torch.") and not of_torch(holder.__name__):
            raise RefusedError(f"it uses {holder.__name__}")
        for place in _places(holder):
            namespace = vars(place) if isinstance(place, type) else place
            if id(place) not in self._watched and (name in namespace or not isinstance(holder, ModuleType)):
                self.proof.name(place, name)
            if name in namespace:
                self._found.add(name)
                value = namespace[name]
                if type(value) is types.MemberDescriptorType:
                    raise RefusedError(f"it reads {name}, which a class keeps in a slot")
                self.visit(value)

    def _class(self, kind: type) -> None:
        if safe_class(kind):
            return
        if not readable(kind):
            raise RefusedError(f"it reaches the class {kind.__name__}, which cannot be looked into")
        if type(kind) not in (type, *_METACLASSES):
            raise RefusedError(f"the class {kind.__name__} is of a class of its own, {type(kind).__name__}")
        self.proof.kind(kind)
        self._of_user(kind)
        self._holder(kind)

    def _of_user(self, kind: type) -> None:
        """Visit the methods of a class that ran, whatever called them."""
        for base in kind.__mro__:
            if base is object or safe_class(base):
                continue
            for name, value in vars(base).items():
                if any(code in self._witness.codes for code in _codes(value)):
                    self.proof.name(base, name)
                    self.visit(value)
                elif hasattr(type(value), "__get__") and not isinstance(value, _PLAIN_ATTRIBUTES):
                    self._special(name, value)

    def _special(self, name: str, value: Any) -> None:
        if name in self._names and not safe_function(value):
            raise RefusedError(f"it reads {name}, a {type(value).__name__}, which is no plain attribute")

    def _instance(self, thing: Any) -> None:
        kind = type(thing)
        if of_torch(kind.__module__) or of_package(kind.__module__):
            if isinstance(thing, torch.Generator):
                raise RefusedError("it reaches a source of random numbers")
            for value in getattr(thing, "__dict__", {}).values():
                self.visit(value)
            if (held := getattr(thing, "__dict__", None)) and not of_package(kind.__module__):
                self.proof.container(held)
            return
        if not readable(kind):
            name = getattr(thing, "__name__", None)
            what = f"{kind.__name__} {name}" if name else kind.__name__
            raise RefusedError(f"it reaches a {what}, which cannot be looked into")
        self._class(kind)
        self.proof.instance(thing)
        self._holder(thing)

    def _module(self, module: nn.Module) -> None:
        if any(vars(module).get(hooks) for hooks in _HOOKS):
            raise RefusedError("the module has hooks")
        kind = type(module)
        if id(module) not in self._watched:
            self.proof.instance(module)
            for held in (vars(module), *(vars(module)[part] for part in ("_parameters", "_buffers", "_modules"))):
                self.proof.container(held)
        for base in kind.__mro__[: kind.__mro__.index(nn.Module) + 1]:
            if base not in self._classes:
                self._classes.add(base)
                self.proof.whole(base)
        if safe_module_class(kind):
            self._attributes(module)
            self._holder(module)
            return
        if not kind.__mro__ or any(_foreign(base) for base in kind.__mro__):
            raise RefusedError(f"the module is a {kind.__name__}, which PyTorch or a tool has made")
        self._class(kind)
        self._holder(module)
        for base in kind.__mro__:
            if safe_module_class(base) and base not in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict):
                self._attributes(module)
        for child in vars(module)["_modules"].values():
            self.visit(child)

    def _attributes(self, module: nn.Module) -> None:
        for name, value in vars(module).items():
            if not (isinstance(module, nn.RNNBase) and name.startswith("_flat_weight")):
                self.visit(value)

    def _trusted_names(self) -> None:
        """Note the names that PyTorch's and this library's code has looked up. Someone may assign them anew."""
        used: set[str] = set(self._names)
        for code, namespace in self._witness.trusted.items():
            for name in code.co_names:
                used.add(name)
                if name in namespace:
                    self.proof.name(namespace, name)
                    value = namespace[name]
                    if isinstance(value, ModuleType) and value.__name__.split(".")[0] in ("torch", "innerloop"):
                        self.proof.names(vars(value), [n for n in code.co_names if n in vars(value)])
                    if name.startswith("_global_") and isinstance(value, dict):
                        if value:
                            raise RefusedError("all modules have hooks")
                        self.proof.container(value)
        special = {n for n in dir(Tensor) if n.startswith("__") and n not in _OF_EVERY_CLASS}
        methods = sorted(special | {name for name in used if hasattr(Tensor, name)})
        for kind in Tensor.__mro__[:2]:
            self.proof.names(kind, methods)


_METACLASSES = (type(collections.abc.Callable), enum.EnumMeta)
_PLAIN_ATTRIBUTES = (FunctionType, *_INSTANCES, type, types.MemberDescriptorType, types.GetSetDescriptorType)
_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks") and "state_dict" not in name]
_OF_EVERY_CLASS = {"__dict__", "__doc__", "__module__", "__weakref__", "__annotations__"}


def _attribute(step: dis.Instruction) -> str:
    return str(step.argval)


def _builtins(function: FunctionType) -> dict[str, Any]:
    found = function.__globals__.get("__builtins__", {})
    return vars(found) if isinstance(found, ModuleType) else found


def _places(holder: Any) -> Iterator[Any]:
    """The dictionaries and classes that may hold an attribute of a thing."""
    if isinstance(holder, ModuleType | FunctionType):
        yield vars(holder)
        return
    if isinstance(holder, type):
        yield from (base for base in holder.__mro__ if base is not object and not safe_class(base))
        return
    held = vars(holder)
    yield held
    if isinstance(holder, nn.Module):
        yield from (held[part] for part in ("_parameters", "_buffers", "_modules"))
    yield from _places(type(holder))


def _foreign(base: type) -> bool:
    """Whether a class is PyTorch's, but not one of its layers."""
    return base.__module__.split(".")[0] == "torch" and not safe_module_class(base)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _codes(value: Any) -> Iterator[CodeType]:
    """The code of a function, or of the functions in a property or a similar object."""
    if isinstance(value, FunctionType):
        yield value.__code__
    elif isinstance(value, staticmethod | classmethod):
        yield from _codes(value.__func__)
    elif isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from _codes(part)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _called(code: CodeType) -> str:
    return f"{code.co_name} ({code.co_filename.rpartition('/')[2]}, line {code.co_firstlineno})"
