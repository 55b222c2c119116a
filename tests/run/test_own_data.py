"""``innerloop train --data`` and ``evaluate``, from a person's own files to a learner that takes such files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import innerloop as il
from innerloop.cli.main import main
from innerloop.data.folder import plan_folder
from innerloop.data.glyphs import draw_glyphs
from innerloop.folders import user_cache

QUICK = ["--iterations", "2", "--val-tasks", "2", "--val-every", "2", "--tasks", "2", "--quiet"]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sketches(tmp_path: Path) -> Path:
    images = 255 - draw_glyphs(range(9), drawings=7)
    for c in range(9):
        (tmp_path / "sketches" / f"c{c}").mkdir(parents=True)
        for i in range(7):
            Image.fromarray(images[c, i].numpy()).save(tmp_path / "sketches" / f"c{c}" / f"{i}.png")
    return tmp_path / "sketches"


def evaluated(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    assert main(["evaluate", *arguments, "--tasks", "4", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_folder_of_images(sketches: Path, capsys: pytest.CaptureFixture) -> None:
    train = ["train", "--data", "sketches", "--filters", "4", *QUICK[:-1]]
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "5 training, 2 validation and 2 test classes" in said
    assert "images: grey, 28 x 28 pixels" in said
    assert "network: conv4(ways=2, channels=1, size=28, filters=4" in said
    first = evaluated(capsys, "runs/sketches-maml")
    assert (first["ways"], first["tasks"], first["dataset"]) == (2, 4, "images")
    sketches.rename(sketches.with_name("moved"))
    assert main(["evaluate", "runs/sketches-maml", "--tasks", "4"]) == 2
    assert "sketches does not exist" in capsys.readouterr().err
    (sketches.with_name("moved") / "a new class").mkdir()
    Image.new("L", (9, 9)).save(sketches.with_name("moved") / "a new class" / "0.png")
    again = evaluated(capsys, "runs/sketches-maml", "--data", "moved")
    assert again["accuracy_per_step"] == first["accuracy_per_step"]
    assert main([*train[:2], "moved", *train[3:], "--out", "runs/sketches-maml", "--resume"]) == 0

    learner = il.Learner.load("runs/sketches-maml")
    moved = sketches.with_name("moved")
    support = [moved / "c0" / "0.png", str(moved / "c1" / "0.png")]
    predictor = learner.adapt(support, ["zero", "one"])
    assert set(predictor.predict([Image.open(moved / "c0" / "1.png")])) <= {"zero", "one"}


def test_what_does_not_fit_is_one_line(sketches: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, message in (
        (["train"], "name a recipe"),
        (["train", "--data", "absent"], "does not exist"),
        (["train", "--data", "sketches", "--queries", "9"], "have fewer than the 10 examples"),
        (["train", "--data", "sketches", "--ways", "4"], "there are 2 classes"),
        (["train", "--data", "sketches", "--network", "conv5"], "choose conv4, resnet12, mlp"),
        (["train", "--data", "sketches", "--network", "mlp"], "fails on inputs"),
        (["train", "--data", "sketches", "--network", "absent:net"], "cannot be imported"),
        (["train", "--data", "sketches", "--scheme", "maml"], "belongs to omniglot"),
        (["train", "sinusoid-maml", "--dataset", "images"], "--data"),
    ):
        assert main([*arguments, *QUICK] if len(arguments) > 1 else arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_small_classes_can_be_left_out(sketches: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = plan_folder(sketches).train[2]
    for i in range(4):
        (sketches / small / f"{i}.png").unlink()
    train = ["train", "--data", "sketches", "--filters", "4", *QUICK]
    assert main(train) == 2
    assert main([*train, "--small-classes", "skip"]) == 0
    assert f"1 of 5 for train have fewer than 6 examples and are left out: {small}" in caplog.text


NET = """
from torch import nn

def small(ways, channels=1, *, width: int = 3):
    return nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16 * channels, width), nn.Linear(width, ways))

def wrong(ways):
    return nn.Flatten()
"""


def test_a_network_of_ones_own(sketches: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("net_of_a_person.py").write_text(NET)
    assert main(["train", "--data", "sketches", "--network", "net_of_a_person:wrong", *QUICK]) == 2
    assert "maps two inputs [1, 28, 28] to [2, 784]" in capsys.readouterr().err
    name = "net_of_a_person:small"
    assert main(["train", "--data", "sketches", "--network", name, "--width", "5", *QUICK]) == 0
    first = evaluated(capsys, "runs/sketches-maml")
    monkeypatch.delitem(sys.modules, "net_of_a_person")
    assert evaluated(capsys, "runs/sketches-maml")["accuracy_per_step"] == first["accuracy_per_step"]
    monkeypatch.delitem(sys.modules, "net_of_a_person")
    (user_cache() / "networks.json").unlink()
    assert main(["evaluate", "runs/sketches-maml", "--tasks", "4"]) == 2  # as a run that came from elsewhere
    assert "never named on this machine" in capsys.readouterr().err
    with pytest.raises(il.CheckpointError, match="never named"):
        il.Learner.load("runs/sketches-maml")


def test_a_damaged_plan(sketches: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--data", "sketches", "--filters", "4", *QUICK]) == 0
    path = Path("runs/sketches-maml/data.json")
    good = json.loads(path.read_text())
    for damage in ({"format": "other"}, {"plan": 3}, {"plan": {"class": "innerloop.data.folder.FolderPlan"}}):
        path.write_text(json.dumps({**good, **damage}))
        assert main(["evaluate", "runs/sketches-maml"]) == 2
        assert "data.json is damaged" in capsys.readouterr().err
    path.unlink()
    assert main(["evaluate", "runs/sketches-maml"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_learners_of_characters_keep_their_preprocessing() -> None:
    prepare = il.data.glyphs("val").preprocessing
    paper = Image.new("L", (28, 28), 255)
    assert torch.equal(prepare([paper]), torch.zeros(1, 1, 28, 28))


def test_a_table_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [f"{m},{t},{'ab'[t % 2]},{100 * m + t}.5" for m in range(6) for t in range(12)]
    (tmp_path / "wear.csv").write_text("machine,heat,kind,wear\n" + "\n".join(rows))
    train = ["train", "--data", "wear.csv", "--task", "machine", *QUICK[:-1]]
    assert main(train) == 0
    said = capsys.readouterr().out
    assert "target: regression of column 'wear'" in said
    assert "features: numbers heat; categories kind" in said
    assert "network: mlp(inputs=3, outputs=1" in said
    assert main(["evaluate", "runs/wear-maml", "--tasks", "4"]) == 0
    assert "in their own units" in capsys.readouterr().out
    learner = il.Learner.load("runs/wear-maml")
    predictor = learner.adapt({"heat": [1, 2, 3], "kind": ["a", "b", "a"]}, [101.5, 102.5, 103.5])
    assert predictor.predict({"heat": [4], "kind": ["b"]}).shape[0] == 1


def test_a_table_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [f"{m},{t % 3},{'xyz'[t % 3]}" for m in range(6) for t in range(36)]
    (tmp_path / "states.csv").write_text("task,heat,state\n" + "\n".join(rows))
    assert main(["train", "--data", "states.csv", *QUICK[:-1]]) == 0
    assert "classes x, y, z" in capsys.readouterr().out
    result = evaluated(capsys, "runs/states-maml")
    assert (result["ways"], result["dataset"]) == (3, "table")
