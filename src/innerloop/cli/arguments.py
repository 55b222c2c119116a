"""Command-line arguments as dataclasses, which tyro reads. A mistake is reported in one line."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from innerloop.bench import Options
from innerloop.extras import extra
from innerloop.recipes.pictures import PICTURES

with extra("cli"):
    import tyro
    from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

__all__ = [
    "AdaptArguments",
    "BenchArguments",
    "DataArguments",
    "DemoArguments",
    "EvaluateArguments",
    "ExportArguments",
    "InspectArguments",
    "PlotArguments",
    "QuickstartArguments",
    "RunArguments",
    "UsageError",
    "parse",
]

T = TypeVar("T")


class UsageError(ValueError):
    """The command line has a mistake."""


@dataclass(frozen=True)
class DataArguments:
    """The data and the device."""

    data_dir: Annotated[Path | None, arg(aliases=["--data"])] = None
    """The data: a folder of images by class, a table (.csv, .parquet), or the folder of a data set. If not given: the
    folder INNERLOOP_DATA, for Omniglot also the user's cache folder; in evaluation the place that the run was trained
    from."""
    download: bool = False
    """Download Omniglot (14 MB) if it is absent."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = None
    """Number of CPU threads; PyTorch's default if not given."""


@dataclass(frozen=True)
class RunArguments:
    """The run."""

    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given."""
    resume: bool = False
    """Continue the run in the folder."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object as the last line of standard output."""


@dataclass(frozen=True)
class EvaluateArguments:
    """Evaluate a run on new tasks, by the protocol of its recipe."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that 'innerloop train' wrote."""
    tasks: int | None = None
    """Number of tasks; the recipe's if not given."""
    norm: Literal["transductive", "inductive", "per_step"] | None = None
    """Batch-norm statistics: of the whole query set (transductive), of each query with the support set (inductive), or
    of
    each inner step, as 'train --statistics-tasks' gathered them (per_step). The recipe's if not given."""
    split: Literal["train", "val", "test"] = "test"
    """Split of the classes that tasks are drawn from."""
    seed: int | None = None
    """Seed of the tasks; the run's if not given."""
    last_step: bool = False
    """Score only after the last inner step, which is faster."""
    ensemble: int | None = None
    """Average the outputs of this many learners of the run, those with the best validations.

    MAML++ was published with 5.
    If not given, only the run's learner is used."""
    protocol: Literal["recipe", "lake"] = "recipe"
    """The recipe's own protocol, or that of Lake's one-shot challenge on Omniglot: tasks of 20 characters of one
    evaluation alphabet, with the support set by one drawer and the queries by another. 400 tasks if not given."""
    calibration: Path | None = None
    """PNG file for a reliability diagram, which shows accuracy by confidence."""
    json: bool = False
    """Print one JSON object as the last line of standard output."""
    data: OmitArgPrefixes[DataArguments] = field(default_factory=DataArguments)


@dataclass(frozen=True)
class ExportArguments:
    """Write a run's learner to a file that needs no Python: adaptation itself, or a predictor that is adapted already.

    The results of the file are checked against PyTorch's before it is kept.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder that 'innerloop train' wrote."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """File to write: FILE.onnx, or FILE.pt2 for a program of torch.export."""
    support: Path | None = None
    """Folder with a folder of images for each class. The learner adapts to it, and the file holds the adapted
    predictor. If not given, the file holds adaptation itself, with the gradient steps inside."""
    norm: Literal["transductive", "inductive", "running", "per_step"] | None = None
    """Batch-norm statistics, as for 'innerloop evaluate'. The learner's own mode if not given."""
    steps: int | None = None
    """Number of inner steps; the learner's if not given."""
    inner_lr: float | None = None
    """Inner learning rate of adaptation; the learner's if not given."""
    every_step: bool = False
    """Let adaptation give the loss and the predictions at every inner step, too."""
    inputs: tuple[Literal["steps", "inner_lr", "ways"], ...] = ()
    """Settings of adaptation that become inputs of the graph."""
    tolerance: float = 1e-4
    """Largest difference from PyTorch's results that is accepted."""
    json: bool = False
    """Print one JSON object as the last line of standard output."""


