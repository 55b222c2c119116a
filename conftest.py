"""What the tests and the examples of docstrings share: threads, seeds, kernels that are built once, and data."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import pytest
import torch

from innerloop import plots
from innerloop.data import find_omniglot
from innerloop.engine.kernels import why_no_kernels

# One intra-op thread in every process of the tests, unless the caller wishes for more: the suite runs on all cores
# already, several processes at a time. What a test starts inherits the variable. Tests that are about threads set two,
# and put them back.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


def pytest_configure() -> None:
    """Build the kernels before any worker of pytest-xdist starts.

    The warning that there are none is no error here: without a compiler the same tests run on PyTorch alone.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        why_no_kernels()


def pytest_collection_finish() -> None:
    """Collect garbage rarely, and leave modules and tests out of it: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_report_header() -> str:
    """What the tests run on."""
    return (
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, kernels: {why_no_kernels() or 'built'}"
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test and each example begins with the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this process draw no curves at their end, which takes most of the time of a short one."""
    monkeypatch.setattr(plots, "all_curves", lambda folder: None)


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
