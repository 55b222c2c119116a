"""How objects print: a title and a few facts, as text in a terminal and as a table in a notebook."""

from __future__ import annotations

from abc import abstractmethod
from html import escape

__all__ = ["Shown"]

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
