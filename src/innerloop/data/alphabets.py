"""Omniglot by alphabets: tasks as in Lake's one-shot challenge, of one alphabet's characters and of few drawers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.data._draws import check_counts, draw_distinct
from innerloop.data._splits import split_names
from innerloop.data.base import Location, Split, registered_data
from innerloop.data.errors import DataError
from innerloop.data.images import ImageClasses, Rotations
from innerloop.data.omniglot import omniglot
from innerloop.episode import Episode

__all__ = ["AlphabetEpisodes", "Alphabets", "omniglot_alphabets", "warped"]


@dataclass(frozen=True, eq=False)
class Alphabets:
    """Characters in alphabets, each drawn once by every drawer of its alphabet.

    Args:
        drawings: the drawings, on paper of value 0. Number ``i`` of each character of an alphabet has the same
            drawer.
        groups: the alphabet of each character, as a number from 0; int64 ``[characters]``.
        warp: the strength of random affine maps, one for each drawing; 0 for none. With 1 a drawing is turned by up to
            15 degrees, stretched by up to a fifth, sheared by up to 0.2 and moved by up to 3 pixels of 28.

    Example:
        >>> drawings = ImageClasses.from_classes(torch.zeros(7, 4, 28, 28, dtype=torch.uint8))
        >>> data = Alphabets(drawings, torch.tensor([0, 0, 0, 1, 1, 1, 1]))
        >>> draw = data.episodes(ways=3, shots=1, queries=2, tasks=8)
        >>> list(draw(torch.Generator().manual_seed(0)).query_x.shape)
        [8, 6, 1, 28, 28]
    """

    drawings: ImageClasses
    groups: Tensor
    warp: float = 0.0

    def __post_init__(self) -> None:
        characters = self.drawings.images.shape[1]
        if self.groups.shape != (characters,) or self.groups.dtype != torch.int64 or int(self.groups.min()) < 0:
            raise ValueError(
                f"groups is {self.groups.dtype} {list(self.groups.shape)}: expected int64 [{characters}], the number "
                "of the alphabet of each character, from 0."
            )
        if not (math.isfinite(self.warp) and self.warp >= 0):
            raise ValueError(f"warp={self.warp}: expected a finite number of at least 0.")

    @property
    def classes(self) -> int:
        """The number of characters."""
        return self.drawings.images.shape[1]

    def episodes(self, ways: int, shots: int, queries: int, tasks: int) -> AlphabetEpisodes:
        """Make a sampler of tasks within alphabets.

        Args:
            ways: the number of characters in a task. Alphabets with fewer are left out.
            shots: the number of drawers in the support set. All characters of a task have the same drawers.
            queries: the number of drawers in the query set. They are others than those of the support set.
            tasks: the number of tasks drawn at a time.

        Raises:
            ValueError: a number is too small, no alphabet has so many characters, or there are too few drawers.
        """
        return AlphabetEpisodes(self, ways, shots, queries, tasks)


@dataclass(frozen=True, eq=False)
class AlphabetEpisodes:
    """A sampler, a pure function of a generator: it draws tasks within alphabets.

    A task is an alphabet, some of its characters, and some of its drawers. The characters of the support set are drawn
    by some drawers, and those of the query set by others. Each alphabet with enough characters is as likely as its
    share of the characters. If the drawings have quarter turns, a task is turned as a whole. Examples are in
    class-major order. :meth:`Alphabets.episodes` makes it and documents the arguments.
    """

    source: Alphabets
    ways: int
    shots: int
    queries: int
    tasks: int

    def __post_init__(self) -> None:
        check_counts(ways=(self.ways, 2), shots=(self.shots, 1), queries=(self.queries, 0), tasks=(self.tasks, 1))
        most = int(self.source.groups.bincount().max())
        if self.ways > most:
            raise ValueError(f"ways={self.ways}: the largest alphabet has {most} characters. Ask for fewer.")
        drawers = self.source.drawings.instances
        if self.shots + self.queries > drawers:
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} need {self.shots + self.queries} drawers: there are "
                f"{drawers}. Ask for fewer."
            )

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next meta-batch.

        Raises:
            ValueError: ``generator`` is not on the device of the drawings.
        """
        drawings = self.source.drawings
        drawings.check(generator)
        turned, drawers = self._choose(generator)
        label, tensors = torch.arange(self.ways, device=drawings.device), []
        for chosen in drawers.split([self.shots, self.queries], dim=-1):
            images = turned.unsqueeze(-1) * drawings.instances + chosen.unsqueeze(1)
            x = drawings.at(images.flatten(1))
            if self.source.warp and x.numel():
                x = warped(x.flatten(0, 1), self.source.warp, generator).view_as(x)
            tensors += [x, label.repeat_interleave(chosen.shape[-1]).repeat(self.tasks, 1)]
        return Episode(*tensors)

    def _choose(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The characters ``[T, N]`` of each task, as rows of the turned classes, and its drawers ``[T, K + Q]``."""
        source, drawings = self.source, self.source.drawings
        device = drawings.device
        groups = source.groups.to(device)
        sizes = groups.bincount()
        weights = torch.where(sizes >= self.ways, sizes, 0).to(torch.float64)
        alphabets = torch.multinomial(weights, self.tasks, replacement=True, generator=generator)
        # The places of the largest of i.i.d. uniforms: distinct characters of the alphabet, in random order.
        uniform = torch.rand(self.tasks, source.classes, generator=generator, device=device)
        uniform = uniform.masked_fill(groups != alphabets.unsqueeze(-1), -1.0)
        characters = uniform.topk(self.ways).indices
        turns = drawings.images.shape[0]
        if turns > 1:
            turn = torch.randint(turns, (self.tasks, 1), generator=generator, device=device)
            characters = characters + turn * source.classes
        count = torch.full((self.tasks,), drawings.instances, device=device)
        return characters, draw_distinct(count, self.shots + self.queries, generator)


def warped(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Map each image ``[N, channels, H, W]`` by a random affine map of its own. What is outside an image is 0.

    Args:
        x: the images.
        strength: how far the maps are from the identity, see :class:`Alphabets`.
        generator: the source of randomness, on the images' device.

    Example:
        >>> x = torch.rand(3, 1, 8, 8)
        >>> torch.allclose(warped(x, 0.0, torch.Generator()), x, atol=1e-5)
        True
    """
    u = strength * (2 * torch.rand(6, len(x), generator=generator, device=x.device, dtype=x.dtype) - 1)
    angle, shear = u[0] * math.radians(15), 0.2 * u[1]
    wide, high = 1 + 0.2 * u[2], 1 + 0.2 * u[3]
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([wide * cos, shear * cos - high * sin, u[4] * 6 / 28], -1),
        torch.stack([wide * sin, shear * sin + high * cos, u[5] * 6 / 28], -1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def omniglot_alphabets(
    root: str | Path | None = None,
    split: Split = "train",
    *,
    validation: int = 0,
    turns: bool = False,
    warp: float = 0.0,
    device: torch.device | str = "cpu",
    download: bool = False,
    progress: bool | None = None,
) -> Alphabets:
    """Load Omniglot by alphabets, for tasks as in Lake's one-shot challenge.

    Meta-training has the 30 background alphabets alone. Test has the 20 evaluation alphabets.

    Args:
        root: as for :func:`omniglot`.
        split: the alphabets to load.
        validation: the number of background alphabets that are in ``val`` instead of ``train``. They are spread evenly
            over the alphabets in order of name.
        turns: whether tasks of ``train`` are turned by quarters.
        warp: the strength of random affine maps in ``train``, see :class:`Alphabets`.
        device: the device of the drawings.
        download: fetch the archives if they are absent.
        progress: whether to show progress bars. None shows them only on a terminal.

    Raises:
        DataError: the data is absent or damaged, or ``val`` is asked for and ``validation`` is 0.
        ValueError: ``validation`` is below 0, or leaves no alphabet to train on.
    """
    part: Split = "test" if split == "test" else "train"
    names = split_names("lake", part)
    alphabets = list(dict.fromkeys(name.partition("/")[0] for name in names))
    if part == "train":
        if not 0 <= validation < len(alphabets):
            raise ValueError(f"validation={validation}: expected 0 to {len(alphabets) - 1} alphabets.")
        if split == "val" and validation == 0:
            raise DataError("split='val': validation is 0; give the number of background alphabets to validate on.")
        held_out = {alphabets[int((i + 0.5) * len(alphabets) / validation)] for i in range(validation)}
        alphabets = [name for name in alphabets if (name in held_out) == (split == "val")]
    number = {name: i for i, name in enumerate(alphabets)}
    groups = torch.tensor([number.get(name.partition("/")[0], -1) for name in names])
    rotations: Rotations = "episode" if turns and split == "train" else "none"
    every = omniglot(root, part, "lake", rotations=rotations, device=device, download=download, progress=progress)
    kept = groups >= 0
    chosen = ImageClasses(every.images[:, kept.to(every.device)], rotations, every.maximum, every.preprocessing)
    return Alphabets(chosen, groups[kept].to(every.device), warp if split == "train" else 0.0)


def _validates(validation: int, **options: object) -> bool:
    """Whether some background alphabets are for validation."""
    return validation > 0


@registered_data("omniglot_alphabets", kind="classification", network="conv4", held_out=_validates)
def _open(split: Split, place: Location, *, validation: int = 0, turns: bool = False, warp: float = 0.0) -> Alphabets:
    """Omniglot by alphabets for a recipe.

    Args:
        split: which alphabets.
        place: where the archives are.
        validation: the number of background alphabets kept for validation.
        turns: whether tasks of meta-training are turned by quarters.
        warp: the strength of random affine maps of the drawings in meta-training; 0 for none, 1 for turns up to 15
            degrees, stretching up to a fifth and moves up to 3 pixels.
    """
    return omniglot_alphabets(
        place.root,
        split,
        validation=validation,
        turns=turns,
        warp=warp,
        device=place.device,
        download=place.download,
        progress=place.progress,
    )
