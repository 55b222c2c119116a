"""Labelled images in memory, and the few-shot episodes and mini-batches drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from innerloop.data.preprocess import Preprocessing
from innerloop.display import Shown
from innerloop.episode import Episode

__all__ = ["ImageBatches", "ImageClasses", "ImageEpisodes", "Rotations"]

Rotations: TypeAlias = Literal["none", "classes", "episode"]
"""How quarter turns are used: not at all, as new classes, or drawn anew for each class of each task."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageClasses(Shown):
    """``C`` classes of ``M`` images each, in memory on one device. Build it with :meth:`from_classes`.

    Args:
        images: uint8 ``[R, C, M, channels, H, W]``. With quarter turns ``R`` is 4: the images turned counter-clockwise
            by 0, 90, 180 and 270 degrees. Otherwise it is 1.
        rotations: ``"none"``: no quarter turns. ``"classes"``: each turn of a class is a class, so that a task may hold
            the same class at two angles (Reptile). ``"episode"``: each class of a task is turned at random (MAML).
        maximum: the grey level that becomes 1.0.
        preprocessing: how new images become like these; None if that is not known.

    Raises:
        ValueError: ``images`` does not have the type or shape that ``rotations`` needs.

    Example:
        >>> drawings = torch.randint(256, (30, 20, 28, 28), dtype=torch.uint8)
        >>> data = ImageClasses.from_classes(drawings, rotations="classes")
        >>> data.classes
        120
        >>> draw = data.episodes(ways=5, shots=1, queries=15, tasks=32)
        >>> episode = draw(torch.Generator().manual_seed(0))
        >>> list(episode.support_x.shape), list(episode.query_x.shape)
        ([32, 5, 1, 28, 28], [32, 75, 1, 28, 28])
    """

    images: Tensor
    rotations: Rotations = "none"
    maximum: int = 255
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.rotations not in ("none", "classes", "episode"):
            raise ValueError(f"rotations is {self.rotations!r}: expected 'none', 'classes' or 'episode'.")
        turns = 1 if self.rotations == "none" else 4
        if self.images.dtype != torch.uint8 or self.images.ndim != 6 or self.images.shape[0] != turns:
            raise ValueError(
                f"images is {self.images.dtype} {list(self.images.shape)}: expected uint8 "
                f"[{turns}, classes, images, channels, height, width]. ImageClasses.from_classes makes it."
            )
        if not 1 <= self.maximum <= 255:
            raise ValueError(f"maximum is {self.maximum}: expected a grey level from 1 to 255.")

    @classmethod
    def from_classes(
        cls, images: Tensor, rotations: Rotations = "none", *, invert: bool = False, maximum: int = 255
    ) -> ImageClasses:
        """Make classes from a tensor of their images.

        Args:
            images: uint8 levels from 0 to ``maximum``, ``[C, M, H, W]`` or ``[C, M, channels, H, W]``.
            rotations: how quarter turns are used; see the class. The turned copies are made here, once.
            invert: swap dark and light.
            maximum: the grey level that becomes 1.0.

        Raises:
            ValueError: another type or shape, no image, a level above ``maximum``, or quarter turns of images that are
                not square.

        Example:
            >>> ink = torch.zeros(3, 2, 4, 4, dtype=torch.uint8)
            >>> paper = ImageClasses.from_classes(ink, invert=True).episodes(2, 1, 1, 1)
            >>> paper(torch.Generator()).support_x.unique()
            tensor([1.])
        """
        if images.dtype != torch.uint8 or images.ndim not in (4, 5) or images.numel() == 0:
            raise ValueError(
                f"images is {images.dtype} {list(images.shape)}: expected uint8 "
                "[classes, images, height, width], or with channels before the height; no axis of length 0. "
                "For floats in [0, 1] pass (x * 255).round().to(torch.uint8)."
            )
        if images.ndim == 4:
            images = images.unsqueeze(2)
        height, width = images.shape[-2:]
        if rotations != "none" and height != width:
            raise ValueError(
                f"images are {height}x{width}: quarter turns need squares. Crop them, or rotations='none'."
            )
        if int(images.max()) > maximum:
            raise ValueError(f"images reach grey level {int(images.max())}, above maximum={maximum}: raise maximum.")
        if invert:
            images = maximum - images
        turns = range(1 if rotations == "none" else 4)
        return cls(torch.stack([images.rot90(k, (-2, -1)) for k in turns]), rotations, maximum)

    def facts(self) -> dict[str, str]:
        """What the data is, in a few words each, as it prints."""
        return {
            "classes": f"{self.classes:,}",
            "images": f"{self.instances} of each, {' x '.join(map(str, self.images.shape[3:]))}",
            "quarter turns": self.rotations,
            "device": str(self.device),
        }

    @property
    def classes(self) -> int:
        """The number of classes that an episode can draw from: four times as many with ``rotations="classes"``."""
        turns, classes = self.images.shape[:2]
        return turns * classes if self.rotations == "classes" else classes

    @property
    def instances(self) -> int:
        """The number of images of each class."""
        return self.images.shape[2]

    @property
    def device(self) -> torch.device:
        """The device of the images, and so of the episodes."""
        return self.images.device

    def to(self, device: torch.device | str) -> ImageClasses:
        """Return the same classes on another device."""
        return replace(self, images=self.images.to(device))

    def episodes(self, ways: int, shots: int, queries: int, tasks: int) -> ImageEpisodes:
        """Make a sampler of meta-batches of ``tasks`` tasks.

        Args:
            ways: the number of classes in a task, ``N``.
            shots: the number of support images of each class, ``K``.
            queries: the number of query images of each class, ``Q``. It may be 0.
            tasks: the number of tasks in a meta-batch, ``T``.

        Raises:
            ValueError: a number is out of range, or there are too few classes or images.

        Example:
            >>> data = ImageClasses.from_classes(torch.zeros(9, 20, 28, 28, dtype=torch.uint8))
            >>> data.episodes(ways=5, shots=10, queries=15, tasks=4)
            Traceback (most recent call last):
                ...
            ValueError: shots=10 and queries=15 need 25 images of each class: there are 20. Ask for fewer.
        """
        return ImageEpisodes(self, ways, shots, queries, tasks)

    def batches(self, size: int, tasks: int = 1) -> ImageBatches:
        """Make a sampler of mini-batches of all classes, to train an ordinary classifier.

        If quarter turns are used, each turn of a class is a class.

        Args:
            size: the number of images in a mini-batch.
            tasks: the number of mini-batches drawn at a time.

        Raises:
            ValueError: ``size`` or ``tasks`` is below 1.

        Example:
            >>> data = ImageClasses.from_classes(torch.zeros(9, 20, 28, 28, dtype=torch.uint8), "episode")
            >>> batches = data.batches(128)
            >>> batches.classes, list(batches(torch.Generator()).query_x.shape)
            (36, [1, 128, 1, 28, 28])
        """
        return ImageBatches(self, size, tasks)

    def at(self, flat: Tensor) -> Tensor:
        """The images of indices ``[T, N]`` into all turns, classes and instances.

        They are ``[T, N, channels, H, W]``, float32 in [0, 1].
        """
        x = self.images.flatten(0, 2).index_select(0, flat.flatten())  # several times faster than images[flat]
        x = x.to(torch.float32)
        if self.maximum > 1:
            x = x.div_(self.maximum)
        return x.view(*flat.shape, *self.images.shape[3:])

    def check(self, generator: torch.Generator) -> None:
        """Raise ``ValueError`` unless the generator is on the device of the images."""
        if generator.device.type != self.device.type:
            raise ValueError(
                f"the generator is on {generator.device} and the images on {self.device}: "
                f"make it with torch.Generator({str(self.device)!r}), or move the images with .to()."
            )


