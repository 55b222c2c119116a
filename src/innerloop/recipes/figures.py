"""The figures that a person may expect of a recipe: the paper's, and this project's own."""

from __future__ import annotations

import math
from functools import partial

from innerloop.data._published_sets import PUBLISHED
from innerloop.recipes.registry import EXPERIMENTS, RECIPES

__all__ = ["OURS", "PAPER", "recipe_lines"]

_CELLS = ("omniglot-5w1s", "omniglot-5w5s", "omniglot-20w1s", "omniglot-20w5s")

PAPER: dict[str, str] = {
    f"{cell}-{method}": figure
    for method, figures in {
        "maml": ("98.7 ± 0.4", "99.9 ± 0.1", "95.8 ± 0.3", "98.9 ± 0.2"),
        "fomaml": ("98.3 ± 0.5", "99.2 ± 0.2", "89.4 ± 0.5", "97.9 ± 0.1"),
        "reptile": ("97.68 ± 0.04", "99.48 ± 0.06", "89.43 ± 0.14", "97.12 ± 0.32"),
    }.items()
    for cell, figure in zip(_CELLS, figures, strict=True)
} | {
    f"{data}-5w{shots}s-{method}": figure
    for data, methods in {
        "mini-imagenet": {
            "maml": ("48.70 ± 1.84", "63.11 ± 0.92"),
            "fomaml": ("48.07 ± 1.75", "63.15 ± 0.91"),
            "reptile": ("49.97 ± 0.32", "65.99 ± 0.58"),
            "anil": ("46.7 ± 0.4", "61.5 ± 0.5"),
            "boil": ("49.61 ± 0.16", "66.45 ± 0.37"),
            "meta-sgd": ("50.47 ± 1.87", "64.03 ± 0.94"),
            "maml-plus-plus": ("52.15 ± 0.26", "68.32 ± 0.44"),
            "prototypical": ("49.42 ± 0.78", "68.20 ± 0.66"),
        },
        "tiered-imagenet": {
            "maml": ("51.67 ± 1.81", "70.30 ± 1.75"),
            "prototypical": ("53.31 ± 0.89", "72.69 ± 0.74"),
        },
        "cifar-fs": {"maml": ("58.9 ± 1.9", "71.5 ± 1.0"), "prototypical": ("55.5 ± 0.7", "72.0 ± 0.6")},
        "fc100": {"maml": ("38.1 ± 1.7", "50.4 ± 1.0"), "prototypical": ("35.3 ± 0.6", "48.6 ± 0.6")},
    }.items()
    for method, figures in methods.items()
    for shots, figure in zip((1, 5), figures, strict=True)
}
"""Accuracies in %, from papers. On Omniglot, and of Reptile and FOMAML, they are transductive.

On Omniglot and mini-ImageNet they are those of MAML's own paper, of Reptile's for it and FOMAML, and of each other
method's own. On tieredImageNet those of MAML are from Liu et al., 2019, and of prototypical networks from Ren et al.,
2018. On CIFAR-FS both are from Bertinetto et al., 2019. On FC100 they are from Lian et al., 2020, and Lee et al., 2019.
"""

OURS: dict[str, str] = {
    "omniglot-5w1s-maml": "98.5 ± 0.5",
    "omniglot-5w1s-fomaml": "97.3 ± 0.6",
    "omniglot-5w1s-reptile": "96.0 ± 0.7",
    "omniglot-20w1s-maml": "68.0 ± 1.3",
    "omniglot-20w1s-fomaml": "51.5 ± 1.2",
    "omniglot-20w1s-reptile": "50.7 ± 1.3",
    **{
        f"omniglot-{ways}-{method}": figure
        for method, figures in {
            "anil": ("93.1 ± 0.9", "26.8 ± 0.8"),
            "boil": ("94.9 ± 0.9", "63.6 ± 1.2"),
            "meta-sgd": ("93.7 ± 0.9", "28.8 ± 1.0"),
            "maml-plus-plus": ("96.2 ± 0.8", "72.7 ± 1.2"),
            "protomaml": ("96.9 ± 0.7", "81.2 ± 1.0"),
            "prototypical": ("98.5 ± 0.4", "81.6 ± 1.0"),
            "meta-curvature": ("97.7 ± 0.6", "74.4 ± 1.1"),
            "t-net": ("94.7 ± 0.9", "44.2 ± 1.3"),
            "warpgrad": ("98.6 ± 0.5", "78.3 ± 1.1"),
            "alfa": ("95.0 ± 0.8", "70.9 ± 1.2"),
            "gap": ("95.0 ± 0.8", "68.7 ± 1.2"),
            "bmaml": ("92.4 ± 1.0", "45.9 ± 1.3"),
            "cavia": ("71.9 ± 1.7", "5.6 ± 0.6"),
            "imaml": ("61.4 ± 2.0", "14.3 ± 0.8"),
            "foml": ("73.7 ± 1.7", "31.5 ± 1.2"),
            "finetune": ("94.6 ± 0.9", "31.6 ± 1.0"),
            "scratch": ("54.6 ± 2.1", "23.2 ± 1.1"),
            "nearest-neighbour": ("45.6 ± 1.8", "26.9 ± 1.1"),
        }.items()
        for ways, figure in zip(("5w1s", "20w1s"), figures, strict=True)
    },
}
"""Accuracies in %, transductive, of short schedules, as in the tables of ``docs/results.md`` and ``README.md``."""


def recipe_lines() -> list[str]:
    """The recipes by data set and setting, a line each: name, method, iterations, the paper's figure and ours.

    Example:
        >>> lines = recipe_lines()
        >>> lines[0], [line.split()[0] for line in lines[1:4]]
        ('omniglot, 5-way 1-shot', ['omniglot-5w1s-maml', 'omniglot-5w1s-fomaml', 'omniglot-5w1s-reptile'])
    """
    lines = []
    titles = {str(name): known.title for name, known in PUBLISHED.items()}
    for experiment in EXPERIMENTS:
        names = sorted((n for n in RECIPES if n.startswith(f"{experiment}-")), key=partial(_order, experiment))
        first = RECIPES[names[0]]
        task = f"{first.shots} points" if first.regression else f"{first.ways}-way {first.shots}-shot"
        lines += ["", f"{titles.get(first.dataset, first.dataset)}, {task}"]
        for name in names:
            figures = [
                f"{who} {figure}" for who, known in (("paper", PAPER), ("ours", OURS)) if (figure := known.get(name))
            ]
            lines.append(f"  {name:34} {RECIPES[name].iterations:>7,} iterations  {'  '.join(figures)}".rstrip())
    notes = [
        "",
        "Accuracy in %, transductive. The papers' figures are for the full schedules. Ours are for short ones, of 300",
        "to 12,000 iterations on two CPU cores; docs/results.md has the commands. Recipes for mini-ImageNet and the",
        "other data sets of photographs need files of yours: --data-dir DIR; docs/data-sets.md says which.",
    ]
    return lines[1:] + notes


def _order(experiment: str, name: str) -> tuple[float, str]:
    """MAML, FOMAML and Reptile first."""
    first, method = ("maml", "fomaml", "reptile"), name.removeprefix(f"{experiment}-")
    return (first.index(method) if method in first else math.inf, name)
