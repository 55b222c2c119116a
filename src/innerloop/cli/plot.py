"""``innerloop plot``."""

from __future__ import annotations

from pathlib import Path

from innerloop import plots
from innerloop.cli.arguments import PlotArguments, UsageError
from innerloop.extras import need
from innerloop.recipes import DataSource
from innerloop.recipes.options import ConfigError
from innerloop.recipes.pictures import draw_run, draw_runs
from innerloop.training.events import add_pictures

__all__ = ["plot"]


def plot(arguments: PlotArguments, source: DataSource) -> int:
    """Draw the pictures, print the names of their files, and return 0.

    Raises:
        UsageError: no run was given.
        ConfigError: a number is out of range, or a picture does not fit the runs.
        CheckpointError: a folder holds no run, or a damaged one.
        DataError: the data is absent or damaged.
        MissingExtraError: Matplotlib is not installed, or TensorBoard where it is asked for.
        OSError: a file cannot be written.
    """
    runs = arguments.runs
    if not runs:
        raise UsageError("name a run: innerloop plot RUN; it is the folder that 'innerloop train' wrote (its --out)")
    if arguments.tasks is not None and arguments.tasks < 2:
        raise ConfigError(f"--tasks is {arguments.tasks}; for an interval it must be a whole number of at least 2")
    if arguments.seed is not None and arguments.seed < 0:
        raise ConfigError(f"--seed is {arguments.seed}; it must be a whole number of at least 0")
    need("plots", *(["tensorboard"] if arguments.tensorboard else []))
    what, tasks, norm, seed = arguments.what, arguments.tasks, arguments.norm, arguments.seed
    if len(runs) == 1:
        pictures = draw_run(runs[0], source, what, tasks=tasks, norm=norm, seed=seed)
        folder = arguments.out or runs[0] / "plots"
    else:
        pictures = draw_runs(runs, source, what, tasks=tasks, norm=norm, seed=seed)
        folder = arguments.out or Path("plots")
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        for file in plots.save(figure, folder / name):
            print(file)
    if arguments.tensorboard:
        add_pictures(folder if len(runs) > 1 else runs[0], {n: plots.as_png(f) for n, f in pictures.items()})
    return 0
