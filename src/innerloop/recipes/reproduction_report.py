"""The report of a reproduction: a table in Markdown, and all figures with their protocols as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from innerloop.learner.files import write_atomically
from innerloop.recipes.options import ConfigError, flag
from innerloop.recipes.published import PublishedCell, PublishedTraining
from innerloop.recipes.registry import recipe
from innerloop.recipes.reproduce import Reproduction, Standing, protocol, standing

__all__ = ["BEGIN", "END", "REPORT_FILE", "as_json", "as_markdown", "check_page", "write_report"]

REPORT_FILE = "reproduction.json"
BEGIN, END = "<!-- innerloop reproduce: begin -->", "<!-- innerloop reproduce: end -->"
"""The lines of a page between which the table is written."""

_ABOUT = """\
Written by `innerloop reproduce`. Accuracies are in %, after the last inner step; for sinusoids it is the mean squared
error. "Ours" is followed by half of a 95 % interval: over the test tasks for one seed, over seeds (Student's) for
several. What the papers print after ± differs from paper to paper. "Reached" says whether our mean is at least the
paper's, to the paper's decimals. A cell that is not finished has no result here.
"""


def write_report(work: Reproduction, page: Path | None = None) -> None:
    """Write ``reproduction.json`` into the folder of a reproduction, and the table into a page if one is given.

    Args:
        work: the reproduction. All its cells are in the report.
        page: a Markdown file with the lines :data:`BEGIN` and :data:`END`. What is between them is replaced.

    Raises:
        ConfigError: the page lacks the two lines.
        OSError: a file cannot be read or written.
    """
    standings = [standing(work, cell) for cell in work.cells]
    work.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps([as_json(each) for each in standings], indent=2) + "\n"
    write_atomically(work.out / REPORT_FILE, text.encode())
    if page is not None:
        before, after = check_page(page)
        write_atomically(page, f"{before}{BEGIN}\n\n{as_markdown(standings)}\n{END}{after}".encode())


def check_page(page: Path) -> tuple[str, str]:
    """What is before and after the part of a page that is replaced.

    Raises:
        ConfigError: the page lacks the two lines that mark it.
        OSError: the page cannot be read.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"--page is {page}, which lacks the lines {BEGIN} and {END}; add them where the table goes")
    return before, after


def as_json(each: Standing) -> dict[str, Any]:
    """All that is known of a cell. Accuracies are in %."""
    cell, training = each.cell, each.cell.training
    config = training.config
    result = each.results[0] if each.results else None
    seeds = [{key: found[key] for key in ("seed", "mean", "ci95", "kept_iteration")} for found in each.results]
    return {
        "cell": cell.name,
        "method": cell.title,
        "setting": cell.setting or cell.experiment,
        "norm": cell.norm,
        "status": each.status,
        "paper": {"mean": cell.paper.mean, "interval": cell.paper.interval, "source": cell.paper.source},
        "ours": None
        if result is None
        else {"mean": each.mean, "ci95": each.ci95 if each.ci95 == each.ci95 else None, "seeds": seeds},
        "reached": each.reaches_paper(),
        "protocol": protocol(cell),
        "training": {"name": training.name, "recipe": training.recipe, "changes": dict(training.changes)},
        "iterations": {"done": each.done, "all": config.iterations, "paper": recipe(training.recipe).iterations},
        "training_minutes": round(each.minutes, 1),
        "hardware": None if result is None else result["hardware"],
        "command": command(cell),
    }


def command(cell: PublishedCell) -> str:
    """The command that trains and tests a cell."""
    chosen = f" --cells {cell.setting}" if cell.setting else ""
    return f"innerloop reproduce {cell.dataset} --methods {cell.method}{chosen}"


