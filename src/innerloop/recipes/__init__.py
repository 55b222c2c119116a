"""Recipes: named configurations of the papers' experiments, and the runs made from them."""

from innerloop.recipes.build import DataSource
from innerloop.recipes.config import Config
from innerloop.recipes.options import ConfigError
from innerloop.recipes.registry import RECIPES, recipe
from innerloop.recipes.run import Run, RunResult, evaluate_run, read_run, train_run

__all__ = [
    "RECIPES",
    "Config",
    "ConfigError",
    "DataSource",
    "Run",
    "RunResult",
    "evaluate_run",
    "read_run",
    "recipe",
    "train_run",
]
