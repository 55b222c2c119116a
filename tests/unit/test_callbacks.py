"""Callbacks: their moments, what they may do, and what a checkpoint keeps for them."""

from __future__ import annotations

import csv
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import innerloop as il
from innerloop.extras import MissingExtraError
from innerloop.training.metrics import read_metrics

TASKS = il.data.sinusoids().episodes(shots=2, queries=2, tasks=2)


def trainer(rate: float = 0.01) -> il.MetaTrainer:
    torch.manual_seed(0)
    net = il.nets.mlp(hidden=(4,))
    return il.MetaTrainer(net, il.maml(0.01), lambda p: torch.optim.SGD(p, lr=rate), loss_fn=F.mse_loss)


def fit(made: il.MetaTrainer, iterations: int, callbacks: Sequence[il.Callback], **settings: object) -> il.MetaTrainer:
    settings = {"validation": il.Validation(TASKS, tasks=2, every=2), "log_every": 2, "progress": False, **settings}
    made.fit(TASKS, iterations, callbacks=callbacks, **settings)
    return made


def bits(made: il.MetaTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.meta_params.values()])


class Diary(il.Callback):
    """Notes every moment."""

    def __init__(self) -> None:
        self.moments: list[tuple[str, int]] = []

    def on_start(self, training: il.Training) -> None:
        self.moments.append(("start", training.iteration))

    def on_iteration(self, training: il.Training, info: il.Info) -> None:
        assert info.loss.shape == (2,)
        self.moments.append(("iteration", training.iteration))

    def on_validation(self, training: il.Training, result: il.Evaluation) -> None:
        assert result.metric == "loss"
        self.moments.append(("validation", training.iteration))

    def on_record(self, training: il.Training, record: dict[str, float]) -> None:
        self.moments.append(("val record" if "val_loss" in record else "record", record["iteration"]))

    def on_end(self, training: il.Training, error: BaseException | None) -> None:
        self.moments.append(("end" if error is None else type(error).__name__, training.iteration))


class Stops(il.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_iteration(self, training: il.Training, info: il.Info) -> None:
        if training.iteration == self.at:
            training.stop("enough")


class Fails(il.Callback):
    def __init__(self, moment: str) -> None:
        self.moment = moment

    def __getattribute__(self, name: str) -> object:
        if name == object.__getattribute__(self, "moment"):
            raise RuntimeError("broken")
        return object.__getattribute__(self, name)


def test_every_moment_comes_in_order() -> None:
    diary = Diary()
    fit(trainer(), 3, [diary])
    assert diary.moments == [
        ("start", 0),
        ("iteration", 1),
        ("iteration", 2),
        ("record", 2),
        ("val record", 2),
        ("validation", 2),
        ("iteration", 3),
        ("val record", 3),
        ("validation", 3),
        ("end", 3),
    ]


def test_a_callback_may_stop_training_which_ends_as_usual(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diary = Diary()
    stopped = fit(trainer(), 9, [Stops(3), diary], folder=tmp_path, progress=None)
    assert stopped.iteration == 3
    assert diary.moments[-2:] == [("validation", 3), ("end", 3)]
    assert "training ends after iteration 3: enough" in capsys.readouterr().err
    whole = fit(trainer(), 3, [], folder=tmp_path / "whole")
    assert torch.equal(bits(stopped), bits(whole))
    again = trainer()
    again.load(tmp_path / "checkpoint.safetensors")
    assert again.iteration == 3


@pytest.mark.parametrize("moment", ["on_start", "on_validation", "on_record", "on_end"])
def test_an_error_names_the_callback(moment: str) -> None:
    diary = Diary()
    with pytest.raises(RuntimeError, match="broken") as caught:
        fit(trainer(), 4, [diary, Fails(moment)])
    assert f"raised by the callback Fails in {moment}" in caught.value.__notes__[0]
    assert diary.moments[-1][0] == ("end" if moment == "on_end" else "RuntimeError")


def test_training_that_a_callback_finds_diverged_names_the_callback_and_the_checkpoint(tmp_path: Path) -> None:
    class TooLargeError(il.DivergedError):
        pass

    class Watches(il.Callback):
        def on_record(self, training: il.Training, record: dict[str, float]) -> None:
            raise TooLargeError("a loss is too large")

    with pytest.raises(TooLargeError, match=r"too large; the last good checkpoint is .*checkpoint") as caught:
        fit(trainer(), 4, [Fails("on_end"), Watches()], folder=tmp_path)
    first, second = caught.value.__notes__
    assert "raised by the callback Watches in on_record, after iteration 2" in first
    assert "then the callback Fails failed in on_end" in second


def test_an_error_at_the_end_does_not_hide_what_ended_training() -> None:
    diary = Diary()
    with pytest.raises(RuntimeError) as caught:
        fit(trainer(), 4, [diary, Fails("on_end"), Fails("on_validation")])
    first, second = caught.value.__notes__
    assert "Fails 2 in on_validation" in first
    assert "then the callback Fails failed in on_end" in second
    assert diary.moments[-1][0] == "RuntimeError"


def test_a_callback_does_not_change_what_training_draws() -> None:
    class Draws(il.Callback):
        def on_iteration(self, training: il.Training, info: il.Info) -> None:
            torch.manual_seed(training.iteration)

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    made = trainer()
    torch.manual_seed(3)
    fit(made, 2, [Draws()])
    assert torch.equal(torch.rand(2), expected)


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(TypeError, match="not an innerloop.Callback"):
        fit(trainer(), 1, [print])


# Early stopping


def test_early_stopping_counts_validations() -> None:
    assert fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=3)]).iteration == 8
    assert fit(trainer(rate=0.0), 5, [il.EarlyStopping(patience=3)]).iteration == 5
    assert fit(trainer(), 12, [il.EarlyStopping(patience=2)]).iteration == 12  # it improves
    assert fit(trainer(), 100, [il.EarlyStopping(patience=2, least=1e6)]).iteration == 6  # too little


