"""Glyphs: characters like handwriting, drawn by a program. They need no data and no network.

A class is a random *program* of one to four pen strokes, each of up to three pieces. A piece has a length, and its
heading turns at a constant rate: it is a line, a bow, a hook or a loop. It may begin with a corner. Every stroke except
the first is attached to an earlier one: it touches that stroke, crosses it, or lies a little apart. A *drawing* repeats
the program with an unsteady hand. Angles, lengths and joints are jittered. The whole is turned, sheared, scaled and
shifted. The pen is thin or thick.

All randomness comes from uniforms of ``numpy.random.PCG64([seed, class])`` on the CPU. So a class is the same whatever
other classes are drawn. The arithmetic is float64 and rounds to 8 bits, so threads and platforms agree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from innerloop.data.base import Location, Split, registered_data
from innerloop.data.images import ImageClasses, Rotations
from innerloop.data.preprocess import ImagePreprocessing

__all__ = ["draw_glyphs", "glyphs"]

_SPLITS = {"train": range(2000), "val": range(2000, 2300), "test": range(2300, 3000)}
_SIZE = 28
_STROKES, _PIECES, _POINTS = 4, 3, 64  # most strokes, most pieces in a stroke, points along a whole glyph
_CHUNK = 400  # drawings rendered at once, in some 30 MB
_QUARTER = math.pi / 2

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def glyphs(
    split: Literal["train", "val", "test"] = "train",
    rotations: Rotations = "none",
    seed: int = 0,
    device: torch.device | str = "cpu",
    ink: Literal[0, 1] = 1,
) -> ImageClasses:
    """Invented characters of one split, as classes of 20 drawings ``[1, 28, 28]`` of ink and paper.

    There are 2000 classes in ``"train"``, 300 in ``"val"`` and 700 in ``"test"``. No class is in two splits. The first
    call of a process draws them in a few seconds and keeps the drawings in memory. No file is read or written.

    Args:
        split: the classes to draw.
        rotations: how quarter turns are used, see :class:`ImageClasses`.
        seed: another seed gives other classes.
        device: the device of the images.
        ink: the value of ink, 0 or 1. Paper has the other value.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> data = glyphs("val")
        >>> data.classes, data.instances
        (300, 20)
        >>> episode = data.episodes(ways=5, shots=1, queries=15, tasks=4)(torch.Generator().manual_seed(0))
        >>> list(episode.query_x.shape)
        [4, 75, 1, 28, 28]
    """
    if split not in _SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(map(repr, _SPLITS))}.")
    if ink not in (0, 1):
        raise ValueError(f"ink={ink!r}: expected 1 (ink is 1, paper 0) or 0 (ink is 0, paper 1).")
    images = _drawn(split, seed).clone()
    data = ImageClasses.from_classes(images.to(device), rotations, invert=ink == 0)
    prepare = ImagePreprocessing((_SIZE, _SIZE), 1, "pad", invert=ink == 1)  # a drawing is dark on white
    return replace(data, preprocessing=prepare)


@registered_data("glyphs", kind="classification", network="conv4")
def _open(split: Split, place: Location) -> ImageClasses:
    """Glyphs for a recipe."""
    return glyphs(split, device=place.device)


@functools.lru_cache(maxsize=len(_SPLITS))
def _drawn(split: str, seed: int) -> Tensor:
    """The drawings of one split, kept in memory. Callers must not change them."""
    return draw_glyphs(_SPLITS[split], seed=seed)


def draw_glyphs(classes: Sequence[int], drawings: int = 20, seed: int = 0) -> Tensor:
    """Draw any classes of Glyphs.

    Args:
        classes: the ``C`` numbers of the classes, from 0 on. The splits of :func:`glyphs` are the classes below 3000.
        drawings: the number of drawings of each class, ``M``. A larger number begins with the same drawings.
        seed: another seed gives other classes.

    Returns:
        uint8 ``[C, M, 28, 28]``: paper is 0, ink 255, with grey edges.

    Raises:
        ValueError: a number is negative, or nothing is to be drawn.

    Example:
        >>> images = draw_glyphs([7, 3000], drawings=4)
        >>> list(images.shape), images.dtype
        ([2, 4, 28, 28], torch.uint8)
    """
    if len(classes) == 0 or drawings < 1:
        raise ValueError(f"{len(classes)} classes and drawings={drawings}: expected at least one of each.")
    if seed < 0 or min(classes) < 0:
        raise ValueError(f"seed={seed} and lowest class {min(classes)}: expected numbers from 0.")
    images = np.empty((len(classes), drawings, _SIZE, _SIZE), dtype=np.uint8)
    size = max(1, _CHUNK // drawings)
    for first in range(0, len(classes), size):
        chunk = slice(first, first + size)
        chance = [np.random.Generator(np.random.PCG64([seed, c])) for c in classes[chunk]]
        program = _invent(np.stack([c.random((_STROKES, 8 + 4 * _PIECES)) for c in chance]))
        uniform = np.stack([c.random((drawings, 7 + _STROKES * (5 + 4 * _PIECES), 2)) for c in chance])
        jitter = math.sqrt(6) * (uniform[..., 0] - uniform[..., 1])  # unit variance, no outliers
        whole, strokes = jitter[..., :7], jitter[..., 7:].reshape(*jitter.shape[:2], _STROKES, -1)
        path, step = _frame(*_trace(program, strokes), whole)
        images[chunk] = _ink(path, step, pen=0.8 + 0.08 * whole[..., 0])
    return torch.from_numpy(images)


class _Program(NamedTuple):
    """The programs of ``C`` classes. Lengths are in units of about half a glyph, angles in radians."""

    length: _Floats  # [C, S, Q] the length of each piece; 0 if there is no such piece
    corner: _Floats  # [C, S, Q] the angle by which the heading jumps before the piece
    turn: _Floats  # [C, S, Q] the angle by which the heading turns along the piece
    heading: _Floats  # [C, S] the heading at the start of the stroke
    parent: _Ints  # [C, S] the earlier stroke that this one is attached to
    hang: _Floats  # [C, S] the joint's place on the parent, from 0 at its start to 1 at its end
    hold: _Floats  # [C, S] the joint's place on the stroke itself
    gap: _Floats  # [C, S, 2] the offset between the two places


def _invent(u: _Floats) -> _Program:
    """Make programs from uniforms ``[C, S, 8 + 4Q]``."""
    stroke, piece = u[..., :8], u[..., 8:].reshape(*u.shape[:2], _PIECES, 4)
    strokes = _pick(stroke[:, :1, 0], {1: 2, 2: 4, 3: 4, 4: 1})
    pieces = np.minimum(_pick(stroke[..., 1], {1: 5, 2: 4, 3: 1}), 5 - strokes)  # many strokes: each is short
    pieces = np.where(strokes == 1, 3, pieces)
    exists = (np.arange(_STROKES) < strokes)[..., None] & (np.arange(_PIECES) < pieces[..., None])
    turn = _QUARTER * _pick(piece[..., 0], {0: 8, 1: 3, -1: 3, 2: 3, -2: 3, 3.4: 1, -3.4: 1})
    corner = _QUARTER * _pick(piece[..., 2], {0: 3, 1: 2, -1: 2, 1.5: 1, -1.5: 1})
    heading = _pick(stroke[..., 2], {0: 4, 1: 4, 0.5: 2, 1.5: 2, 2: 1, 3: 1})
    apart, way = 0.5 * _pick(stroke[..., 4], {0: 3, 1: 1}), 4 * _QUARTER * stroke[..., 5]
    return _Program(
        length=(0.35 + 0.75 * piece[..., 1] + 0.15 * np.abs(turn)) * exists,
        corner=corner * (np.arange(_PIECES) > 0),
        turn=turn,
        heading=_QUARTER * heading + 0.5 * stroke[..., 3],
        parent=(piece[:, :, 0, 3] * np.arange(_STROKES)).astype(np.int64),
        hang=_pick(stroke[..., 6], {0: 2, 0.5: 3, 1: 2}),
        hold=_pick(stroke[..., 7], {0: 3, 0.5: 2, 1: 1}),
        gap=apart[..., None] * np.stack([np.cos(way), np.sin(way)], -1),
    )


def _pick(u: _Floats, weights: dict[float, int]) -> _Floats:
    """Map each ``u`` in ``[0, 1)`` to a key. A key's share of the interval is proportional to its weight."""
    edges = np.cumsum(list(weights.values())[:-1]) / sum(weights.values())
    return np.array(list(weights), dtype=np.float64)[np.searchsorted(edges, u, side="right")]


