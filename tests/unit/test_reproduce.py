"""Reproduction: the table of published cells, the budget, going on where it stopped, and the report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from innerloop.cli import reproduce as command
from innerloop.cli.main import main
from innerloop.learner.files import load_state
from innerloop.recipes import RECIPES, ConfigError, DataSource
from innerloop.recipes.published import PUBLISHED, TRAININGS, Paper, PublishedCell, PublishedTraining
from innerloop.recipes.reproduce import Budget, Reproduction, Standing, reproduce, standing
from innerloop.recipes.reproduction_report import BEGIN, END, as_json, as_markdown, check_page
from innerloop.training.checkpoint import CHECKPOINT_FILE

TINY = {"iterations": 4, "tasks": 2, "val_every": 2, "val_tasks": 2, "hidden": (4,), "outer_schedule": "cosine"}
TRAINING = PublishedTraining("small", "sinusoid-maml", TINY)
CELL = PublishedCell("sinusoid", "MAML", Paper(None, None, "a curve"), TRAINING, "transductive", 4, 5)
OTHER = PublishedCell("sinusoid", "MAML", Paper(None, None, "a curve"), TRAINING, "inductive", 4, 5)


def test_every_published_cell_has_a_recipe_and_another_name() -> None:
    assert len({cell.name for cell in PUBLISHED}) == len(PUBLISHED)
    for cell in PUBLISHED:
        assert cell.training.recipe in RECIPES
        tested = cell.test_config(3)
        assert tested.seed == 3
        if not tested.regression:
            assert cell.setting == f"{tested.ways}w{tested.shots}s"
            # A head has as many outputs as the task has classes; prototypes need none.
            assert tested.ways == cell.training.config.ways or cell.method == "prototypical"
            assert cell.training.config.shots == tested.shots or cell.method == "reptile"
    assert len(TRAININGS) == len({id(cell.training) for cell in PUBLISHED})


def test_a_budget_stops_in_the_middle_and_the_rest_is_the_same_run(tmp_path: Path) -> None:
    told: list[str] = []
    stopped = Reproduction([CELL, OTHER], [1], tmp_path / "stopped", DataSource())
    whole = Reproduction([CELL, OTHER], [1], tmp_path / "whole", DataSource())
    assert not reproduce(stopped, Budget(0), told.append, progress=False)
    assert not told
    assert standing(stopped, CELL).status == "not begun"

    class AfterOne(Budget):
        calls = 0

        def over(self) -> bool:
            AfterOne.calls += 1
            return AfterOne.calls > 2

    assert not reproduce(stopped, AfterOne(None), told.append, progress=False)
    assert "the time is over after 2 iterations" in told[-1]
    half = standing(stopped, CELL)
    assert (half.status, half.results, half.reaches_paper()) == ("unfinished", [], None)
    assert "of 4 iterations" in as_markdown([half])
    assert as_json(half)["ours"] is None

    for work in (stopped, whole):
        assert reproduce(work, Budget(None), told.append, progress=False)
    ends = [load_state(work.folder(TRAINING, 1) / "learner.safetensors")["net"] for work in (stopped, whole)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert standing(stopped, OTHER).mean == standing(whole, OTHER).mean

    # What is done is not done again.
    (stopped.folder(TRAINING, 1) / CHECKPOINT_FILE).unlink()
    count = len(told)
    assert reproduce(stopped, Budget(None), told.append, progress=False)
    assert len(told) == count


def test_one_training_serves_cells_with_other_numbers_of_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"iterations": 1, "train_ways": 6, "queries": 1, "val_every": 1, "val_tasks": 1, "filters": 4}
    training = PublishedTraining("prototypes", "omniglot-5w1s-prototypical", {**small, "dataset": "glyphs"})
    paper = Paper(98.8, None, "a paper")
    cells = [PublishedCell(f"omniglot-{ways}w1s", "P", paper, training, "transductive", 2, 1) for ways in (5, 20)]
    work = Reproduction(cells, [0], tmp_path, DataSource())
    assert reproduce(work, Budget(None), str, progress=False)
    assert [found["protocol"]["ways"] for cell in cells for found in standing(work, cell).results] == [5, 20]


def test_a_result_of_other_settings_is_none(tmp_path: Path) -> None:
    work = Reproduction([CELL], [0], tmp_path, DataSource())
    assert reproduce(work, Budget(None), str, progress=False)
    longer = PublishedCell("sinusoid", "MAML", CELL.paper, PublishedTraining("small", "sinusoid-maml", {}), CELL.norm)
    assert standing(work, longer).status == "not begun"
    more_tasks = PublishedCell("sinusoid", "MAML", CELL.paper, TRAINING, CELL.norm, 5, 5)
    assert standing(work, more_tasks).results == []
    with pytest.raises(ConfigError, match="holds a run with"):
        reproduce(Reproduction([longer], [0], tmp_path, DataSource()), Budget(None), str, progress=False)


def of_scores(paper: float | None, *scores: float) -> Standing:
    cell = next(cell for cell in PUBLISHED if cell.name == "omniglot-5w1s-maml-transductive")
    told = PublishedCell(cell.experiment, cell.title, Paper(paper, 0.4, "a paper"), cell.training, cell.norm)
    results = [
        {"seed": i, "mean": score, "ci95": 0.004, "kept_iteration": 1, "hardware": "a machine"}
        for i, score in enumerate(scores)
    ]
    return Standing(told, results, 8000, 1.0)


def test_the_interval_is_over_tasks_or_over_seeds() -> None:
    assert of_scores(98.7, 0.98).ci95 == pytest.approx(0.4)
    several = of_scores(98.7, 0.98, 0.99)
    assert several.mean == pytest.approx(98.5)
    assert several.ci95 == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize(
    ("paper", "score", "reached"), [(98.7, 0.9866, True), (98.7, 0.9864, False), (98.70, 0.99, True), (None, 1, None)]
)
def test_what_reaches_the_paper_does_so_to_the_papers_decimals(
    paper: float | None, score: float, reached: bool | None
) -> None:
    each = of_scores(paper, score)
    assert each.reaches_paper() is reached
    said = {True: "| yes |", False: "| **no** |", None: "|  |"}[reached]
    assert said in as_markdown([each])


def test_the_command_writes_the_page_and_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = PublishedCell("sinusoid", "MAML", CELL.paper, PublishedTraining("other", "sinusoid-fomaml"), CELL.norm)
    monkeypatch.setattr(command, "PUBLISHED", (CELL, begun))
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    words = ["reproduce", "sinusoid", "--methods", "maml", "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--page", str(page)]) == 2
    assert BEGIN in capsys.readouterr().err
    page.write_text(f"# Results\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([*words, "--page", str(page), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["status"], row["protocol"]["tasks"]) for row in rows] == [("finished", 4)]
    text = page.read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "**Not begun**:\n\n- `sinusoid`: MAML (transductive)\n" in text
    assert "innerloop train sinusoid-maml --iterations 4" in text
    assert len(json.loads((tmp_path / "out" / "reproduction.json").read_text())) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "invalid choice"),
        (["--budget", "-1"], "--budget is -1.0"),
        (["--seeds", "1", "1"], "--seeds is 1 1"),
        (["sinusoid", "--methods", "anil"], "no published cell"),
        (["--faster"], "there is no option '--faster'"),
    ],
)
def test_mistakes_are_told_in_a_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_page_of_the_project_has_the_marks() -> None:
    check_page(Path(__file__).parents[2] / "docs" / "results.md")
