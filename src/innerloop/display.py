"""How things print: objects as a title and a few facts, in a terminal and in a notebook; lists of names in messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["Shown", "first_few"]

LEFT = "text-align: left"


class Shown:
    """A base class for objects that print as a title and a few facts.

    A derived dataclass needs ``repr=False``.

    Example:
        >>> class Cake(Shown):
        ...     def facts(self):
        ...         return {"eggs": "2", "flour": "200 g"}
        >>> Cake()
        Cake
          eggs   2
          flour  200 g
    """

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What to know about the object, by a word or two each."""

    def __repr__(self) -> str:
        facts = self.facts()
        width = max(map(len, facts), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:{width}}  {value}" for name, value in facts.items())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='{LEFT}'>{escape(name)}</th><td style='{LEFT}'>{escape(value)}</td></tr>"
            for name, value in self.facts().items()
        )
        return f"<strong>{type(self).__name__}</strong><table>{rows}</table>"


def first_few(names: Sequence[Any], most: int = 8) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> first_few(["ant", "bee", "cow"], most=2)
        'ant, bee and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
