"""A number that a function reads, in whatever way."""

from __future__ import annotations

import builtins
import contextvars
import functools
import itertools
import operator
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hostile.places import Holder, place

Read = Callable[[], Any]
Put = Callable[[float], object]
Place = Callable[..., tuple[Read, Put]]

GLOBAL = 1.0
NESTED = {"one": [1.0]}
OBJECT = Holder()


def helper():
    return GLOBAL


def helper_of_the_helper():
    return helper() + NESTED["one"][0]


@place
def a_global_of_the_helper():
    globals().update(GLOBAL=1.0)
    return lambda: helper(), lambda value: globals().update(GLOBAL=value)


@place
def a_container_that_a_helper_of_a_helper_reads():
    NESTED["one"][0] = 1.0
    return lambda: helper_of_the_helper(), lambda value: NESTED["one"].__setitem__(0, value)


@place
def an_attribute_of_a_global_object():
    OBJECT.value = 1.0
    return lambda: OBJECT.value, lambda value: setattr(OBJECT, "value", value)


@place
def a_helper_defined_anew(patch: pytest.MonkeyPatch):
    patch.setitem(globals(), "helper", lambda: 1.0)
    return lambda: helper_of_the_helper(), lambda value: patch.setitem(globals(), "helper", lambda: value)


@place
def a_global_by_the_dict_of_globals(patch: pytest.MonkeyPatch):
    patch.setitem(globals(), "OTHER", 1.0)
    return lambda: globals()["OTHER"], lambda value: patch.setitem(globals(), "OTHER", value)


@place
def a_global_of_another_module(patch: pytest.MonkeyPatch):
    other = types.ModuleType("hostile_other")
    other.value = 1.0
    patch.setitem(sys.modules, "hostile_other", other)
    return lambda: other.value, lambda value: setattr(other, "value", value)


@place
def an_import_within_the_function(patch: pytest.MonkeyPatch):
    other = types.ModuleType("hostile_imported")
    other.value = 1.0
    patch.setitem(sys.modules, "hostile_imported", other)

    def read():
        from hostile_imported import value

        return value

    return read, lambda value: setattr(other, "value", value)


@place
def a_module_replaced_in_the_table_of_modules(patch: pytest.MonkeyPatch):
    patch.setitem(sys.modules, "hostile_table", types.SimpleNamespace(value=1.0))
    return lambda: sys.modules["hostile_table"].value, lambda value: patch.setitem(
        sys.modules, "hostile_table", types.SimpleNamespace(value=value)
    )


@place
def a_builtin(patch: pytest.MonkeyPatch):
    patch.setattr(builtins, "SCALE", 1.0, raising=False)
    return lambda: SCALE, lambda value: patch.setattr(builtins, "SCALE", value)  # noqa: F821


@place
def a_builtin_function_patched(patch: pytest.MonkeyPatch):
    return lambda: abs(-1.0), lambda value: patch.setattr(builtins, "abs", lambda number: -value * number)


@place
def a_closure():
    value = 1.0

    def put(new):
        nonlocal value
        value = new

    return lambda: value, put


@place
def a_closure_of_a_closure():
    value = [1.0]

    def outer():
        def inner():
            return value[0]

        return inner()

    return outer, lambda new: value.__setitem__(0, new)


@place
def a_loop_variable_bound_late():
    readers, value = [], 1.0
    for value in (0.5, 1.0):  # noqa: B007
        readers.append(lambda: value)  # noqa: B023

    def put(new):
        nonlocal value
        value = new

    return readers[0], put


@place
def a_default_argument():
    def read(values=[1.0]):  # noqa: B006
        return values[0]

    return read, lambda value: read.__defaults__[0].__setitem__(0, value)


@place
def defaults_assigned_anew():
    def read(value=1.0):
        return value

    return lambda: read(), lambda value: setattr(read, "__defaults__", (value,))


@place
def a_default_by_keyword():
    def read(*, value=1.0):
        return value

    return lambda: read(), lambda value: read.__kwdefaults__.update(value=value)


@place
def an_attribute_of_a_function():
    def read():
        return read.scale

    read.scale = 1.0
    return read, lambda value: setattr(read, "scale", value)


@place
def code_assigned_anew():
    def read():
        return 1.0

    others = {2.0: lambda: 2.0, 3.0: lambda: 3.0, 4.0: lambda: 4.0, 5.0: lambda: 5.0}
    return lambda: read(), lambda value: setattr(read, "__code__", others[value].__code__)


