"""The processes that tests start: each is a process of its own, with what a process has."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import run_innerloop, start_innerloop, start_program

PROGRAM = """
import os, sys, threading, time
print(os.getpid(), os.getcwd(), sys.argv[1:], os.environ.get("A_SETTING"), os.environ.get("PATH"), flush=True)
print(__name__, threading.active_count(), os.getppid(), file=sys.stderr)
if "wait" in sys.argv:
    sys.stderr.flush()
    time.sleep(600)
raise SystemExit(7)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A_SETTING", "of this test")
    monkeypatch.delenv("PATH")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_a_process_has_its_own_everything(program: Path) -> None:
    process = start_program(program, "one", "two")
    out, error = process.communicate()
    assert out == f"{process.pid} {Path.cwd()} ['one', 'two'] of this test None\n"
    name, threads, parent = error.split()
    assert (name, threads) == ("__main__", "1")
    assert process.pid != os.getpid() != int(parent)
    assert process.returncode == process.poll() == process.wait() == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_gets_signals(number: signal.Signals, program: Path) -> None:
    process = start_program(program, "wait")
    assert process.first_line().startswith(str(process.pid))
    assert process.poll() is None
    process.send_signal(number)
    _, error = process.communicate()
    if number == signal.SIGINT:  # which Python makes an exception
        assert process.returncode == 1
        assert error.endswith("KeyboardInterrupt\n")
    else:
        assert process.returncode == -number


def test_one_that_does_not_end_is_stopped(program: Path) -> None:
    process = start_program(program, "wait")
    with pytest.raises(TimeoutError, match="still ran after 0"):
        process.wait(timeout=0.1)
    assert process.wait() == -signal.SIGKILL


def test_it_runs_the_command_line() -> None:
    assert "omniglot-5w1s-maml" in run_innerloop("recipes")
    process = start_innerloop("evaluate", "no/such/run")
    out, error = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "no/such/run" in error
    with pytest.raises(AssertionError, match="no/such/run"):
        run_innerloop("evaluate", "no/such/run")
