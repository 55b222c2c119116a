"""Configurations for a user's own data: which data set it is, and settings that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from innerloop.data.base import Plan
from innerloop.recipes.config import Config, all_options
from innerloop.recipes.options import ConfigError
from innerloop.recipes.registry import RECIPES

__all__ = ["fitted_config", "own_config", "own_name"]


def own_name(data: Path, method: str) -> str:
    """The name of a run on a user's own data.

    Example:
        >>> own_name(Path("/home/ann/my birds"), "meta_sgd")
        'my-birds-meta-sgd'
    """
    return f"{'-'.join(data.absolute().stem.split()) or 'data'}-{method.replace('_', '-')}"


def own_config(data: Path, method: str) -> Config:
    """The configuration to begin with for a folder of images or a table.

    The settings of the method are those of its short recipe for characters.

    Args:
        data: the folder or the file.
        method: the name of the method.

    Raises:
        ConfigError: there is no such file or folder, or no such method.
    """
    if not data.exists():
        raise ConfigError(f"--data is {data}, which does not exist; name a folder of images by class, or a table")
    dashed = method.replace("_", "-")
    like = next((name for name in (f"glyphs-5w1s-{dashed}", f"omniglot-5w1s-{dashed}") if name in RECIPES), None)
    if like is None:
        raise ConfigError(
            f"--method is {method}, which has no recipe to begin with; name a recipe and --dataset images"
        )
    short: dict[str, Any] = {"iterations": min(1500, RECIPES[like].iterations), "val_every": 250, "val_tasks": 100}
    if RECIPES[like].outer_schedule == "constant":
        short["outer_schedule"] = "cosine"
    return RECIPES[like].override(dataset="images", test_tasks=600, **short)


def fitted_config(config: Config, plan: Plan) -> Config:
    """The configuration with settings that fit the data.

    Tasks have at most as many classes as each split has. Images above 40 pixels get the network and the inner loop of
    mini-ImageNet.

    Args:
        config: from :func:`own_config`.
        plan: what was decided about the data.
    """
    changes: dict[str, Any] = {"ways": max(2, min(config.ways, plan.smallest))}
    shape = plan.preprocessing.shape
    network = all_options(*config.parts)[1]
    if len(shape) == 3 and shape[1] > 40 and config.network in (None, "conv4"):
        large: dict[str, Any] = {
            "filters": 32,
            "downsample": "maxpool",
            "pool": "flatten",
            "tasks": 4,
            "iterations": 500,
        }
        if config.method in ("maml", "fomaml"):
            large |= {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 10}
        changes |= {n: v for n, v in large.items() if n in network or n not in ("filters", "downsample", "pool")}
    return config.override(**changes)