def test_early_stopping_needs_a_validation_and_sensible_numbers() -> None:
    with pytest.raises(ValueError, match="needs a validation"):
        fit(trainer(), 4, [il.EarlyStopping(2)], validation=None)
    for wrong in ({"patience": 0}, {"patience": 1, "least": -0.1}, {"patience": 1, "least": float("nan")}):
        with pytest.raises(ValueError, match="must be"):
            il.EarlyStopping(**wrong)


def test_no_number_is_no_improvement() -> None:
    nan = il.Evaluation(torch.full((2, 1), torch.nan), None, "transductive")
    stopping, training = il.EarlyStopping(2), il.Training(trainer(), 9, None, None, print)
    stopping.on_validation(training, nan)
    assert training.stop_reason is None
    stopping.on_validation(training, il.Evaluation(torch.ones(2, 1), None, "transductive"))
    stopping.on_validation(training, nan)
    stopping.on_validation(training, il.Evaluation(2 * torch.ones(2, 1), None, "transductive"))
    assert training.stop_reason == "2 validations in a row without an improvement on 1"


def test_early_stopping_goes_on_counting_after_a_kill(tmp_path: Path) -> None:
    fit(trainer(rate=0.0), 6, [il.EarlyStopping(patience=4)], folder=tmp_path)
    resumed = fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=4)], folder=tmp_path, resume=True)
    assert resumed.iteration == 10
    again = fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=4)], folder=tmp_path, resume=True)
    assert again.iteration == 10
    longer = fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=5)], folder=tmp_path, resume=True)
    assert longer.iteration == 12


def test_the_state_of_a_callback_that_is_left_out_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(trainer(rate=0.0), 6, [il.EarlyStopping(patience=4)], folder=tmp_path)
    fit(trainer(rate=0.0), 8, [], folder=tmp_path, resume=True, progress=None)
    assert "this run had the callbacks EarlyStopping, which are not given now" in capsys.readouterr().err
    resumed = fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=4)], folder=tmp_path, resume=True)
    assert resumed.iteration == 12  # validations at 10 and 12; the one at 8 was not seen


def test_a_new_training_does_not_take_over_the_count_of_another() -> None:
    made = fit(trainer(rate=0.0), 100, [il.EarlyStopping(patience=1)])
    assert fit(made, 100, [il.EarlyStopping(patience=1)]).iteration == 4 + 4


