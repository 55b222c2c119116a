"""The test suite itself: where tests are, how they are run, and that data which must be there are missed."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from processes import start_program

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
TIERS = {"unit", "contract", "run", "hostile"}


def test_every_test_is_in_a_tier() -> None:
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    assert {path.parts[0] for path in files} <= TIERS
    bare = [path.name for path in files if not (TESTS / path).with_name("__init__.py").exists()]
    assert len(set(bare)) == len(bare), "modules of tests that are in no package are imported by their bare names"


def test_people_and_ci_run_the_same_command() -> None:
    assert "make test\n" in (ROOT / ".ci" / "run").read_text()
    assert "make test " in (ROOT / "README.md").read_text()
    assert "-m pytest -n logical --dist loadgroup\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(("required", "outcome"), [("1", "1 error"), ("", "1 skipped")])
def test_required_data_are_missed_in_a_worker_too(
    required: str, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "run_pytest.py").write_text("import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))\n")
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path))
    monkeypatch.setenv("INNERLOOP_REQUIRE_DATA", required)
    monkeypatch.chdir(ROOT)
    one_test = [str(TESTS / "run" / "test_quickstart.py"), "-k", "with_omniglot"]
    process = start_program(tmp_path / "run_pytest.py", "-q", "-p", "no:cacheprovider", "-n", "1", *one_test)
    out, error = process.communicate()
    assert outcome in out, out + error
    assert (process.returncode != 0) == bool(required)


@pytest.fixture
def versions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("versions", ROOT / "scripts" / "versions.py")
    module = sys.modules["versions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_claimed_is_what_is_run(versions: ModuleType) -> None:
    lowest, newest = versions.environments()["lowest"], versions.environments()["newest"]
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={lowest.python}"' in text
    project = tomllib.loads(text)["project"]
    optional = project["optional-dependencies"]
    extras = optional["all"][0].removeprefix("innerloop[").removesuffix("]").split(",")
    assert extras == versions.EXTRAS
    claimed = {}
    for requirement in [*project["dependencies"], *(one for name in extras for one in optional[name])]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<[\d.]+)?", requirement).groups()
        claimed[name] = bound
    assert claimed["torch"] == "2.6"
    assert {f"{name}=={version}" for name, version in claimed.items()} <= set(lowest.pins)
    assert f"Python :: {newest.python}" in text
    assert newest.pins == [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]


def test_what_is_not_to_be_had_is_named(versions: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    there = versions.environments()["lowest"]
    versions.environments = lambda: {"future": versions.Environment("3.99", there.pins), "present": there}
    versions.tested, tested = lambda name, one: tested(name, one) if name == "future" else True, versions.tested
    assert versions.main([]) == 0
    said = capsys.readouterr().out
    assert "future (Python 3.99, torch==2.6): NOT RUN: there is no Python 3.99\n" in said
    assert "present (Python 3.11, torch==2.6): passed\n" in said


def test_a_version_on_which_tests_fail_is_an_error(versions: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    versions.tested = lambda name, environment: name != "lowest"
    assert versions.main([]) == 1
    assert "torch==2.6): FAILED\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no environment middle; there are lowest, newest"):
        versions.main(["middle"])