@place
def a_function_of_a_namespace_of_its_own():
    namespace: dict[str, Any] = {"scale": 1.0}
    exec("def read(): return scale", namespace)
    return namespace["read"], lambda value: namespace.update(scale=value)


@place
def a_text_that_is_evaluated():
    texts = ["1.0"]
    return lambda: eval(texts[0]), lambda value: texts.__setitem__(0, str(value))


@place
def a_partial_with_a_list():
    values = [1.0]
    return functools.partial(operator.getitem, values, 0), lambda value: values.__setitem__(0, value)


@place
def a_partial_with_an_object():
    holder = Holder()
    return functools.partial(getattr, holder, "value"), lambda value: setattr(holder, "value", value)


@place
def an_attrgetter_and_an_itemgetter():
    holder = types.SimpleNamespace(inner=types.SimpleNamespace(value=[1.0]))
    get, first = operator.attrgetter("inner.value"), operator.itemgetter(0)
    return lambda: first(get(holder)), lambda value: holder.inner.value.__setitem__(0, value)


@place
def a_cached_helper_that_is_cleared():
    state = [1.0]

    @functools.lru_cache
    def cached():
        return state[0]

    def put(value):
        state[0] = value
        cached.cache_clear()

    return lambda: cached(), put


@place
def a_function_that_is_dispatched_by_type():
    @functools.singledispatch
    def dispatched(argument):
        return 1.0

    return lambda: dispatched(3), lambda value: dispatched.register(int, lambda argument: value)


@place
def a_wrapped_function():
    factor = Holder()

    def scaled(function):
        @functools.wraps(function)
        def wrapper():
            return factor.value * function()

        return wrapper

    @scaled
    def read():
        return 1.0

    return read, lambda value: setattr(factor, "value", value)


@place
def a_callable_object():
    class Reader:
        def __init__(self):
            self.value = 1.0

        def __call__(self):
            return self.value

    reader = Reader()
    return reader, lambda value: setattr(reader, "value", value)


@place
def a_bound_method():
    class Reader:
        def __init__(self):
            self.values = [1.0]

        def read(self):
            return self.values[-1]

    reader = Reader()
    return reader.read, lambda value: reader.values.append(value)


@place
def a_method_of_a_builtin():
    values = {"scale": 1.0}
    return functools.partial(values.get, "scale"), lambda value: values.update(scale=value)


@place
def a_table_of_functions():
    table = {"read": lambda: 1.0}
    return lambda: table["read"](), lambda value: table.update(read=lambda: value)


@place
def a_generator():
    values = [1.0]

    def endless():
        while True:
            yield values[0]

    numbers = endless()
    return lambda: next(numbers), lambda value: values.__setitem__(0, value)


@place
def an_iterator_moved_on_from_outside():
    current = [1.0]
    numbers = itertools.count(2.0)
    return lambda: current[0], lambda value: current.__setitem__(0, next(numbers))


@place
def a_context_variable():
    variable = contextvars.ContextVar("scale", default=1.0)
    variable.set(1.0)
    return variable.get, lambda value: variable.set(value)


@place
def a_weak_reference():
    holder = [Holder()]
    reference = weakref.ref(holder[0])

    def read():
        found = reference()
        return 7.0 if found is None else found.value

    return read, lambda value: setattr(holder[0], "value", value)


@place
def a_lock_that_is_held():
    lock = threading.Lock()
    return lambda: 2.0 if lock.locked() else 1.0, lambda value: lock.acquire(blocking=False)


@place
def an_autograd_functions_class_attribute():
    class Scale(torch.autograd.Function):
        scale = 1.0
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x * Scale.scale

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return grad * Scale.scale

    one = torch.ones(1, dtype=torch.float64)
    return lambda: Scale.apply(one), lambda value: setattr(Scale, "scale", value)


@place
def a_module_that_is_no_part_of_the_net():
    other = nn.Linear(1, 1).double()
    with torch.no_grad():
        other.weight.fill_(1.0)
        other.bias.zero_()
    other.requires_grad_(False)
    one = torch.ones(1, dtype=torch.float64)

    def put(value):
        other.weight = nn.Parameter(torch.full((1, 1), value, dtype=torch.float64), requires_grad=False)

    return lambda: other(one), put
