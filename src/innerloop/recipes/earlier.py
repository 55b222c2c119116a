"""Reads the flat configurations of older run folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from innerloop.data import DATASETS
from innerloop.methods.base import METHODS
from innerloop.recipes.config import Config, all_options, common_options
from innerloop.recipes.options import ConfigError

__all__ = ["from_flat"]


def from_flat(settings: Mapping[str, Any]) -> Config:
    """The configuration of a run whose ``config.json`` holds the settings of all methods in one object.

    Settings of other methods, networks and data sets have no effect, and are left out.

    Args:
        settings: the object under ``config`` in the file.

    Raises:
        ConfigError: the method or the data set is unknown, or a setting does not fit.
        KeyError: the settings name no method or no data set.

    Example:
        >>> from_flat({"dataset": "sinusoids", "method": "maml", "inner_lr": 0.01, "solver": "cg"}).method_settings
        {'inner_lr': 0.01, 'inner_steps': 1, 'test_steps': None, 'adapt': '*'}
    """
    dataset, method = settings["dataset"], settings["method"]
    if dataset not in DATASETS or method not in METHODS:
        raise ConfigError(f"the run used {method} on {dataset}, which this version does not have")
    options = {name for part in all_options(dataset, method) for name in part}
    known = options | common_options().keys()
    return Config.of(**{name: value for name, value in settings.items() if name in known})
