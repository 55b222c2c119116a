"""``RunFolder``: the folder of a run. Only one training at a time can use it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from innerloop.learner.files import CheckpointError

try:
    import fcntl
except ImportError:  # on Windows, two trainings in one folder are not noticed
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = ["RunFolder", "is_left_over"]

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""The errors of file systems that have no locks."""


class RunFolder:
    """The folder of a run. Inside ``with``, no other training can use it.

    The operating system holds the lock. It releases the lock when the process ends, even if the process is killed. A
    thread that holds a folder may enter it again.

    Args:
        path: the folder. It is made if it does not exist.

    Raises:
        CheckpointError: there is a file of this name, or another training uses the folder.
        OSError: the folder cannot be made or written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent, RunFolder(Path(parent) / "run") as folder:
        ...     folder.check()
        ...     folder.path.is_dir()
        True
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise CheckpointError(f"{self.path} is a file, and a run needs a folder; choose another") from None
        place = self.path.resolve()
        with _guard:
            owner, depth = _held.get(place, (threading.get_ident(), 0))
            if owner != threading.get_ident():
                raise _in_use(self.path, os.getpid())
            if not depth and fcntl is not None:
                self._lock = _locked(self.path)
            _held[place] = (owner, depth + 1)
        if not depth:
            for path in self.path.rglob(".*.part"):  # left by a run that was killed while writing
                path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        place = self.path.resolve()
        with _guard:
            owner, depth = _held.pop(place)
            if depth > 1:
                _held[place] = (owner, depth - 1)
            if self._lock is not None:
                if _is_at(self._lock, self.path / LOCK_FILE):
                    with contextlib.suppress(OSError):
                        (self.path / LOCK_FILE).unlink()
                os.close(self._lock)
                self._lock = None

    def check(self) -> None:
        """Check that the folder still exists.

        Raises:
            FileNotFoundError: it was removed.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder was removed while the run was training", str(self.path))


def is_left_over(path: Path) -> bool:
    """Whether a file in a run's folder is only a leftover of a killed run.

    Example:
        >>> is_left_over(Path("run/.config.json.123.ab.part")), is_left_over(Path("run/config.json"))
        (True, False)
    """
    return path.name == LOCK_FILE or (path.name.startswith(".") and path.name.endswith(".part"))


_guard = threading.Lock()
_held: dict[Path, tuple[int, int]] = {}
"""For each folder that this process holds: the thread that holds it, and how many times it entered."""


def _locked(folder: Path) -> int | None:
    """Lock a folder. Return the open lock file, which holds this process's number; None if there are no locks here."""
    path = folder / LOCK_FILE
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(lock, 20).decode(errors="replace")
            os.close(lock)
            if error.errno in NO_LOCKS:
                return None
            if isinstance(error, BlockingIOError):
                raise _in_use(folder, holder) from None
            raise
        if _is_at(lock, path):
            break
        os.close(lock)  # its holder has just removed it
    os.ftruncate(lock, 0)
    with contextlib.suppress(OSError):  # the disk may be full, and the number is only for a message
        os.write(lock, str(os.getpid()).encode())
    return lock


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _in_use(folder: Path, process: int | str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is in use by another training (process {process or 'unknown'}); wait for it, stop it, or choose "
        "another folder"
    )
