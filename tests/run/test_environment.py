"""What a machine does to a run: a full disk, folders that are not to be had, two trainings at once, many kills."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from processes import run_innerloop, start_innerloop, start_program
from safetensors import safe_open
from torch import nn

import innerloop as il
from innerloop.cli.main import main
from innerloop.learner.files import CheckpointError, load_state
from innerloop.training.folder import RunFolder, is_left_over
from innerloop.training.metrics import read_metrics

SETTINGS = [
    *["sinusoid-maml", "--iterations", "6", "--tasks", "2", "--hidden", "4", "--val-every", "2", "--val-tasks", "2"],
    *["--quiet"],
]


def train(folder: Path, *more: str) -> int:
    return main(["train", *SETTINGS, "--out", str(folder), *more])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    assert said.startswith("innerloop: "), said
    assert said.count("\n") == 1, said
    assert "Errno" not in said
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of this test's own."""
    return shutil.copytree(trained, tmp_path / "run")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom permissions concern."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_permissions_concern_the_user_of_these_tests(anyones: Path) -> None:
    (anyones / "locked").mkdir(mode=0o555)
    with without_privileges(), pytest.raises(PermissionError):
        (anyones / "locked" / "file").touch()


# A full disk


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("size", [0, 100, 4000])
def test_a_full_disk_is_one_line_and_costs_nothing(size: int, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "checkpoint.safetensors").read_bytes()
    assert len(before) > size
    with files_of_at_most(size):
        assert train(run, "--resume", "--iterations", "12") == 2
    said = one_line(capsys)
    assert str(run) in said
    assert "File too large" in said
    assert "what was saved before is whole: continue with --resume" in said
    assert load_state(run / "checkpoint.safetensors")["iteration"] == 6
    il.Learner.load(run)
    assert not [path for path in run.rglob("*") if is_left_over(path)]
    assert train(run, "--resume", "--iterations", "12") == 0
    assert train(run.parent / "other", "--iterations", "12") == 0
    assert_same_parameters(run, run.parent / "other")


def assert_same_parameters(one: Path, other: Path) -> None:
    left, right = (load_state(folder / "checkpoint.safetensors")["meta_params"] for folder in (one, other))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert train(run, "--resume", "--iterations", "12") == 2
    assert "No space left on device" in one_line(capsys)
    assert load_state(run / "checkpoint.safetensors")["iteration"] == 6
    assert train(run, "--resume", "--iterations", "12") == 0


def test_the_first_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_of_at_most(0):
        assert train(tmp_path / "run") == 2
    assert f"{tmp_path / 'run' / 'config.json'}: File too large" in one_line(capsys)
    assert train(tmp_path / "run") == 0  # what is left there is nothing


# Folders


def test_a_folder_that_may_not_be_written_to(anyones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (anyones / "locked").mkdir(mode=0o555)
    for folder in (anyones / "locked", anyones / "locked" / "run"):
        with without_privileges():
            assert train(folder) == 2
        said = one_line(capsys)
        assert str(folder) in said
        assert "Permission denied" in said
    assert not list((anyones / "locked").iterdir())


def test_a_run_that_may_not_be_written_to(anyones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = anyones / "run"
    assert train(folder) == 0
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with without_privileges():
        assert train(folder, "--resume", "--iterations", "12") == 2
    said = one_line(capsys)
    assert "Permission denied" in said
    assert str(folder) in said
    assert load_state(folder / "checkpoint.safetensors")["iteration"] == 6


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "config.json"])
def test_a_file_that_may_not_be_read(file: str, anyones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = anyones / "run"
    assert train(folder) == 0
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o777)
    (folder / file).chmod(0)
    with without_privileges():
        assert train(folder, "--resume", "--iterations", "12") == 2
    assert f"{folder / file} cannot be read: Permission denied; see to its permissions" in one_line(capsys)


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert train(tmp_path / "run") == 2
    assert "is not a run's folder" in one_line(capsys)
    assert train(tmp_path / "run" / "deeper") == 2
    assert "Not a directory" in one_line(capsys)
    assert (tmp_path / "run").read_text() == "mine"
    trainer, tasks = small_trainer()
    with pytest.raises(CheckpointError, match="is a file, and a run needs a folder; choose another"):
        trainer.fit(tasks, 2, folder=tmp_path / "run", progress=False)


