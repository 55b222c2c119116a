"""A run's folder: made if need be, and held by one training at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from innerloop.learner.files import CheckpointError

try:
    import fcntl
except ImportError:  # Windows, where two trainings in one folder are not noticed
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = ["RunFolder", "is_left_over"]

LOCK_FILE = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that have no locks."""


class RunFolder:
    """The folder of a run; within ``with``, no other training can have it.

    The operating system holds the lock and lets go of it when the process ends, also when it is killed. A thread that
    holds a folder may enter it again.

    Args:
        path: the folder, which is made if need be.

    Raises:
        CheckpointError: there is a file of this name, or another training has the folder.
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
            for path in self.path.rglob(".*.part"):  # of a run that was killed while it wrote
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
        """See whether the folder is still there.

        Raises:
            FileNotFoundError: it was removed.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder was removed while the run was training", str(self.path))


def is_left_over(path: Path) -> bool:
    """Whether a file in a run's folder is nothing but what a killed run leaves behind.

    Example:
        >>> is_left_over(Path("run/.config.json.123.ab.part")), is_left_over(Path("run/config.json"))
        (True, False)
    """
    return path.name == LOCK_FILE or (path.name.startswith(".") and path.name.endswith(".part"))


_guard = threading.Lock()
_held: dict[Path, tuple[int, int]] = {}
"""Which thread of this process holds a folder, and how many times."""


def _locked(folder: Path) -> int | None:
    """The open lock file of a folder, which holds this process's number; None where the file system has no locks."""
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
        os.close(lock)  # the one who had it has just removed it
    os.ftruncate(lock, 0)
    with contextlib.suppress(OSError):  # a full disk; the number is only for the message
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
