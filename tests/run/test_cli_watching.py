"""Early stopping and loggers of ``innerloop train``, and the data folder that a run remembers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from innerloop.cli.main import main
from innerloop.extras import PURPOSES
from innerloop.recipes import DataSource, read_run, recipe
from innerloop.recipes.watching import Watching
from innerloop.training.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from innerloop.training.metrics import read_metrics
from innerloop.training.stopping import EarlyStopping

SMALL = ["--tasks", "2", "--val-tasks", "2", "--val-every", "2", "--quiet", "--json"]


def test_patience_and_a_table_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    small = [word for word in SMALL if word != "--quiet"]
    train = ["train", "sinusoid-maml", *small, "--out", str(folder), "--patience", "2", "--csv"]
    # A rate that changes no weight: no validation after the first is better.
    assert main([*train, "--iterations", "50", "--outer-lr", "1e-30", "--outer-optimizer", "sgd"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["iterations"] == 6
    assert "trained sinusoid-maml for 6 iterations" in printed.out
    assert "2 validations in a row without an improvement" in printed.err
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows if row["val_loss"]] == [
        str(record["iteration"]) for record in read_metrics(folder) if "val_loss" in record
    ]


def test_flags_become_callbacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(PURPOSES, "wandb", ("this", "json"))  # as if wandb were installed
    config = recipe("sinusoid-maml")
    watching = Watching(patience=3, csv=True, tensorboard=True, wandb="mine")
    stopping, table, board, service = watching.callbacks(config)
    assert isinstance(stopping, EarlyStopping)
    assert isinstance(table, CSVLogger)
    assert isinstance(board, TensorBoardLogger)
    assert isinstance(service, WandbLogger)
    assert (stopping.patience, service.project, service.config["inner_lr"]) == (3, "mine", 0.01)
    assert Watching().callbacks(config) == []
    assert main(["train", "sinusoid-maml", *SMALL, "--patience", "0"]) == 2
    assert "--patience is 0; it must be a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_absent_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PURPOSES, name, ("this", "a_package_that_is_absent"))
    flags = [f"--{name}", *(["mine"] if name == "wandb" else [])]
    assert main(["train", "sinusoid-maml", *SMALL, *flags, "--out", str(tmp_path / "run")]) == 2
    assert f"pip install 'innerloop[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sweep_has_them_too(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    small = [
        "--tasks",
        "2",
        "--val-tasks",
        "2",
        "--val-every",
        "2",
        "--iterations",
        "2",
        "--test-tasks",
        "2",
        "--quiet",
    ]
    assert main(["sweep", "sinusoid-maml", *small, "--seed", "0,1", "--csv", "--out", str(folder)]) == 0
    assert len(list(folder.glob("seed=*/metrics.csv"))) == 2


def test_a_run_remembers_its_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)
    folder, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    train = ["train", "glyphs-5w1s-maml", *SMALL, "--iterations", "2", "--filters", "2", "--out", str(folder)]
    assert main([*train, "--data-dir", str(data)]) == 0
    assert read_run(folder).data_dir == data
    opened: list[Path | None] = []
    original = DataSource.evaluation

    def spied(self: DataSource, *arguments: object) -> object:
        opened.append(self.root)
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DataSource, "evaluation", spied)
    evaluate = ["evaluate", str(folder), "--tasks", "2"]
    assert main(evaluate) == 0
    assert main([*evaluate, "--data-dir", str(tmp_path)]) == 0
    with monkeypatch.context() as patched:
        patched.setenv("INNERLOOP_DATA", str(tmp_path))
        assert main(evaluate) == 0
    assert opened == [data, tmp_path, None]  # None: INNERLOOP_DATA is looked at when the data is opened
    data.rmdir()
    assert main(evaluate) == 2
    said = capsys.readouterr().err
    assert (
        f"{data} does not exist: {folder} was trained with the data there. Say where it is now with --data-dir" in said
    )
    path = folder / "config.json"
    description = json.loads(path.read_text())
    del description["data_dir"]  # as runs of earlier versions
    path.write_text(json.dumps(description))
    assert read_run(folder).data_dir is None
    assert main(evaluate) == 0
    path.write_text(json.dumps({**description, "data_dir": 3}))
    assert main(evaluate) == 2
    assert "config.json is damaged" in capsys.readouterr().err