@dataclass(frozen=True, eq=False)
class ImageEpisodes:
    """A sampler, a pure function of a generator: it draws a meta-batch of few-shot classification tasks.

    The classes of a task are distinct. So are the images of a class, over the support and the query set together.
    Examples are in class-major order. The support set has ``x [T, N*K, channels, H, W]``, float32 in [0, 1], and
    ``y [T, N*K]``, int64. The query set is the same with ``N*Q``. :meth:`ImageClasses.episodes` makes it and documents
    the arguments.

    Example:
        >>> data = ImageClasses.from_classes(torch.zeros(9, 20, 28, 28, dtype=torch.uint8))
        >>> data.episodes(ways=3, shots=2, queries=1, tasks=1)(torch.Generator()).support_y
        tensor([[0, 0, 1, 1, 2, 2]])
    """

    source: ImageClasses
    ways: int
    shots: int
    queries: int
    tasks: int

    def __post_init__(self) -> None:
        for name, least in (("ways", 2), ("shots", 1), ("queries", 0), ("tasks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}.")
        if self.ways > self.source.classes:
            raise ValueError(f"ways={self.ways}: there are {self.source.classes} classes. Ask for fewer.")
        if self.shots + self.queries > self.source.instances:
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} need {self.shots + self.queries} images of "
                f"each class: there are {self.source.instances}. Ask for fewer."
            )

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next meta-batch.

        Raises:
            ValueError: ``generator`` is not on the device of the images.
        """
        self.source.check(generator)
        sets = self._choose(generator).split([self.shots, self.queries], dim=-1)
        label = torch.arange(self.ways, device=self.source.device)
        tensors = []
        for chosen in sets:
            tensors += [
                self.source.at(chosen.flatten(1)),
                label.repeat_interleave(chosen.shape[-1]).repeat(self.tasks, 1),
            ]
        return Episode(*tensors)

    def _choose(self, generator: torch.Generator) -> Tensor:
        """Draw flat indices ``[T, N, K+Q]`` into the images of all turns, classes and instances."""
        source, shape = self.source, (self.tasks, self.ways)
        uniform = torch.rand(self.tasks, source.classes, generator=generator, device=source.device)
        # The places of the largest of i.i.d. uniforms: distinct classes, and all orders are equally likely.
        classes = uniform.topk(self.ways).indices
        if source.rotations == "episode":
            turns = torch.randint(4, shape, generator=generator, device=source.device)
            classes = classes + turns * source.classes
        uniform = torch.rand(*shape, source.instances, generator=generator, device=source.device)
        return classes.unsqueeze(-1) * source.instances + uniform.topk(self.shots + self.queries).indices


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """A sampler, a pure function of a generator: it draws mini-batches of all classes, as the query sets of tasks.

    The query set has ``x [T, size, channels, H, W]``, float32 in [0, 1], drawn with replacement, and ``y [T, size]``
    from 0 to ``classes - 1``. The support set is only the first image of the query set, because an episode must have
    one. :meth:`ImageClasses.batches` makes it and documents the arguments.

    Example:
        >>> data = ImageClasses.from_classes(torch.zeros(9, 20, 28, 28, dtype=torch.uint8))
        >>> episode = data.batches(100)(torch.Generator().manual_seed(0))
        >>> bool((episode.query_y < 9).all()), list(episode.support_y.shape)
        (True, [1, 1])
    """

    source: ImageClasses
    size: int
    tasks: int

    def __post_init__(self) -> None:
        for name in ("size", "tasks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1.")

    @property
    def classes(self) -> int:
        """The number of classes that the labels distinguish."""
        turns, classes = self.source.images.shape[:2]
        return turns * classes

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next mini-batches.

        Raises:
            ValueError: ``generator`` is not on the device of the images.
        """
        self.source.check(generator)
        images, shape = self.classes * self.source.instances, (self.tasks, self.size)
        chosen = torch.randint(images, shape, generator=generator, device=self.source.device)
        x, y = self.source.at(chosen), chosen // self.source.instances
        return Episode(x[:, :1], y[:, :1], x, y)
