"""Command-line arguments as dataclasses, read by tyro; a mistake is one line."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from innerloop.bench import Options

__all__ = [
    "BenchArguments",
    "DataArguments",
    "EvaluateArguments",
    "QuickstartArguments",
    "RunArguments",
    "UsageError",
    "parse",
]

T = TypeVar("T")


class UsageError(ValueError):
    """The command line is off."""


@dataclass(frozen=True)
class DataArguments:
    """Where the data is, and the device."""

    data_dir: Path | None = None
    """Folder of the Omniglot archives or images; INNERLOOP_DATA or the user's cache folder if not given."""
    download: bool = False
    """Download Omniglot (14 MB) if it is absent."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """CPU threads; PyTorch's default if not given."""


@dataclass(frozen=True)
class RunArguments:
    """The run."""

    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given."""
    resume: bool = False
    """Go on with the run that the folder holds."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """End standard output with one JSON object."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate a run on new tasks, by its recipe's protocol."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that 'innerloop train' wrote."""
    tasks: int | None = None
    """Tasks; the recipe's number if not given."""
    norm: Literal["transductive", "inductive", "per_step"] | None = None
    """Batch-norm statistics: of the whole query set, of each query with the support set, or those of each inner step
    that train --statistics-tasks gathered; the recipe's if not given."""
    split: Literal["train", "val", "test"] = "test"
    """Which classes tasks are drawn from."""
    seed: int | None = None
    """Seed of the tasks; the run's if not given."""
    last_step: bool = False
    """Score after the last inner step alone, which takes less time."""
    ensemble: int | None = None
    """Average the outputs of so many learners of the run, those with the best validations; MAML++ was published with 5.
    The run's learner alone if not given."""
    calibration: Path | None = None
    """PNG file to draw a reliability diagram into: accuracy by confidence."""
    json: bool = False
    """End standard output with one JSON object."""
    data: OmitArgPrefixes[DataArguments] = field(default_factory=DataArguments)


@dataclass(frozen=True)
class QuickstartArguments:
    """Train MAML and Reptile for about two minutes each, evaluate both, and draw a picture of their predictions.

    On Omniglot if it is found or can be downloaded, otherwise on generated glyphs.
    """

    data_dir: Path | None = None
    """Folder of the Omniglot archives or images; INNERLOOP_DATA or the user's cache folder if not given."""
    out: Path = Path("runs/quickstart")
    """Folder of the two runs and the picture; what an earlier quickstart left there is replaced."""


@dataclass(frozen=True)
class BenchArguments:
    """Time and memory of one meta-gradient beside every peer installed, once all are seen to agree.

    The rows are four of Omniglot's network (1 to 4), two of the same with max-pooling (5, 6), and two of
    mini-ImageNet's (7, 8). The peers are installed with: pip install 'innerloop[peers]'.
    """

    options: OmitArgPrefixes[Options] = field(default_factory=Options)
    plot: Path | None = None
    """PNG file to draw."""
    json: bool = False
    """End standard output with one JSON object."""


def parse(kind: type[T], command: str, argv: Sequence[str], default: T | None = None) -> T:
    """Read arguments into a dataclass.

    Raises:
        UsageError: they are off; the message is one line.
        SystemExit: help was asked for, and printed.
    """
    complaints = io.StringIO()
    try:
        with redirect_stderr(complaints):
            return tyro.cli(
                kind,
                prog=f"innerloop {command}",
                args=list(argv),
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(complaints.getvalue(), command)) from None


def _one_line(box: str, command: str) -> str:
    """What the box that tyro draws says, above its first rule."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip().strip("│|").strip() for row in box.splitlines()]
    # The first row is the title. The words are what follows, up to the next rule; plain boxes have one at once.
    said: list[str] = []
    for row in [row for row in rows if row][1:]:
        if re.search(r"\w", row):
            said.append(row)
        elif said:
            break
    text = re.sub(r"^Error parsing (config|options): ", "", " ".join(said)).rstrip(".")
    return f"{text}; see 'innerloop {command} --help'"