def _trace(program: _Program, z: _Floats) -> tuple[_Floats, _Floats]:
    """Draw ``N`` points of each path ``[C, M, N, 2]``, and the lengths ``[C, M, N]`` of the steps to them."""
    c, m = z.shape[:2]
    row = np.arange(c)[:, None]
    # The points lie evenly along the program without jitter. Find each point's piece, and how far along the piece it
    # is.
    length = program.length.reshape(c, -1)
    ends = np.cumsum(length, 1)
    at = (np.arange(_POINTS) + 0.5) / _POINTS * ends[:, -1:]
    on = (at[:, :, None] >= ends[:, None]).sum(2)  # [C, N]
    share = 1 - (ends[row, on] - at) / length[row, on]

    by_turn, turn_by, by_corner, longer = np.moveaxis(z[..., 5:].reshape(c, m, _STROKES, _PIECES, 4), -1, 0)
    turn = program.turn[:, None] * (1 + 0.1 * by_turn) + 0.1 * turn_by
    jumps = program.corner[:, None] * (1 + 0.1 * by_corner)
    heading = (program.heading[:, None] + 0.08 * z[..., 0])[..., None] + np.cumsum(jumps + turn, -1) - turn

    def of_points(a: _Floats) -> _Floats:
        return np.take_along_axis(a.reshape(c, m, -1), on[:, None], 2)

    angle = of_points(heading) + of_points(turn) * share[:, None]
    step = of_points(np.exp(0.12 * longer)) * (ends[:, -1] / _POINTS)[:, None, None]
    path = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1) * step[..., None], 2)

    # The path so far is one line through all strokes. Move each stroke to its joint.
    owner = on // _PIECES
    count = (owner[:, :, None] == np.arange(_STROKES)).sum(1)  # [C, S] number of points of each stroke
    start = np.cumsum(count, 1) - count

    def point(where: _Floats, stroke: _Ints) -> _Floats:
        index = start[row, stroke] + np.clip(where, 0, 0.99) * count[row, stroke]
        index = np.minimum(index, _POINTS - 1)  # a stroke that does not exist would begin past the end
        chosen: _Floats = path[row, np.arange(m), index.astype(np.int64)]
        return chosen

    move = np.zeros((c, m, _STROKES, 2))
    for s in range(_STROKES):
        own, parent = np.full((c, 1), s), program.parent[:, s, None]
        move[:, :, s] = -point(program.hold[:, s, None] + 0.05 * z[:, :, s, 1], own)
        if s:
            joint = point(program.hang[:, s, None] + 0.05 * z[:, :, s, 2], parent)
            joint += move[row, np.arange(m), parent]
            move[:, :, s] += joint + program.gap[:, s, None] + 0.05 * z[:, :, s, 3:5]
    return path + np.take_along_axis(move, owner[:, None, :, None], 2), step


