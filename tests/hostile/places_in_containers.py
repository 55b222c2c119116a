"""A number that lives in a container, in memory or in a tensor."""

from __future__ import annotations

import array
import collections
import ctypes
import mmap
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hostile.places import place

Read = Callable[[], Any]
Put = Callable[[float], object]
Place = Callable[..., tuple[Read, Put]]


@place
def a_value_in_a_dict():
    values = {"scale": 1.0}
    return lambda: values["scale"], lambda value: values.update(scale=value)


@place
def a_value_in_a_list():
    values = [1.0]
    return lambda: values[0], lambda value: values.__setitem__(0, value)


@place
def a_tensor_in_a_list():
    values = [torch.tensor(1.0).double()]
    return lambda: values[0], lambda value: values.__setitem__(0, torch.tensor(value).double())


@place
def a_list_that_grows():
    values = [1.0]
    return lambda: sum(values), lambda value: values.append(value)


@place
def a_value_deep_in_containers():
    values = ({"a": [{"b": (None, [1.0])}]},)
    return lambda: values[0]["a"][0]["b"][1][0], lambda value: values[0]["a"][0]["b"][1].__setitem__(0, value)


@place
def a_set():
    values = {1.0}
    return lambda: max(values), lambda value: values.add(value)


@place
def the_order_of_a_dict():
    values = {"one": 1.0, "two": 2.0}
    return lambda: next(iter(values.values())), lambda value: values.update({"one": values.pop("one")})


@place
def a_deque_a_counter_and_a_default_dict():
    queue, counts, found = collections.deque([1.0]), collections.Counter(a=1), collections.defaultdict(lambda: 1.0)

    def put(value):
        queue.appendleft(value)
        counts["a"] += 1
        found["x"] = value

    return lambda: queue[0] + counts["a"] + found["x"], put


@place
def a_chain_of_maps_behind_a_proxy():
    base = {"scale": 1.0}
    proxy = types.MappingProxyType(collections.ChainMap({}, base))
    return lambda: proxy["scale"], lambda value: base.update(scale=value)


@place
def bytes_arrays_and_views_of_memory():
    numbers, raw = array.array("d", [1.0]), bytearray(8)
    view = memoryview(raw)

    def put(value):
        numbers[0] = value
        raw[3] = int(value)

    return lambda: numbers[0] + view[3], put


@place
def a_ctypes_value_and_mapped_memory():
    number, memory = ctypes.c_double(1.0), mmap.mmap(-1, 16)

    def put(value):
        number.value = value
        memory[0] = int(value)

    return lambda: number.value + memory[0], put


@place
def a_numpy_array_changed_in_place():
    values = np.ones(2)
    return lambda: float(values[0]), lambda value: values.__setitem__(0, value)


@place
def a_tensor_that_shares_memory_with_numpy():
    values = np.ones(1)
    tensor = torch.from_numpy(values)
    return lambda: tensor, lambda value: values.__setitem__(0, value)


@place
def a_tensor_changed_in_place():
    tensor = torch.ones(1, dtype=torch.float64)
    return lambda: tensor, lambda value: tensor.fill_(value)


@place
def a_tensor_changed_through_data():
    tensor = torch.ones(1, dtype=torch.float64)
    return lambda: tensor, lambda value: tensor.data.fill_(value)


@place
def a_tensor_changed_through_a_view_of_detached():
    tensor = torch.ones(2, dtype=torch.float64)
    view = tensor.detach()[1:]
    return lambda: tensor[1], lambda value: view.fill_(value)


@place
def a_tensor_given_other_memory_by_set():
    tensor = torch.ones(1, dtype=torch.float64)
    return lambda: tensor, lambda value: tensor.set_(torch.full((1,), value, dtype=torch.float64))


@place
def a_tensor_given_other_data():
    tensor = torch.ones(1, dtype=torch.float64)
    return lambda: tensor, lambda value: setattr(tensor, "data", torch.full((1,), value, dtype=torch.float64))


@place
def a_python_attribute_of_a_tensor():
    tensor = torch.ones(1, dtype=torch.float64)
    tensor.scale = 1.0
    return lambda: tensor * tensor.scale, lambda value: setattr(tensor, "scale", value)


@place
def a_tensor_read_as_a_number():
    tensor = torch.ones(1, dtype=torch.float64)
    return lambda: tensor.item() + tensor.tolist()[0] + float(tensor.numpy()[0]), lambda value: tensor.fill_(value)


@place
def a_number_by_which_a_tensor_is_indexed():
    values, chosen = torch.arange(1.0, 6.0, dtype=torch.float64), [0]
    return lambda: values[chosen[0]], lambda value: chosen.__setitem__(0, int(value) - 1)
