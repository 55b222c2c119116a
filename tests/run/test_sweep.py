"""Sweeps: the grid, the interval over seeds, and going on where one was stopped."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import start_innerloop

import innerloop as il
from innerloop.cli.main import main
from innerloop.evaluation.intervals import student_t, t_half_width
from innerloop.learner.files import load_state
from innerloop.recipes import Config, sweep
from innerloop.training.checkpoint import CHECKPOINT_FILE

SMALL = ["--iterations", "2", "--val-every", "2", "--val-tasks", "2", "--tasks", "2", "--hidden", "4"]
SMALL += ["--test-tasks", "4", "--test-steps", "1", "--quiet"]


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [
        # From the tables of Student's distribution.
        *((1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.95, 3.18245), (4, 0.95, 2.77645), (5, 0.95, 2.57058)),
        *((9, 0.95, 2.26216), (10, 0.95, 2.22814), (30, 0.95, 2.04227), (1, 0.5, 1.0), (4, 0.99, 4.60409)),
    ],
)
def test_students_distribution_is_that_of_the_tables(freedom: int, confidence: float, expected: float) -> None:
    assert student_t(freedom, confidence) == pytest.approx(expected, rel=1e-5)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    held = sum(abs(float(row.mean())) <= t_half_width(row.tolist()) for row in draws) / len(draws)
    assert abs(held - 0.95) < 0.02
    assert math.isnan(t_half_width([1.0]))
    with pytest.raises(ValueError, match="expected"):
        student_t(0)


def outcome(seed: str, rate: str, loss: float | None) -> sweep.Outcome:
    cell = sweep.Cell({"seed": seed, "inner_lr": rate}, Config.of(dataset="sinusoids"), Path(f"{seed}{rate}"))
    return sweep.Outcome(cell, None if loss is None else {"loss": loss, "ci95": 0.1}, "" if loss is not None else "inf")


def test_seeds_are_gathered_and_what_diverged_is_told() -> None:
    outcomes = [outcome(*each) for each in (("0", "1", 1.0), ("1", "1", 3.0), ("0", "2", 5.0), ("1", "2", None))]
    first, second = sweep.rows_of(outcomes)
    assert (first.settings, first.scores, first.mean) == ({"inner_lr": "1"}, [1.0, 3.0], 2.0)
    assert first.ci95 == pytest.approx(12.7062, rel=1e-5)
    assert (second.scores, second.diverged) == ([5.0], 1)
    assert math.isnan(second.ci95)


@pytest.fixture
def run(undrawn: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str) -> tuple[int, str]:
        status = main(["sweep", "sinusoid-maml", *SMALL, "--out", str(tmp_path / "sweep"), *arguments])
        return status, capsys.readouterr().out

    return run


def test_a_grid_is_trained_and_goes_on_where_it_was_stopped(
    tmp_path: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out = run("--seed=0,1", "--inner-lr", "0.01,0.02", "--json")
    assert status == 0
    folder = tmp_path / "sweep"
    names = {f"seed={seed},inner-lr={rate}" for seed in (0, 1) for rate in (0.01, 0.02)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [row["settings"] for row in rows] == [{"inner_lr": "0.01"}, {"inner_lr": "0.02"}]
    found = {
        (line["seed"], line["inner_lr"]): float(line["loss"])
        for line in csv.DictReader((folder / "results.csv").read_text().splitlines())
    }
    for row in rows:
        scores = [found[seed, row["settings"]["inner_lr"]] for seed in ("0", "1")]
        assert row["scores"] == scores
        assert scores[0] != scores[1]
        assert row["mean"] == pytest.approx(sum(scores) / 2)
        assert row["ci95_over_seeds"] == pytest.approx(t_half_width(scores))
    assert "0.01      " in out

    trained = []
    monkeypatch.setattr(sweep, "train_run", lambda *_, **__: trained.append(1))
    assert run("--seed=0,1", "--inner-lr", "0.01,0.02", "--json") == (0, out)
    assert not trained
    monkeypatch.undo()
    (folder / "seed=1,inner-lr=0.01" / "result.json").unlink()
    status, out = run("--seed=0,1,2", "--inner-lr", "0.01,0.02", "--json")
    assert [len(row["scores"]) for row in json.loads(out.splitlines()[-1])["rows"]] == [3, 3]
    assert json.loads(out.splitlines()[-1])["rows"][0]["scores"][:2] == rows[0]["scores"]


def test_cells_in_processes_of_their_own_give_the_same(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    _, one = run("--seed", "0,1", "--threads", "1", "--json")
    (tmp_path / "sweep").rename(tmp_path / "first")
    _, two = run("--seed", "0,1", "--threads", "1", "--json", "--jobs", "2")
    torch.set_num_threads(threads)
    first, second = (json.loads(out.splitlines()[-1])["rows"][0]["scores"] for out in (one, two))
    assert first == pytest.approx(second, rel=1e-5)


def test_a_stop_passes_between_processes() -> None:
    stopped = pickle.loads(pickle.dumps(il.TrainingStopped(signal.SIGTERM, 7)))
    assert (stopped.signal_number, stopped.iteration) == (signal.SIGTERM, 7)
    assert str(stopped) == "stopped by SIGTERM after 7 iterations"


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_stops_all_processes_and_saves_their_runs(
    number: signal.Signals, to_all: bool, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal is sent to every process; other signals usually to the first process only."""
    command = ["sweep", "sinusoid-maml", *SMALL, "--seed", "0,1,2", "--jobs", "2"]
    command += ["--iterations", "1000000", "--out", str(tmp_path), "--threads", "1"]
    process = start_innerloop(*command, parent=True)
    runs = [tmp_path / f"seed={seed}" for seed in (0, 1)]
    deadline = time.monotonic() + 200
    while (
        not all((run / "learner.json").exists() for run in runs)
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert said.count("\n") == 1
    assert f"stopped by {number.name}; everything is saved in {tmp_path}, continue with the same command" in said
    for run in runs:
        assert load_state(run / CHECKPOINT_FILE)["iteration"] >= 1
        assert not (run / "result.json").exists()
    assert not (tmp_path / "seed=2").exists()


def test_training_that_diverges_is_told_and_the_rest_goes_on(run: Callable[..., tuple[int, str]]) -> None:
    status, out = run("--inner-lr", "0.01,1e30", "--json")
    assert status == 1
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [(len(row["scores"]), row["diverged"]) for row in rows] == [(1, 0), (0, 1)]
    assert rows[1]["mean"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a recipe"),
        (["no-such-recipe"], "no recipe"),
        (["sinusoid-maml", "--seed", "0,0"], "values that differ"),
        (["sinusoid-maml", "--seed", "0,"], "values that differ"),
        (["sinusoid-maml", "--inner-lr", "0.1,fast"], "fast"),
        (["sinusoid-maml", "--inner-lr", "0.1,-1"], "--inner-lr is -1"),
        (["sinusoid-maml", "--ways", "2,3", "--pace", "1"], "--pace"),
        (["sinusoid-maml", "--jobs", "0"], "--jobs is 0"),
        (["sinusoid-maml", "--split", "all"], "--split"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
