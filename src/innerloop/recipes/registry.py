"""The named recipes: the papers' hyperparameters and protocols.

An experiment is a data set with its tasks and its protocol. This file lists the experiments. A method's settings for
each experiment are in the method's own file. ``docs/methods/`` and ``docs/recipes.md`` say where a recipe departs from
its paper.

Sources: Finn et al., 2017 (MAML), section 5 and appendix A, and its published code; Nichol et al., 2018 (Reptile),
appendix A, and its published code; for the rest of the family, their pages.
"""

from __future__ import annotations

from typing import Any

from innerloop.data._published_sets import PUBLISHED
from innerloop.methods.base import CARDS
from innerloop.recipes.config import Config, method_options, network_options
from innerloop.recipes.options import ConfigError

__all__ = ["EXPERIMENTS", "RECIPES", "recipe", "recipes_of"]

EXPERIMENTS: dict[str, dict[str, Any]] = {
    # As many query images as support images for each class, in meta-training and in test.
    **{
        f"omniglot-{ways}w{shots}s": {
            "dataset": "omniglot",
            "ways": ways,
            "shots": shots,
            "queries": shots,
            "test_queries": shots,
        }
        for ways in (5, 20)
        for shots in (1, 5)
    },
    # Lake's one-shot challenge: tasks within alphabets, drawers kept apart, and background alphabets alone in training.
    "omniglot-lake": {
        "dataset": "omniglot_alphabets",
        "validation": 5,
        "turns": True,
        "warp": 1.0,
        "ways": 20,
        "shots": 1,
        "queries": 4,
        "test_queries": 1,
        "tasks": 4,
        "iterations": 6000,
        "outer_lr": 2e-3,
        "outer_schedule": "cosine",
        "pool": "flatten",
        "head_std": None,
        "val_every": 500,
        "val_tasks": 200,
        "test_tasks": 400,
    },
    "sinusoid": {
        "dataset": "sinusoids",
        "shots": 10,
        "queries": 10,
        "test_queries": 100,
        "tasks": 25,
        "iterations": 70_000,
        "val_every": 5000,
    },
    # The data sets of the literature, from files that the user has: MAML's network and 15 queries of each class.
    **{
        f"{name.replace('_', '-')}-5w{shots}s": {
            "dataset": name,
            "shots": shots,
            "queries": 15,
            "test_queries": 15,
            "tasks": 4,
            "filters": 32,
            "downsample": "maxpool",
            "pool": "flatten",
        }
        for name in PUBLISHED
        for shots in (1, 5)
    },
    # Glyphs are this project's own data. The schedules are short enough for a laptop.
    **{
        f"glyphs-{ways}w1s": {
            "dataset": "glyphs",
            "ways": ways,
            "queries": 5,
            "test_queries": 5,
            "tasks": 16,
            "iterations": 1500,
            "outer_schedule": "cosine",
        }
        for ways in (5, 20)
    },
}
"""The task and the protocol of each experiment. All other settings are the defaults of :class:`Config`."""


def recipes_of(method: str) -> dict[str, Config]:
    """The recipes of a method, by name.

    Raises:
        ConfigError: the method's file names an unknown experiment or setting, or settings that do not fit.
    """
    found = {}
    for experiment, settings in CARDS[method].settings().items():
        if experiment not in EXPERIMENTS:
            raise ConfigError(f"{method} has a recipe for {experiment!r}; the experiments are {', '.join(EXPERIMENTS)}")
        every = {**EXPERIMENTS[experiment], **_begun_with(method, experiment), **settings, "method": method}
        found[f"{experiment}-{method.replace('_', '-')}"] = Config.of(**every)
    return found


def _begun_with(method: str, experiment: str) -> dict[str, Any]:
    """The settings of the method that this one's recipes are based on. Options that this one lacks are left out."""
    if not (like := CARDS[method].like):
        return {}
    dataset = EXPERIMENTS[experiment]["dataset"]
    options = [(method_options(name), network_options(dataset, name)) for name in (like, method)]
    theirs, mine = ({name for part in parts for name in part} for parts in options)
    settings = {**_begun_with(like, experiment), **CARDS[like].settings().get(experiment, {})}
    return {name: value for name, value in settings.items() if name in mine or name not in theirs}


RECIPES: dict[str, Config] = dict(
    sorted(
        (pair for method in CARDS for pair in recipes_of(method).items()),
        key=lambda pair: [pair[0].startswith(f"{experiment}-") for experiment in EXPERIMENTS].index(True),
    )
)
"""Every named recipe, by experiment."""


def recipe(name: str) -> Config:
    """The configuration of a named recipe.

    Raises:
        ConfigError: there is no such recipe.

    Example:
        >>> recipe("omniglot-5w1s-maml").method_settings["inner_lr"]
        0.4
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}; 'innerloop recipes' lists them: {', '.join(RECIPES)}")
    return RECIPES[name]
