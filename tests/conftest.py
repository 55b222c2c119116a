from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from innerloop.data import find_omniglot

# The suite shares its cores with other work, and one thread makes results the same from run to run.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder of the real Omniglot, named by INNERLOOP_DATA; tests that need it are skipped without it."""
    given = os.environ.get("INNERLOOP_DATA")
    if given and find_omniglot(given):
        return Path(given)
    reason = "INNERLOOP_DATA is not set to a folder with Omniglot's two archives"
    if os.environ.get("INNERLOOP_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)
