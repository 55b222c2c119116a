"""Holds back the cases of :mod:`hostile.held`."""

from __future__ import annotations

import os

import pytest

from hostile.held import HELD


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("HOSTILE_HELD"):
        return
    held = [item for item in items if "hostile" in item.nodeid and any(part in item.nodeid for part in HELD)]
    if held:
        config.hook.pytest_deselected(items=held)
        items[:] = [item for item in items if item not in held]
