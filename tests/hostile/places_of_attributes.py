"""A number that lives in an attribute, of whatever kind."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch

from hostile.places import Holder, place

Read = Callable[[], Any]
Put = Callable[[float], object]
Place = Callable[..., tuple[Read, Put]]


@place
def an_attribute_of_an_object():
    holder = Holder()
    return lambda: holder.value, lambda value: setattr(holder, "value", value)


@place
def a_tensor_attribute_assigned_anew():
    holder = Holder()
    holder.value = torch.tensor(1.0).double()
    return lambda: holder.value, lambda value: setattr(holder, "value", torch.tensor(value).double())


@place
def an_attribute_of_an_attribute():
    holder = Holder()
    holder.value = types.SimpleNamespace(inner=Holder())
    return lambda: holder.value.inner.value, lambda value: setattr(holder.value.inner, "value", value)


@place
def an_object_replaced_by_another():
    outer = types.SimpleNamespace(inner=Holder())

    def put(value):
        outer.inner = Holder()
        outer.inner.value = value

    return lambda: outer.inner.value, put


@place
def a_property():
    class Owner:
        hidden: ClassVar[list[float]] = [1.0]

        @property
        def value(self):
            return self.hidden[0]

    owner = Owner()
    return lambda: owner.value, lambda value: Owner.hidden.__setitem__(0, value)


@place
def a_property_put_in_another_ones_place():
    class Owner:
        value = property(lambda self: 1.0)

    owner = Owner()
    return lambda: owner.value, lambda value: setattr(Owner, "value", property(lambda self: value))


@place
def a_cached_property():
    class Owner:
        @functools.cached_property
        def value(self):
            return 1.0

    owner = Owner()
    return lambda: owner.value, lambda value: vars(owner).update(value=value)


@place
def a_class_attribute():
    class Owner:
        value = 1.0

    owner = Owner()
    return lambda: owner.value, lambda value: setattr(Owner, "value", value)


@place
def the_base_classes_of_a_class():
    def base(number):
        return type("Base", (), {"value": number})

    kind = type("Owner", (base(1.0),), {})
    owner = kind()
    return lambda: owner.value, lambda value: setattr(kind, "__bases__", (base(value),))


@place
def an_attribute_of_a_base_class():
    class Base:
        value = 1.0

    class Owner(Base):
        pass

    owner = Owner()
    return lambda: owner.value, lambda value: setattr(Base, "value", value)


@place
def an_attribute_of_a_metaclass():
    class Meta(type):
        value = 1.0

    class Owner(metaclass=Meta):
        pass

    return lambda: Owner.value, lambda value: setattr(Meta, "value", value)


@place
def a_property_of_a_metaclass():
    state = [1.0]

    class Meta(type):
        @property
        def value(cls):
            return state[0]

    class Owner(metaclass=Meta):
        pass

    return lambda: Owner.value, lambda value: state.__setitem__(0, value)


@place
def a_slot():
    class Owner:
        __slots__ = ("value",)

    owner = Owner()
    owner.value = 1.0
    return lambda: owner.value, lambda value: setattr(owner, "value", value)


@place
def a_descriptor():
    class Descriptor:
        def __init__(self):
            self.values = weakref.WeakKeyDictionary()

        def __get__(self, instance, owner):
            return self.values.get(instance, 1.0)

        def __set__(self, instance, value):
            self.values[instance] = value

    class Owner:
        value = Descriptor()

    owner = Owner()
    return lambda: owner.value, lambda value: setattr(owner, "value", value)


@place
def what_getattr_finds():
    class Owner:
        def __init__(self):
            self.values = {"scale": 1.0}

        def __getattr__(self, name):
            return self.values[name]

    owner = Owner()
    return lambda: owner.scale, lambda value: owner.values.update(scale=value)


@place
def what_getattribute_gives():
    class Owner:
        value = 1.0
        factor = 1.0

        def __getattribute__(self, name):
            found = object.__getattribute__(self, name)
            return found * type(self).factor if name == "value" else found

    owner = Owner()
    return lambda: owner.value, lambda value: setattr(Owner, "factor", value)


@place
def a_dynamic_name():
    holder, names = types.SimpleNamespace(a1=1.0, a2=2.0, a3=3.0, a4=4.0, a5=5.0), ["a1"]
    return lambda: getattr(holder, names[0]), lambda value: names.__setitem__(0, f"a{value:.0f}")


@place
def the_class_of_an_object_assigned_anew():
    kinds = {value: type("Kind", (), {"value": value}) for value in (1.0, 2.0, 3.0, 4.0, 5.0)}
    owner = kinds[1.0]()
    return lambda: owner.value, lambda value: setattr(owner, "__class__", kinds[value])


@place
def a_method_put_on_an_instance():
    class Owner:
        def value(self):
            return 1.0

    owner = Owner()
    return lambda: owner.value(), lambda value: setattr(owner, "value", lambda: value)


@place
def a_method_patched_on_a_class():
    class Owner:
        def value(self):
            return 1.0

    owner = Owner()
    return lambda: owner.value(), lambda value: setattr(Owner, "value", lambda self: value)


@place
def a_static_and_a_class_method():
    class Owner:
        one = 1.0

        @classmethod
        def value(cls):
            return cls.one

        @staticmethod
        def read():
            return Owner.value()

    return lambda: Owner.read(), lambda value: setattr(Owner, "one", value)


@place
def a_dataclass_field():
    @dataclasses.dataclass
    class Config:
        value: float = 1.0

    config = Config()
    return lambda: config.value, lambda value: setattr(config, "value", value)


@place
def a_frozen_dataclass_replaced():
    @dataclasses.dataclass(frozen=True)
    class Config:
        value: float = 1.0

    held = [Config()]
    return lambda: held[0].value, lambda value: held.__setitem__(0, dataclasses.replace(held[0], value=value))


@place
def a_frozen_dataclass_with_a_list():
    @dataclasses.dataclass(frozen=True)
    class Config:
        values: list = dataclasses.field(default_factory=lambda: [1.0])

    config = Config()
    return lambda: config.values[0], lambda value: config.values.__setitem__(0, value)


@place
def a_named_tuple_with_a_list():
    class Config(NamedTuple):
        values: list

    config = Config([1.0])
    return lambda: config.values[0], lambda value: config.values.__setitem__(0, value)


@place
def a_member_of_an_enum():
    class Mode(enum.Enum):
        ONE = 1.0
        TWO = 2.0
        THREE = 3.0
        FOUR = 4.0
        FIVE = 5.0

    chosen = [Mode.ONE]
    return lambda: chosen[0].value, lambda value: chosen.__setitem__(0, Mode(value))


@place
def an_attribute_of_a_member_of_an_enum():
    class Mode(enum.Enum):
        ONE = "one"

    Mode.ONE.scale = 1.0
    return lambda: Mode.ONE.scale, lambda value: setattr(Mode.ONE, "scale", value)


@place
def isinstance_of_an_abstract_class():
    class Doubled(abc.ABC):  # noqa: B024
        pass

    class Owner:
        pass

    owner = Owner()
    return lambda: 2.0 if isinstance(owner, Doubled) else 1.0, lambda value: Doubled.register(Owner)


@place
def a_class_with_dunder_methods():
    class Owner:
        value = 1.0

        def __mul__(self, other):
            return other * self.value

        __rmul__ = __mul__

        def __len__(self):
            return int(self.value)

        def __bool__(self):
            return self.value > 1

        def __float__(self):
            return self.value

        def __iter__(self):
            return iter([self.value])

        def __contains__(self, item):
            return item == self.value

    owner = Owner()

    def read():
        return float(owner) * len(owner) + next(iter(owner)) + (2.0 if owner else 0.0) + (1.0 in owner) + owner * 1.0

    return read, lambda value: setattr(Owner, "value", value)
