"""Start another process quickly: it is forked from one that has imported innerloop already.

Python needs seconds to import PyTorch. Each worker of the tests therefore keeps one server (``multiprocessing``'s
forkserver), which imports the command line once, runs nothing and has no threads, and which is forked for every process
that a test asks for. Such a process has its own environment, folder, output and exit status, and gets signals as any
other. It is no new start of Python, though: a test of what is read while PyTorch is imported (ATEN_CPU_CAPABILITY), of
what is imported at all, or of the command itself starts ``sys.executable``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

_server = multiprocessing.get_context("forkserver")
# The command line, and what trainings import while they run.
_imported = ["torch._dynamo", "torch.utils.tensorboard", "matplotlib.figure", "matplotlib.backends.backend_agg"]
_server.set_forkserver_preload(["innerloop.cli.main", *_imported])


class Started:
    """A process that runs, with the part of the interface of ``subprocess.Popen`` that the tests need.

    It leads a process group of its own. It is stopped with the tests, should it still run then, unless it may start
    processes itself: such a one is not stopped.
    """

    def __init__(self, program: Callable[[], object], argv: list[str], *, parent: bool = False) -> None:
        folder = Path(tempfile.mkdtemp(prefix="innerloop-tests-"))
        weakref.finalize(self, shutil.rmtree, folder)
        self._outputs = [folder / "out", folder / "error"]
        for path in self._outputs:
            path.touch()
        arguments = (program, argv, dict(os.environ), str(Path.cwd()), *map(str, self._outputs))
        self._process = _server.Process(target=_run, args=arguments, daemon=not parent)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for the number of a signal; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same as :attr:`returncode`."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        """Wait for the end, and return the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"the process still ran after {timeout} s; it said {self.said()}")
        return self.returncode

    def said(self) -> tuple[str, str]:
        """What the process has written to its standard output and to its standard error up to now."""
        out, error = (path.read_text() for path in self._outputs)
        return out, error

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end, and return what the process wrote to its standard output and to its standard error."""
        self.wait(timeout)
        return self.said()

    def first_line(self, timeout: float = 300) -> str:
        """Wait for the first line of the standard output, and return it."""
        deadline = time.monotonic() + timeout
        while "\n" not in self.said()[0]:
            assert self.returncode is None, f"the process ended and said {self.said()}"
            assert time.monotonic() < deadline, "the process says nothing"
            time.sleep(0.005)
        return self.said()[0].splitlines(keepends=True)[0]


def start_innerloop(*arguments: str, parent: bool = False) -> Started:
    """Start ``innerloop ARGUMENTS`` with this process's present environment and folder.

    ``parent`` is for a command that starts processes with ``multiprocessing``.
    """
    return Started(_innerloop, ["innerloop", *arguments], parent=parent)


def run_innerloop(*arguments: str) -> str:
    """Run ``innerloop ARGUMENTS`` to a good end. Returns what it wrote to its standard output."""
    process = start_innerloop(*arguments)
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


def start_program(file: Path, *arguments: str) -> Started:
    """Start the program in a file, as ``python FILE ARGUMENTS`` would."""
    return Started(_program, [str(file), *arguments])


def _run(program: Callable[[], object], argv: list[str], environment: dict[str, str], folder: str, *out: str) -> None:
    """Become the process that was asked for. This runs in the forked process."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background of a shell ignore it
    for number, path in enumerate(out, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = argv
    sys.exit(program())


def _innerloop() -> object:
    from innerloop.__main__ import main

    return main()


def _program() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")