def small_trainer() -> tuple[il.MetaTrainer, Callable[[torch.Generator], il.Episode]]:
    trainer = il.MetaTrainer(
        nn.Linear(1, 1), il.maml(0.01), lambda params: torch.optim.SGD(params, 0.01), loss_fn=F.mse_loss
    )
    return trainer, il.data.sinusoids().episodes(tasks=2)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_folder_that_is_removed_during_the_run(log_every: int, tmp_path: Path) -> None:
    trainer, tasks = small_trainer()
    folder = tmp_path / "run"

    def removing(generator: torch.Generator) -> il.Episode:
        if trainer.iteration == 3:
            shutil.rmtree(folder)
        return tasks(generator)

    with pytest.raises(FileNotFoundError) as caught:
        trainer.fit(removing, 20, folder=folder, save_every=2, log_every=log_every, progress=False)
    assert str(folder) in str(caught.value.filename)
    assert not folder.exists()  # a part of a run would be taken for a whole one


def test_what_a_killed_run_leaves_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").write_text("123")
    (folder / ".config.json.123.ab12.part").write_text("{")
    assert train(folder) == 0
    assert not [path for path in folder.rglob("*") if is_left_over(path)]


# Two at once

HOLD = """
import sys, time
from pathlib import Path
from innerloop.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_trainings_in_one_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hold.py").write_text(HOLD)
    holder = start_program(tmp_path / "hold.py", str(run))
    try:
        assert holder.first_line() == "held\n"
        for more in ([], ["--resume", "--iterations", "12"]):
            before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
            assert train(run, *more) == 2
            said = one_line(capsys)
            assert ("already holds a run" if not more else f"in use by another training (process {holder.pid})") in said
            after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
            assert after == before
    finally:
        holder.kill()
        holder.wait()
    assert train(run, "--resume", "--iterations", "12") == 0  # who was killed holds nothing
    assert not (run / ".lock").exists()


def test_a_thread_may_enter_its_folder_again_and_others_may_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def enter() -> None:
        try:
            with RunFolder(tmp_path / "run"):
                pass
        except CheckpointError as error:
            refused.append(str(error))

    def elsewhere() -> None:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()

    with RunFolder(tmp_path / "run"):
        with RunFolder(tmp_path / "run"):
            elsewhere()
        elsewhere()
        assert (tmp_path / "run" / ".lock").exists()
    assert len(refused) == 2
    assert f"in use by another training (process {os.getpid()})" in refused[0]
    elsewhere()
    assert len(refused) == 2
    assert not (tmp_path / "run" / ".lock").exists()


# Kills; benchmarks/kill_loop.py is the same with more of them


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [
        *["train", "sinusoid-maml", "--iterations", "200", "--val-every", "20"],
        *["--val-tasks", "3", "--test-steps", "2", "--tasks", "4", "--threads", "2", "--quiet", "--resume", "--out"],
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_innerloop(*command, str(whole))
    for kill in range(5):
        process = start_innerloop(*command, str(killed))
        while process.poll() is None and last_iteration(killed) < 20 + 30 * kill:
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    run_innerloop(*command, str(killed))
    assert_same_parameters(killed, whole)
    for name in ("learner.safetensors", "checkpoint.safetensors"):
        assert digest(killed / name) == digest(whole / name)
    rates = "tasks_per_second"
    records = [[{k: v for k, v in r.items() if k != rates} for r in read_metrics(each)] for each in (killed, whole)]
    assert json.dumps(records[0]) == json.dumps(records[1])


def digest(path: Path) -> str:
    """Of all that a file holds; its bytes have the fields of the header in any order."""
    load_state(path)  # which sees that it is right
    with safe_open(path, framework="pt") as file:
        return file.metadata()["digest"]


def last_iteration(folder: Path) -> float:
    return max((record["iteration"] for record in read_metrics(folder)), default=0)
