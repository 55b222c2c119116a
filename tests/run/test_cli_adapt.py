"""``innerloop adapt`` and ``innerloop inspect``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import innerloop as il
from innerloop.cli.main import main

Image = pytest.importorskip("PIL.Image")


def draw(path: Path, kind: str, seed: int) -> None:
    """A picture with a bar, upright or lying, in the middle third."""
    pixels = np.full((40, 40), 255, dtype=np.uint8)
    at = 14 + seed % 12
    pixels[(slice(None), slice(at, at + 4)) if kind == "upright" else (slice(at, at + 4), slice(None))] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    spec = {"name": "pixels", "arguments": {"ways": 5}}
    prepare = il.data.ImagePreprocessing(size=(28, 28), channels=1, invert=True)
    learner = il.Learner(il.nets.pixels(5), il.nearest_neighbour(), net_spec=spec, preprocessing=prepare)
    learner.save(tmp_path / "learner")
    for kind in ("upright", "lying"):
        for seed in (0, 5, 9):
            draw(tmp_path / "support" / kind / f"{seed}.png", kind, seed)
        draw(tmp_path / "query" / kind / "a.png", kind, 3)
    draw(tmp_path / "query" / "unknown.png", "lying", 7)
    return tmp_path / "learner", tmp_path / "support", tmp_path / "query"


def test_adapt_labels_files(places: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    learner, support, query = places
    table, listed = query.parent / "table.csv", query.parent / "table.json"
    arguments = ["adapt", str(learner), "--support", str(support), "--query", str(query)]
    assert main([*arguments, "--csv", str(table), "--json-file", str(listed), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert [row["file"] for row in found] == ["lying/a.png", "unknown.png", "upright/a.png"]
    assert [row["prediction"] for row in found] == ["lying", "lying", "upright"]
    assert [row["truth"] for row in found] == ["lying", None, "upright"]
    assert all(0.5 <= row["probability"] <= 1 for row in found)
    assert lines[0].split() == ["file", "prediction", "probability"]
    assert "right: 2 of the 2 files" in lines[-2]
    assert json.loads(listed.read_text()) == found
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["prediction"] for row in rows] == ["lying", "lying", "upright"]
    assert [float(row["probability"]) for row in rows] == [row["probability"] for row in found]


@pytest.mark.parametrize("case", ["no folder", "no images", "loose", "broken", "too many", "csv"])
def test_what_cannot_be_adapted_to_is_one_line(
    case: str, places: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    learner, support, query = places
    arguments, said = {"--support": str(support), "--query": str(query)}, ""
    if case == "no folder":
        arguments["--query"], said = "no/such", "--query is no/such, which is no folder"
    if case == "no images":
        (query.parent / "empty").mkdir()
        arguments["--support"], said = str(query.parent / "empty"), "holds no images"
    if case == "loose":
        draw(support / "loose.png", "lying", 0)
        said = "outside class folders: loose.png"
    if case == "broken":
        (query / "bad.png").write_bytes(b"no picture")
        said = "bad.png"
    if case == "too many":
        spec = {"name": "conv4", "arguments": {"ways": 2, "filters": 2}}
        prepare = il.data.ImagePreprocessing(size=(28, 28), channels=1)
        il.Learner(il.nets.conv4(2, filters=2), il.maml(), net_spec=spec, preprocessing=prepare).save(learner)
        draw(support / "slanted" / "a.png", "lying", 0)
        said = "the task has 3 classes, and this learner was trained for 2 ways"
    if case == "csv":
        arguments["--csv"], said = "no/such/table.csv", "--csv is no/such/table.csv, whose folder does not exist"
    assert main(["adapt", str(learner), *(word for pair in arguments.items() for word in pair)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert said in printed.err


def test_inspect_says_what_a_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    settings = ["--iterations", "2", "--val-every", "2", "--val-tasks", "2", "--quiet"]
    assert main(["train", "sinusoid-maml", *settings, "--out", run]) == 0
    assert main(["inspect", run]) == 0
    assert f"none yet: innerloop evaluate {run}" in capsys.readouterr().out
    assert main(["evaluate", run, "--tasks", "3"]) == 0
    capsys.readouterr()
    assert main(["inspect", run, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"] == "sinusoid-maml"
    assert facts["network"] == "mlp, 1,761 parameters"
    assert facts["trained"] == "2 iterations"
    assert facts["best validation"].startswith("loss ")
    assert "on 3 test tasks (transductive)" in facts["evaluation"]
    assert "SGD(lr=0.01)" in facts["method"]
    assert "learner.safetensors (" in facts["files"]


def test_inspect_takes_the_folder_of_a_learner(
    places: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(places[0])]) == 0
    assert "ImagePreprocessing(size=(28, 28), channels=1, invert=True)" in capsys.readouterr().out
    assert main(["inspect", str(places[1])]) == 2
    assert "there is no learner" in capsys.readouterr().err