def as_markdown(standings: Sequence[Standing]) -> str:
    """The tables of results, the schedules of their trainings, and the cells without results."""
    finished = [each for each in standings if each.results]
    lines = [_ABOUT]
    for experiment in dict.fromkeys(each.cell.experiment for each in finished):
        lines += _table(experiment, [each for each in finished if each.cell.experiment == experiment])
    if finished:
        lines += _schedules(finished)
    if partly := [each for each in standings if each.status == "unfinished"]:
        said = (f"`{each.cell.name}` ({_progress(each)})" for each in partly)
        lines += [f"**Unfinished**: {', '.join(said)}.", ""]
    if absent := [each.cell for each in standings if each.status == "not begun"]:
        lines += ["**Not begun**:", ""]
        for experiment in dict.fromkeys(cell.experiment for cell in absent):
            titles = dict.fromkeys(f"{cell.title} ({cell.norm})" for cell in absent if cell.experiment == experiment)
            lines.append(f"- `{experiment}`: {', '.join(titles)}")
        lines.append("")
    return "\n".join(lines)


def _progress(each: Standing) -> str:
    iterations = each.cell.training.config.iterations
    return "trained, not tested" if each.done >= iterations else f"{each.done:,} of {iterations:,} iterations"


def _table(experiment: str, standings: Sequence[Standing]) -> Iterator[str]:
    test = standings[0].cell.test_config(0)
    title = experiment if test.regression else f"{test.dataset.capitalize()}, {test.ways}-way {test.shots}-shot"
    yield f"### {title}\n"
    yield (
        "| method | paper | ours | reached | norm | test: tasks × queries, steps "
        "| iterations (recipe's) | minutes | seeds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for each in standings:
        cell, config, tested = each.cell, each.cell.training.config, protocol(each.cell)
        form = "{:.4f}" if test.regression else "{:.2f}"
        interval = f" ± {form.format(each.ci95)}" if each.ci95 == each.ci95 else ""
        reached = {True: "yes", False: "**no**", None: ""}[each.reaches_paper()]
        steps = f"{tested['inner_steps']}" + (f", {cell.ensemble} learners" if cell.ensemble > 1 else "")
        columns = (
            cell.title,
            _papers(cell),
            form.format(each.mean) + interval,
            reached,
            cell.norm,
            f"{tested['tasks']:,} × {tested['queries']}, {steps}",
            f"{config.iterations:,} ({recipe(cell.training.recipe).iterations:,})",
            f"{each.minutes:.0f}",
            ", ".join(str(result["seed"]) for result in each.results),
        )
        yield f"| {' | '.join(columns)} |"
    yield ""


def _papers(cell: PublishedCell) -> str:
    mean, interval = cell.paper.mean, cell.paper.interval
    if mean is None:
        return "none"
    return str(mean) + ("" if interval is None else f" ± {interval}")


def _schedules(standings: Sequence[Standing]) -> Iterator[str]:
    yield "Each training, as one command (`--seed 0`). `innerloop evaluate` tests a run by its recipe's protocol.\n"
    yield "```"
    trainings: dict[str, PublishedTraining] = {each.cell.training.name: each.cell.training for each in standings}
    for training in trainings.values():
        words = [word for name, value in training.changes.items() for word in (flag(name), _word(value))]
        yield shlex.join(["innerloop", "train", training.recipe, *words])
    yield "```\n"
    schemes = {t.config.dataset_settings["scheme"] for t in trainings.values() if t.config.dataset == "omniglot"}
    if schemes:
        yield (
            f"Characters are split as in the recipes (schemes: {', '.join(sorted(schemes))}), with quarter turns as "
            "their authors use them. Figures come from test characters; the learner of the best validation is tested, "
            "where the scheme has validation characters.\n"
        )
    sources = dict.fromkeys(f"{each.cell.title}: {each.cell.paper.source}" for each in standings)
    yield f"Papers: {'; '.join(sources)}.\n"
    machines = dict.fromkeys(str(result["hardware"]) for each in standings for result in each.results)
    yield f"Hardware: {'; '.join(machines)}. Minutes are those of the clock, with other work on the machine.\n"


def _word(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