def _frame(path: _Floats, step: _Floats, z: _Floats) -> tuple[_Floats, _Floats]:
    """Bring path and steps to pixels: shear, turn, scale and shift them by jitter ``[C, M, 7]``."""
    turn, shear, aspect = 0.1 * z[..., 1], 0.12 * z[..., 2], np.exp(0.08 * z[..., 3])
    cos, sin = np.cos(turn)[..., None], np.sin(turn)[..., None]
    x = aspect[..., None] * path[..., 0] + shear[..., None] * path[..., 1]
    y = path[..., 1] / aspect[..., None]
    path = np.stack([cos * x - sin * y, sin * x + cos * y], -1)
    low, high = path.min(2, keepdims=True), path.max(2, keepdims=True)
    scale = (20 + z[..., 4, None]) / (high - low).max(3)  # [C, M, 1]
    middle = (_SIZE - 1) / 2 + 0.9 * z[..., None, 5:7]
    return (path - (low + high) / 2) * scale[..., None] + middle, step * scale


def _ink(path: _Floats, step: _Floats, pen: _Floats) -> NDArray[np.uint8]:
    """Draw ``[C, M, 28, 28]`` with pens whose blots have the radii ``[C, M]``, in pixels."""
    pen = pen[..., None, None]
    # Every point leaves a Gaussian blot. There is ink where the sum of the blots exceeds half its value on the axis of
    # a long line. The edge is about a pixel wide. A blot is separable, so the sum is one matrix product.
    blot = np.exp(-0.5 * ((path[..., None] - np.arange(_SIZE)) / pen[..., None]) ** 2)  # [C, M, N, 2, 28]
    weight = step[..., None] / (math.sqrt(2 * math.pi) * pen)
    density = np.swapaxes(blot[..., 1, :] * weight, -1, -2) @ blot[..., 0, :]
    return np.round(255 * np.clip(1.5 * density - 0.25, 0, 1)).astype(np.uint8)
