"""A run that is stopped or killed goes on to the same bits."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import Started, run_innerloop, start_innerloop
from torch import nn

import innerloop as il
from innerloop.learner.files import CheckpointError, load_state, save_state
from innerloop.training.checkpoint import CHECKPOINT_FILE

# Reptile with Adam carries every kind of state: the rule's, the outer schedule's, mini-batches'.
ITERATIONS = 200
COMMAND = [
    *["train", "sinusoid-reptile", "--inner-optimizer", "adam", "--inner-lr", "0.01", "--quiet"],
    *["--tasks", "3", "--iterations", str(ITERATIONS), "--val-every", "15", "--val-tasks", "3", "--threads", "1"],
    *["--inner-steps", "3", "--test-steps", "4"],
]


pytestmark = pytest.mark.xdist_group("resume")  # one worker, which makes the unbroken run once


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "whole"
    run_innerloop(*COMMAND, "--out", str(folder))
    return folder


def wait_for_iteration(folder: Path, iteration: int, process: Started) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be stopped"
        path = folder / "metrics.jsonl"
        if path.is_file() and any(
            record_iteration(line) >= iteration for line in path.read_text().splitlines() if line.endswith("}")
        ):
            return
        time.sleep(0.01)
    pytest.fail("the run made no progress")


def record_iteration(line: str) -> int:
    return int(json.loads(line)["iteration"])


def flat(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{name}/{i}").items()}
    return {name: value}


def assert_same_bits(a: Path, b: Path) -> None:
    left, right = flat(load_state(a)), flat(load_state(b))
    assert left.keys() == right.keys()
    assert any(isinstance(value, torch.Tensor) for value in left.values())
    for name, value in left.items():
        other = right[name]
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other), name  # type: ignore[arg-type]
        else:
            assert value == other, name


def metrics_without_rates(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "tasks_per_second"} for record in records]


def assert_same_run(folder: Path, whole: Path) -> None:
    assert_same_bits(folder / CHECKPOINT_FILE, whole / CHECKPOINT_FILE)
    assert_same_bits(folder / "learner.safetensors", whole / "learner.safetensors")
    best = sorted(path.name for path in (whole / "best").iterdir())
    assert len(best) == 5
    assert sorted(path.name for path in (folder / "best").iterdir()) == best
    for name in best:
        assert_same_bits(folder / "best" / name / "learner.safetensors", whole / "best" / name / "learner.safetensors")
        assert (folder / "best" / name / "learner.json").read_text() == (
            whole / "best" / name / "learner.json"
        ).read_text()
    assert metrics_without_rates(folder) == metrics_without_rates(whole)


def test_the_comparison_sees_a_difference(uninterrupted: Path, tmp_path: Path) -> None:
    state = load_state(uninterrupted / CHECKPOINT_FILE)
    next(iter(state["meta_params"].values())).view(-1)[0] += 1e-6
    save_state(state, tmp_path / "other")
    with pytest.raises(AssertionError):
        assert_same_bits(tmp_path / "other", uninterrupted / CHECKPOINT_FILE)


def test_kill_9_twice_and_resume(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for iteration, extra in ((30, []), (90, ["--resume"])):
        process = start_innerloop(*COMMAND, "--out", str(folder), *extra)
        wait_for_iteration(folder, iteration, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    # What a kill in the middle of a write leaves behind does no harm.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 24')
    run_innerloop(*COMMAND, "--out", str(folder), "--resume")
    assert_same_run(folder, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_cleanly(number: signal.Signals, uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = start_innerloop(*COMMAND, "--out", str(folder))
    wait_for_iteration(folder, 30, process)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert "--resume" in said
    saved = load_state(folder / CHECKPOINT_FILE)["iteration"]
    assert str(saved) in said
    assert 30 <= saved < ITERATIONS
    run_innerloop(*COMMAND, "--out", str(folder), "--resume")
    assert_same_run(folder, uninterrupted)


def test_resume_from_nothing_starts(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    run_innerloop(*COMMAND, "--out", str(folder), "--resume")
    assert_same_run(folder, uninterrupted)


def make_trainer(seed: int = 0) -> tuple[il.MetaTrainer, object]:
    torch.manual_seed(seed)
    # Dropout draws from torch's global generator, which a resumed run must find as it was.
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
    trainer = il.MetaTrainer(
        net,
        il.maml(0.05, inner_steps=2),
        lambda params: torch.optim.Adam(params, lr=1e-2),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5),
        loss_fn=F.mse_loss,
    )
    return trainer, il.data.sinusoids().episodes(tasks=4)


def test_dropout_and_schedulers_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, tasks = make_trainer()
    whole.fit(tasks, 20, folder=tmp_path / "whole", save_every=5, progress=False)
    part, _ = make_trainer()
    part.fit(tasks, 11, folder=tmp_path / "part", save_every=5, progress=False)
    resumed, _ = make_trainer(seed=1)
    resumed.fit(tasks, 20, folder=tmp_path / "part", resume=True, progress=False)
    assert resumed.iteration == 20
    for name, parameter in whole.meta_params.items():
        assert torch.equal(parameter, resumed.meta_params[name]), name


def test_another_number_of_threads_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It decides how many tasks run together, and how sums are rounded."""
    before = torch.get_num_threads()
    try:
        for threads, iterations in ((1, 2), (1, 4), (2, 6)):
            torch.set_num_threads(threads)
            trainer, tasks = make_trainer()
            trainer.fit(tasks, iterations, folder=tmp_path, resume=True)
            said = capsys.readouterr().err
            assert ("had 1 threads and now has 2, which rounds differently" in said) == (threads == 2)
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    trainer, tasks = make_trainer()
    trainer.fit(tasks, 2, folder=tmp_path, progress=False)
    other = il.MetaTrainer(nn.Linear(1, 1), il.maml(0.1), lambda p: torch.optim.SGD(p, lr=1.0), loss_fn=F.mse_loss)
    with pytest.raises(CheckpointError, match="another network"):
        other.fit(tasks, 3, folder=tmp_path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match="already holds a run"):
        trainer.fit(tasks, 3, folder=tmp_path, progress=False)
