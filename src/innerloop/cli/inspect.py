"""``innerloop inspect``: what a run is, without running anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from innerloop.cli.arguments import InspectArguments, parse
from innerloop.learner.files import CheckpointError, load_json
from innerloop.learner.learner import Learner
from innerloop.recipes import read_run
from innerloop.recipes.run import CONFIG_FILE, EVALUATION_FILE
from innerloop.training.metrics import read_metrics

__all__ = ["facts_of", "inspect"]


def inspect(argv: Sequence[str]) -> int:
    """Print what a run, or the folder of a learner, is.

    Raises:
        UsageError: the command line has a mistake.
        CheckpointError: the folder holds no run and no learner, or a damaged one.
    """
    arguments = parse(InspectArguments, "inspect", argv)
    facts = facts_of(arguments.run)
    if arguments.json:
        print(json.dumps(facts))
        return 0
    width = max(map(len, facts))
    print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
    return 0


def facts_of(folder: Path) -> dict[str, str]:
    """What a run is: its recipe, data and learner, what was measured, and its files.

    Raises:
        CheckpointError: the folder holds no run and no learner, or a damaged one.
    """
    facts: dict[str, str] = {}
    if (folder / CONFIG_FILE).exists():
        run = read_run(folder)
        config = run.config
        task = "" if config.regression else f"{config.ways} ways, "
        settings = "".join(f", {name} {value}" for name, value in config.dataset_settings.items())
        facts["recipe"] = run.recipe
        place = "" if run.data_dir is None else f", from {run.data_dir}"
        facts["data"] = f"{config.dataset}{settings}{place}"
        facts["task"] = f"{task}{config.shots} shots"
        facts["training"] = f"{config.iterations:,} iterations of {config.tasks} tasks, {config.outer_optimizer}"
        facts |= _training(folder)
    if not facts or (folder / "learner.json").exists():
        learner = Learner.load(folder)
        facts |= {name: value for name, value in learner.facts().items() if name not in facts}
    facts["files"] = ", ".join(
        f"{file.relative_to(folder).as_posix()} ({_size(file.stat().st_size)})"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    )
    return facts


def _training(folder: Path) -> dict[str, str]:
    """How far training came, the best validation, and the evaluations that were made."""
    facts = {}
    records = read_metrics(folder)
    if records:
        facts["trained"] = f"{int(records[-1]['iteration']):,} iterations"
    for metric, best in (("accuracy", max), ("loss", min)):
        scores = [record[f"val_{metric}"] for record in records if f"val_{metric}" in record]
        if scores:
            facts["best validation"] = f"{metric} {_score(metric, best(scores))}"
            break
    if (folder / EVALUATION_FILE).exists():
        facts["evaluation"] = _evaluation(load_json(folder / EVALUATION_FILE), folder / EVALUATION_FILE)
    else:
        facts["evaluation"] = f"none yet: innerloop evaluate {folder}"
    return facts


def _evaluation(result: dict[str, object], path: Path) -> str:
    """The latest evaluation in one line."""
    try:
        metric = "accuracy" if "accuracy" in result else "loss"
        score, interval = (_score(metric, float(str(result[name]))) for name in (metric, "ci95"))
        return f"{metric} {score} ± {interval} on {result['tasks']} {result['split']} tasks ({result['norm']})"
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it and evaluate again") from error


def _score(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.4f}"


def _size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"