@dataclass(frozen=True)
class AdaptArguments:
    """Show a run's learner a few examples, and let it predict others.

    A learner of images takes folders, and labels images. A learner that was trained on a table takes tables, and
    predicts a column.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a training run, or of a saved learner."""
    support: Path
    """What to learn from: a folder with one folder of images for each class, whose names are the labels; or a table
    (.csv, .tsv, .parquet) with the target."""
    query: Path
    """What to predict: a folder of images, or a table. Its target, if it has one, is only compared with."""
    target: str | None = None
    """Column of the tables to predict; that of the training if not given."""
    task: str | None = None
    """Column of the tables that says which task a row belongs to; that of the training if not given. Each task is
    learned by itself. Tables without this column are one task."""
    steps: int | None = None
    """Number of inner steps; the method's if not given."""
    norm: Literal["transductive", "inductive", "per_step"] | None = None
    """Batch-norm statistics of predictions; the learner's if not given. With inductive, a prediction does not depend on
    the other images."""
    csv: Path | None = None
    """CSV file to write the table to."""
    json_file: Path | None = None
    """JSON file to write the table to."""
    json: bool = False
    """Print one JSON value as the last line of standard output."""


@dataclass(frozen=True)
class InspectArguments:
    """Print what a run is: its method, network and data, what was measured, and its files."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a training run, or of a saved learner."""
    json: bool = False
    """Print one JSON object instead."""


@dataclass(frozen=True)
class PlotArguments:
    """Draw pictures of a run, or of how several runs compare, as PNG and SVG.

    For one run these are its training curves, its scores after each inner step, and its fits or an episode sheet with
    predictions.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Folders that 'innerloop train' wrote."""
    out: Path | None = None
    """Folder of the pictures. If not given: 'plots' in the run's folder, or for several runs in the current folder."""
    what: tuple[PICTURES, ...] = ()
    """Pictures to draw. If not given, all that fit the runs."""
    tasks: int | None = None
    """Number of tasks to evaluate on; the recipe's if not given."""
    norm: Literal["transductive", "inductive", "per_step"] | None = None
    """Normalisation mode of the evaluation; the recipe's if not given."""
    seed: int | None = None
    """Seed of the tasks; the run's if not given."""
    tensorboard: bool = False
    """Show the pictures in TensorBoard too: write them into the run's event files."""
    data: OmitArgPrefixes[DataArguments] = field(default_factory=DataArguments)


@dataclass(frozen=True)
class QuickstartArguments:
    """Train MAML and Reptile for about two minutes each, evaluate both, and draw a picture of their predictions.

    The data set is Omniglot if it is found or can be downloaded, otherwise generated glyphs.
    """

    data_dir: Path | None = None
    """Folder of the Omniglot archives or images. If not given: INNERLOOP_DATA, or the user's cache folder."""
    out: Path = Path("runs/quickstart")
    """Folder of the two runs and the picture. The results of an earlier quickstart are replaced."""


@dataclass(frozen=True)
class BenchArguments:
    """Compare the time and memory of one meta-gradient with every installed peer, after checking that all agree.

    Rows 1 to 4 use the network for Omniglot, rows 5 and 6 the same with max-pooling, rows 7 and 8 the network for
    mini-ImageNet. To install the peers: pip install 'innerloop[peers]'.
    """

    options: OmitArgPrefixes[Options] = field(default_factory=Options)
    plot: Path | None = None
    """PNG file for a picture of the results."""
    json: bool = False
    """Print one JSON object as the last line of standard output."""


@dataclass(frozen=True)
class DemoArguments:
    """Serve a page to draw on, where learners learn what is drawn. It can be opened on this machine alone.

    Without a run, the page has the learners of the package: MAML and Reptile, and an untrained network beside them.
    """

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Folder of a training run or of a saved learner that classifies images."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than the default lets other machines in: 0.0.0.0 is every address of this
    machine."""
    port: int = 8765
    """Port; 0 for one that is free."""
    name: tuple[str, ...] = ()
    """Further host names that the page is opened by, where other machines are let in."""
    open: bool = False
    """Open the page in the browser."""
    static: Annotated[Path | None, arg(metavar="DIR")] = None
    """Write the page to this folder and serve nothing: files with which the browser itself adapts, from any web server
    or opened as a file. It needs npm and a network the first time."""
    runtime: Annotated[Path | None, arg(metavar="DIR")] = None
    """With --static: an unpacked npm package onnxruntime-web, where there is no npm or no network."""


def parse(kind: type[T], command: str, argv: Sequence[str], default: T | None = None) -> T:
    """Read arguments into a dataclass.

    Raises:
        UsageError: the arguments have a mistake. The message is one line.
        SystemExit: help was asked for and printed.
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
    """The text in the box that tyro draws, above its first rule, as one line."""
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip().strip("│|").strip() for row in box.splitlines()]
    # The first row is the title. The message follows, up to the next rule. In plain boxes a rule comes first.
    said: list[str] = []
    for row in [row for row in rows if row][1:]:
        if re.search(r"\w", row):
            said.append(row)
        elif said:
            break
    text = re.sub(r"^Error parsing (config|options): ", "", " ".join(said)).rstrip(".")
    return f"{text}; see 'innerloop {command} --help'"
