"""The files about the project: workflows call what exists, and versions and names agree."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def read(path: Path) -> dict:
    """A workflow. YAML takes the key ``on`` for a truth value."""
    found = yaml.safe_load(path.read_text())
    return {("on" if key is True else key): value for key, value in found.items()}


def problems(workflow: dict) -> list[str]:
    """What is wrong with a workflow."""
    found = [f"no {key}" for key in ("name", "on", "jobs", "permissions") if key not in workflow]
    for name, job in workflow.get("jobs", {}).items():
        found += [f"{name}: needs {one}" for one in [job.get("needs", [])] if one and one not in workflow["jobs"]]
        if "runs-on" not in job or not job.get("steps"):
            found.append(f"{name}: no machine or no steps")
        for step in job.get("steps", []):
            if "uses" in step:
                if not re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"]):
                    found.append(f"{name}: {step['uses']} is not an action at a version")
            elif wrong := unknown(step.get("run", "")):
                found.append(f"{name}: {wrong}")
    return found


def unknown(command: str) -> str:
    """The part of a command that this repository does not have; empty if it has all."""
    words = shlex.split(command)
    match words:
        case ["make", target]:
            return "" if target in TARGETS else f"make {target}"
        case ["python", "-m", "pip", "install", *packages]:
            files = [word for word in packages if word.endswith(".txt")]
            return "" if files and all((ROOT / file).exists() for file in files) else command
        case ["python", script, *options]:
            if not (ROOT / script).exists():
                return script
            text = (ROOT / script).read_text()
            return " ".join(word for word in options if word.startswith("--") and f'"{word}"' not in text)
    return command or "neither uses nor run"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_exists(path: Path) -> None:
    assert problems(read(path)) == []


def test_what_does_not_exist_is_noticed() -> None:
    job = {"runs-on": "x", "needs": "b", "steps": [{"run": "make nothing"}, {"uses": "a/b"}, {"run": "python no.py"}]}
    steps = [{"run": "python scripts/check_package.py --soiled"}, {}]
    wrong = problems({"name": "n", "jobs": {"a": job, "c": {"runs-on": "x", "steps": steps}}})
    assert wrong == [
        *("no on", "no permissions", "a: needs b", "a: make nothing"),
        *("a: a/b is not an action at a version", "a: no.py", "c: --soiled", "c: neither uses nor run"),
    ]


def test_only_publishing_may_publish() -> None:
    release = read(ROOT / ".github" / "workflows" / "release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert release["permissions"] == {"contents": "read"}
    rights = {name: job.get("permissions") for name, job in release["jobs"].items()}
    assert rights == {"build": None, "publish": {"id-token": "write"}}
    assert release["jobs"]["publish"]["needs"] == "build"


def test_people_and_workflows_run_the_same_checks() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    runs = [step["run"] for job in read(WORKFLOWS[0])["jobs"].values() for step in job["steps"] if "run" in step]
    assert {"make check", "make docs", "make package", "make test"} == set(runs)
    assert all(f"{command}\n" in ci for command in runs)
    assert "scripts/check_package.py" in (ROOT / "Makefile").read_text()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_the_changelog_keeps_its_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture
def package() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_package", ROOT / "scripts" / "check_package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tag_names_the_version(package: ModuleType) -> None:
    package.check_versions(None)
    package.check_versions(f"v{PROJECT['version']}")
    with pytest.raises(SystemExit, match=r"the tag is v9\.9\.9, but the version in pyproject\.toml is"):
        package.check_versions("v9.9.9")
