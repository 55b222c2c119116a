"""Build the package, install it into a new environment, and use it away from the repository.

    python scripts/check_package.py [--clean] [--tag TAG] [--keep FOLDER]

The wheel is built from the source distribution, so that both are checked. Both must hold every file that the
repository has in src/innerloop. The new environment has the wheel; with --clean also its dependencies from the package
index, which takes minutes, otherwise those of the Python that runs this script. ``--tag v1.2.3`` must name the version
of the package, and that of CITATION.cff. With ``--keep``, what was checked is copied to a folder, to be published.
Needs the package ``build``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from sysconfig import get_path

ROOT = Path(__file__).resolve().parents[1]

SMOKE = """
import sys
from importlib.metadata import version
from pathlib import Path

import torch, innerloop as il
from innerloop.engine.kernels import why_no_kernels

assert Path(il.__file__).is_relative_to(sys.prefix), il.__file__
print("innerloop", version("innerloop"), "with torch", torch.__version__, "kernels:", why_no_kernels() or "built")
tasks = il.data.glyphs("test").episodes(ways=3, shots=1, queries=2, tasks=2)
episode = tasks(torch.Generator().manual_seed(0))
net = il.nets.conv4(ways=3, filters=4)
for name in ("maml", "reptile", "protomaml"):
    grads, _ = il.meta_gradient(net, getattr(il, name)(), episode)
    assert all(bool(grad.isfinite().all()) for grad in grads.values()), name
learner = il.Learner(net, il.maml(), net_spec={"name": "conv4", "arguments": {"ways": 3, "filters": 4}})
learner.save("learner")
loaded = il.Learner.load("learner").adapt(episode.support_x[0], episode.support_y[0])
assert torch.equal(loaded.predict(episode.query_x[0]), learner.adapt(
    episode.support_x[0], episode.support_y[0]).predict(episode.query_x[0]))
"""

COMMANDS = [
    ["innerloop", "--version"],
    ["innerloop", "train", "sinusoid-maml", "--iterations", "20", "--val-every", "10", "--out", "run", "--quiet"],
    ["innerloop", "evaluate", "run", "--tasks", "10"],
]


def main(arguments: list[str]) -> None:
    """Build, install and use the package. Raise if something is not right."""
    parser = argparse.ArgumentParser(description="Build the package, install it elsewhere, and use it.")
    parser.add_argument("--clean", action="store_true", help="install the dependencies from the package index")
    parser.add_argument("--tag", help="the tag of a release, v and the version")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy what was checked to this folder")
    given = parser.parse_args(arguments)
    check_versions(given.tag)
    with tempfile.TemporaryDirectory(prefix="innerloop-package-") as name:
        folder = Path(name)
        sdist, wheel = built(folder / "dist")
        check_files(sdist, wheel)
        used(installed(wheel, folder / "environment", clean=given.clean), folder / "elsewhere")
        if given.keep is not None:
            given.keep.mkdir(parents=True, exist_ok=True)
            for distribution in (sdist, wheel):
                shutil.copy(distribution, given.keep)
    print(f"{sdist.name} and {wheel.name}: built, installed and used")


def check_versions(tag: str | None) -> None:
    """Raise if the versions of the package, of its citation and of the tag are not the same."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    if cited is None or cited[1] != version:
        raise SystemExit(f"CITATION.cff does not have the version {version} of pyproject.toml: set it there")
    if tag is not None and tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, but the version in pyproject.toml is {version}: expected v{version}")


def built(folder: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is made from it."""
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], quiet=True)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def check_files(sdist: Path, wheel: Path) -> None:
    """Raise if a distribution lacks a file of the package."""
    listed = run(["git", "-C", str(ROOT), "ls-files", "src/innerloop"], quiet=True).split()
    with tarfile.open(sdist) as archive:
        names = {member.partition("/")[2] for member in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        names_of_wheel = {f"src/{member}" for member in archive.namelist()}
    for distribution, held in ((sdist, names), (wheel, names_of_wheel)):
        if missing := sorted(set(listed) - held):
            raise SystemExit(f"{distribution.name} lacks {', '.join(missing)}: see package-data in pyproject.toml")


def installed(wheel: Path, folder: Path, *, clean: bool) -> Path:
    """A new environment with the wheel. Return the folder of its programs."""
    run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    what = [f"{wheel}[cli]"] if clean else ["--no-deps", str(wheel)]
    run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what])
    if not clean:
        # A path in a .pth file is searched after the environment's own packages, and its .pth files are not read.
        packages = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], quiet=True)
        (Path(packages.strip()) / "dependencies.pth").write_text(f"{get_path('purelib')}\n")
    return python.parent


def used(programs: Path, folder: Path) -> None:
    """Run the smoke test in a folder of its own."""
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    for command in ([str(programs / "python"), "-c", SMOKE], *COMMANDS):
        run(command, cwd=folder, env=environment)


def run(command: list[str], *, quiet: bool = False, **options: object) -> str:
    """Run a command. Raise with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command[:6])}\n{done.stdout}{done.stderr}")
    if not quiet:
        print(done.stdout, end="", flush=True)
    return str(done.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
