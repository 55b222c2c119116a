"""What the page sends, checked to the last detail: a task, as images of the right size and nothing else."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerloop.demo.contenders import Shown

__all__ = ["Limits", "Refused", "Task", "task_in"]


@dataclass(frozen=True)
class Limits:
    """The bounds of what the server accepts.

    Args:
        shots: the most examples of a class.
        name: the most characters in the name of a class.
        seconds: how long a request's body may take to arrive.
        working: the number of threads that adapt.
        waiting: the most requests that wait for a thread or are being worked on.
        connections: the most open connections.
    """

    shots: int = 5
    name: int = 40
    seconds: float = 10.0
    working: int = 2
    waiting: int = 8
    connections: int = 64

    def body(self, shown: Shown) -> int:
        """The most bytes in a request's body: the most images, as text, and the names."""
        image = 4 * (shown.channels * shown.size**2 + 2) // 3 + 8
        return 4096 + shown.ways * (self.shots * image + 6 * self.name + 16) + image


class Refused(Exception):  # noqa: N818 - a refusal is no failure of the server
    """A request that the server does not carry out.

    Args:
        status: the HTTP status, from 400 to 499.
        reason: what was wrong and what would be right, in one sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Task:
    """What was drawn.

    Attributes:
        x: the support images ``[S, channels, size, size]``.
        y: their classes ``[S]``.
        queries: the image to be recognised, ``[1, channels, size, size]``, or none.
        ways: the number of classes.
        names: the names of the classes.
        learner: the learner that is asked for; empty for all.
    """

    x: Tensor
    y: Tensor
    queries: Tensor
    ways: int
    names: tuple[str, ...]
    learner: str


def task_in(body: bytes, shown: Shown, limits: Limits) -> Task:
    """Read a task from a request's body.

    Raises:
        Refused: it is not JSON (400), or not a task within the limits (422).
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise Refused(422, "the body must be an object with the fields classes, query, names and learner")
    if unknown := content.keys() - {"classes", "query", "names", "learner"}:
        raise Refused(422, f"the body has {len(unknown)} fields that mean nothing here")
    classes = _list(content, "classes", 2, shown.ways, "lists of images")
    images, labels = [], []
    for label, examples in enumerate(classes):
        if not isinstance(examples, list) or not 1 <= len(examples) <= limits.shots:
            raise Refused(422, f"class {label + 1} must be a list of 1 to {limits.shots} images")
        images += [_image(example, shown, f"an image of class {label + 1}") for example in examples]
        labels += [label] * len(examples)
    query = content.get("query")
    queries = torch.empty(0, shown.channels, shown.size, shown.size)
    if query is not None:
        queries = _image(query, shown, "the query")[None]
    return Task(
        torch.stack(images),
        torch.tensor(labels),
        queries,
        len(classes),
        _names(content, len(classes), limits),
        _learner(content, shown),
    )


def _list(content: Mapping[str, Any], field: str, least: int, most: int, what: str) -> list[Any]:
    value = content.get(field)
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise Refused(422, f"{field} must be a list of {least} to {most} {what}")
    return value


def _image(text: object, shown: Shown, which: str) -> Tensor:
    """The image in a base64 text, as floats from 0 to 1 in which ink has the value that the learners know."""
    shape = (shown.channels, shown.size, shown.size)
    expected = shown.channels * shown.size**2
    if not isinstance(text, str) or len(text) != 4 * ((expected + 2) // 3):
        raise Refused(422, f"{which} must be {expected} bytes in base64, a grey level each")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"{which} is not base64") from None
    if len(data) != expected:
        raise Refused(422, f"{which} must be {expected} bytes in base64, a grey level each")
    levels = torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.float32).reshape(shape)) / 255
    return 1 - levels if shown.ink == 0 else levels


def _names(content: Mapping[str, Any], ways: int, limits: Limits) -> tuple[str, ...]:
    names = content.get("names")
    if names is None:
        return tuple(str(way + 1) for way in range(ways))
    fits = isinstance(names, list) and len(names) == ways
    if not fits or not all(isinstance(name, str) and len(name) <= limits.name for name in names):
        raise Refused(422, f"names must be a list of {ways} texts of at most {limits.name} characters")
    # Lone surrogates are JSON, and no text.
    return tuple(name.encode(errors="replace").decode() for name in names)


def _learner(content: Mapping[str, Any], shown: Shown) -> str:
    name, known = content.get("learner", ""), [contender.key for contender in shown.contenders]
    if name != "" and name not in known:
        raise Refused(422, f"learner must be one of {', '.join(known)}")
    return str(name)
