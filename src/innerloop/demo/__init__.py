"""The page to draw on: ``innerloop demo`` serves it, and adapts its learners to what is drawn."""

from innerloop.demo.contenders import Contender, Shown, opened
from innerloop.demo.requests import Limits
from innerloop.demo.server import application
from innerloop.demo.serving import serve

__all__ = ["Contender", "Limits", "Shown", "application", "opened", "serve"]
