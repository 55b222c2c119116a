"""The named methods, each a composition of the parts."""

from innerloop.methods.classic import fomaml, maml, reptile

__all__ = ["fomaml", "maml", "reptile"]
