"""Configurations for a user's own data: which data set it is, and settings that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from innerloop.data._table_file import TABLES
from innerloop.data.base import Plan
from innerloop.data.table import plan_kind
from innerloop.recipes.config import Config, all_options, method_options
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


def own_config(data: Path, method: str, *, target: str | None = None, dataset: str | None = None) -> Config:
    """The configuration to begin with for a folder of images or a table.

    The settings of the method are those of its short recipe for characters.

    Args:
        data: the folder or the file.
        method: the name of the method.
        target: the column of a table to predict, if it is given.
        dataset: ``table`` or ``table_regression``, if the kind of the table's tasks is given.

    Raises:
        ConfigError: there is no such file or folder, or no such method.
    """
    if not data.exists():
        raise ConfigError(f"--data is {data}, which does not exist; name a folder of images by class, or a table")
    dashed = method.replace("_", "-")
    if data.suffix.lower() in TABLES and data.is_file():
        return _table_config(data, method, target, dataset)
    like = next((name for name in (f"glyphs-5w1s-{dashed}", f"omniglot-5w1s-{dashed}") if name in RECIPES), None)
    if like is None:
        raise ConfigError(
            f"--method is {method}, which has no recipe to begin with; name a recipe and --dataset images"
        )
    short: dict[str, Any] = {"iterations": min(1500, RECIPES[like].iterations), "val_every": 250, "val_tasks": 100}
    if RECIPES[like].outer_schedule == "constant":
        short["outer_schedule"] = "cosine"
    return RECIPES[like].override(dataset="images", test_tasks=600, **short)


def _table_config(data: Path, method: str, target: str | None, dataset: str | None) -> Config:
    kind = plan_kind(data, target) if dataset is None else "regression" if dataset == "table_regression" else ""
    protocol: dict[str, Any] = {"shots": 5, "queries": 5, "test_queries": 5, "iterations": 1500, "val_every": 250}
    protocol |= {"val_tasks": 100, "tasks": 16, "outer_schedule": "cosine"}
    if kind == "regression":
        like = f"sinusoid-{method.replace('_', '-')}"
        if like not in RECIPES:
            raise ConfigError(
                f"--method is {method}, which has no recipe for regression; choose maml, fomaml or reptile"
            )
        kept = {name: value for name, value in protocol.items() if name != "outer_schedule"}
        return RECIPES[like].override(dataset="table_regression", **kept)
    if "inner_lr" in method_options(method):
        protocol["inner_lr"] = 0.1
    return Config.of(dataset="table", method=method, **protocol)


def fitted_config(config: Config, plan: Plan) -> Config:
    """The configuration with settings that fit the data.

    Tasks have at most as many classes as each split has. Images above 40 pixels get the network and the inner loop of
    mini-ImageNet.

    Args:
        config: from :func:`own_config`.
        plan: what was decided about the data.
    """
    changes: dict[str, Any] = {"ways": plan.smallest if plan.exact else max(2, min(config.ways, plan.smallest))}
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