def test_a_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    class EarlyStopping(il.EarlyStopping):
        def state(self) -> dict[str, object]:
            return {"best": "much", "without": 0}

    fit(trainer(), 2, [EarlyStopping(3)], folder=tmp_path)
    with pytest.raises(il.CheckpointError, match="state of the callback EarlyStopping does not fit: best is 'much'"):
        fit(trainer(), 4, [il.EarlyStopping(3)], folder=tmp_path, resume=True)


# Loggers


def test_a_table_has_the_same_numbers_as_the_metrics(tmp_path: Path) -> None:
    fit(trainer(), 4, [il.CSVLogger()], folder=tmp_path)
    fit(trainer(), 6, [il.CSVLogger()], folder=tmp_path, resume=True)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    records = read_metrics(tmp_path)
    assert len(rows) == len(records) == 6
    for row, record in zip(rows, records, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == pytest.approx(record)


def test_a_table_loses_the_rows_that_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    fit(trainer(), 4, [il.CSVLogger(path)], validation=None)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1].replace("4,", "8,", 1), "10,1"]))  # the last is cut off
    made = trainer()
    made.iteration = 4
    fit(made, 6, [il.CSVLogger(path)], validation=None)
    iterations = [row["iteration"] for row in csv.DictReader(path.read_text().splitlines())]
    assert iterations == ["2", "4", "6"]


def test_a_logger_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for logger in (il.CSVLogger(), il.TensorBoardLogger()):
        with pytest.raises(ValueError, match="no place to write to"):
            fit(trainer(), 1, [logger])
    (tmp_path / "notes.csv").write_text("name,age\nA,3\n")
    with pytest.raises(ValueError, match="no table that CSVLogger wrote"):
        fit(trainer(), 1, [il.CSVLogger(tmp_path / "notes.csv")])
    assert (tmp_path / "notes.csv").read_text() == "name,age\nA,3\n"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="innerloop\\[wandb\\]"):
        fit(trainer(), 1, [il.WandbLogger()])


def test_without_tensorboard_a_run_writes_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["tensorboard", *(name for name in sys.modules if name.startswith("tensorboard."))]:
        monkeypatch.setitem(sys.modules, name, None)
    fit(trainer(), 2, [], folder=tmp_path)
    assert read_metrics(tmp_path)
    assert not list(tmp_path.glob("events*"))
    with pytest.raises(MissingExtraError):
        fit(trainer(), 2, [il.TensorBoardLogger(tmp_path)])


def test_tensorboard_events_can_go_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fit(trainer(), 2, [il.TensorBoardLogger(tmp_path / "events")], folder=tmp_path / "run")
    assert len(list((tmp_path / "events").glob("events.out.tfevents.*"))) == 1
    assert not list((tmp_path / "run").glob("events.out.tfevents.*"))


class FakeWandb(types.ModuleType):
    """What the logger needs of wandb; tests/run/test_wandb.py uses the real one."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[str, object]] = []
        self.id = "abc"

    def init(self, **settings: object) -> FakeWandb:
        self.calls.append(("init", settings))
        return self

    def define_metric(self, name: str, **settings: object) -> None:
        self.calls.append(("define", (name, settings)))

    def log(self, numbers: dict[str, float]) -> None:
        self.calls.append(("log", numbers))

    def finish(self, exit_code: int) -> None:
        self.calls.append(("finish", exit_code))


def test_wandb_gets_the_numbers_and_a_resumed_training_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    fit(trainer(), 2, [il.WandbLogger("project", config={"lr": 1}, tags=["t"])], folder=tmp_path / "run")
    (_, first), *_, last = fake.calls
    assert (first["project"], first["name"], first["tags"]) == ("project", "run", ["t"])
    assert first["config"]["lr"] == 1
    assert "id" not in first
    assert last == ("finish", 0)
    logged = [numbers for call, numbers in fake.calls if call == "log"]
    assert [numbers["iteration"] for numbers in logged] == [2, 2]
    assert "train/loss" in logged[0]
    assert "validation/loss" in logged[1]
    fake.calls.clear()
    with pytest.raises(RuntimeError):
        fit(trainer(), 4, [il.WandbLogger("project"), Fails("on_validation")], folder=tmp_path / "run", resume=True)
    assert (fake.calls[0][1]["id"], fake.calls[0][1]["resume"]) == ("abc", "allow")
    assert fake.calls[-1] == ("finish", 1)
