"""Run the quick tests on the lowest versions that pyproject.toml claims, and on the newest Python.

    python scripts/versions.py [NAME ...]

- ``lowest``: Python 3.11 with the lower bound of every dependency.
- ``newest``: Python 3.13 with the versions of constraints.txt.

Each has an environment of its own under build/versions, which is made if it does not exist. If a version is not
available here (no such Python, no room, a download that fails or takes too long), the last lines name it with the
reason. The exit status is 1 if tests failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "versions"
ROOM = 10 * 2**30
"""The bytes that must be free. From the usual index, PyTorch comes with CUDA."""
PATIENCE = 420
"""The seconds that an installation may take."""
TESTS = ["src", "tests/unit"]
WORKERS = ["-n", "logical", "--dist", "loadgroup"]
EXTRAS = ["cli", "demo", "export", "hub", "images", "plots", "sklearn", "tables", "tensorboard"]
"""The optional packages that are installed as well."""
TOOLS = ["pytest", "pytest-xdist", "hypothesis"]


class NotToBeHadError(Exception):
    """A version cannot be run here. The message is the reason."""


@dataclass(frozen=True)
class Environment:
    """A Python and the versions of its packages.

    Attributes:
        python: the version of Python, ``3.11``.
        pins: the versions of packages, as pip's constraints.
    """

    python: str
    pins: list[str]


def environments() -> dict[str, Environment]:
    """The environments by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    extras = [one for name in EXTRAS for one in project["optional-dependencies"][name]]
    lowest = [one.partition(",")[0].replace(">=", "==") for one in [*project["dependencies"], *extras]]
    tools = [pin for pin in pinned if pin.partition("==")[0] in TOOLS]
    return {
        "lowest": Environment(project["requires-python"].removeprefix(">="), [*lowest, *tools]),
        "newest": Environment(max(_pythons(project["classifiers"]), key=_number), pinned),
    }


def _pythons(classifiers: list[str]) -> list[str]:
    return [match[1] for text in classifiers if (match := re.search(r":: Python :: (3\.\d+)$", text))]


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def interpreter(version: str) -> str:
    """The path of a Python of this version.

    Raises:
        NotToBeHadError: there is none.
    """
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, f"python{version}", *map(str, sorted(installed.glob(f"{version}.*/bin/python")))]
    for candidate in candidates:
        code = "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    raise NotToBeHadError(f"there is no Python {version}")


def made(name: str, environment: Environment) -> Path:
    """The Python of an environment. The environment is made if it does not exist.

    Raises:
        NotToBeHadError: it cannot be made here.
    """
    folder = FOLDER / name
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    wanted = "\n".join([environment.python, *environment.pins])
    if ready.is_file() and ready.read_text() == wanted:
        return python
    base = interpreter(environment.python)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if shutil.disk_usage(folder).free < ROOM:
        raise NotToBeHadError(f"less than {ROOM >> 30} GiB are free for its packages")
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    pins = folder / "pins.txt"
    pins.write_text("\n".join(environment.pins) + "\n")
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        str(pins),
        "-e",
        f"{ROOT}[{','.join(EXTRAS)}]",
        *TOOLS,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise NotToBeHadError(f"its packages did not arrive within {PATIENCE} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise NotToBeHadError(f"its packages cannot be installed: {said[0]}")
    ready.write_text(wanted)
    return python


def tested(name: str, environment: Environment) -> bool:
    """Whether the tests pass.

    Raises:
        NotToBeHadError: they cannot be run here.
    """
    python = made(name, environment)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *WORKERS, *TESTS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main(names: list[str]) -> int:
    """Run the tests in the named environments, or in all, and print the results."""
    known = environments()
    if unknown := set(names) - known.keys():
        raise SystemExit(f"no environment {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    results = {}
    for name in names or known:
        try:
            results[name] = "passed" if tested(name, known[name]) else "FAILED"
        except NotToBeHadError as reason:
            results[name] = f"NOT RUN: {reason}"
    print("\nversions:")
    for name, result in results.items():
        torch = next(pin for pin in known[name].pins if pin.startswith("torch=="))
        print(f"  {name} (Python {known[name].python}, {torch}): {result}")
    return int("FAILED" in results.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
