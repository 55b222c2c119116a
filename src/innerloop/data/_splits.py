"""Fixed splits of Omniglot's 1,623 characters, kept as JSON beside the code.

A file maps each split to its alphabets, and each alphabet to the numbers of its characters as ranges:
``{"train": {"Greek": "1-5,7"}}`` is Greek/character01 to 05 and 07.
``scripts/make_omniglot_splits.py`` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import groupby

from innerloop.data.errors import DataError

__all__ = ["SCHEMES", "packed_by_alphabet", "split_names", "unpack"]

SCHEMES = ("maml", "reptile", "vinyals", "lake")


def packed_by_alphabet(names: Iterable[str]) -> dict[str, str]:
    """Write the ranges of character numbers by alphabet.

    Example:
        >>> packed_by_alphabet(["Greek/character07", "Greek/character01", "Greek/character02"])
        {'Greek': '1-2,7'}
    """
    alphabets: dict[str, list[int]] = {}
    for name in sorted(names):
        alphabet, character = name.split("/")
        alphabets.setdefault(alphabet, []).append(int(character.removeprefix("character")))
    return {alphabet: _ranges(sorted(numbers)) for alphabet, numbers in sorted(alphabets.items())}


def _ranges(numbers: list[int]) -> str:
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def unpack(alphabets: dict[str, str]) -> list[str]:
    """Return the sorted names ``ALPHABET/characterNN`` that :func:`pack` packed.

    Example:
        >>> unpack({"Greek": "1-2,7"})
        ['Greek/character01', 'Greek/character02', 'Greek/character07']
    """
    names = []
    for alphabet in sorted(alphabets):
        for run in alphabets[alphabet].split(","):
            first, _, last = run.partition("-")
            names += [f"{alphabet}/character{n:02d}" for n in range(int(first), int(last or first) + 1)]
    return names


@cache
def _load(scheme: str) -> dict[str, dict[str, str]]:
    text = (files("innerloop.data") / "splits" / f"omniglot-{scheme}.json").read_text(encoding="utf-8")
    splits: dict[str, dict[str, str]] = json.loads(text)["splits"]
    return splits


def split_names(scheme: str, split: str) -> list[str]:
    """Return the characters of a split, in sorted order.

    Raises:
        DataError: there is no such scheme, or the scheme has no such split.

    Example:
        >>> [len(split_names("maml", split)) for split in ("train", "val", "test")]
        [1100, 100, 423]
    """
    if scheme not in SCHEMES:
        raise DataError(f"scheme={scheme!r} is not a split of Omniglot: expected one of {', '.join(SCHEMES)}.")
    splits = _load(scheme)
    if split not in splits:
        raise DataError(f"split={split!r}: Omniglot's scheme {scheme!r} has only {', '.join(splits)}.")
    return unpack(splits[split])
