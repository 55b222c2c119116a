"""Numbers of classes and examples that vary between the meta-batches of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from innerloop.methods.base import Method
from innerloop.recipes.options import flag

if TYPE_CHECKING:
    from innerloop.recipes.config import Config

__all__ = ["VARIED", "why_not_varied"]

VARIED = ("varied_ways", "varied_shots", "varied_queries")
"""The settings that vary between meta-batches."""


def why_not_varied(config: Config, method: Method) -> str:
    """Why the numbers of a configuration cannot vary as it says; empty if they can."""
    for fixed, varied in (("train_ways", config.varied_ways), ("train_shots", config.varied_shots)):
        if varied and (value := getattr(config, fixed)) is not None:
            return f"{flag(fixed)} is {value} in this recipe; to vary it, write {flag(fixed)} LOW-HIGH"
    if not config.varied_ways:
        return ""
    if config.regression:
        return "--ways cannot vary in regression, which has no classes; leave it out"
    if getattr(method.adaptation.start, "any_ways", False):
        return (
            f"--ways cannot vary with {config.method}: its head is made of the support set, for as many classes as the "
            "network has outputs, and a class that a task lacks would be taken for a real one"
        )
    if config.ways > (most := max(config.varied_ways)):
        return f"--ways is {config.ways}, and tasks of meta-training have at most {most} classes; test with no more"
    return ""
