"""Recipes on published data sets, from files to an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_files import cifar

from innerloop.cli.main import main

SMALL = ["--iterations", "2", "--val-tasks", "2", "--val-every", "2", "--tasks", "2", "--filters", "4"]
SMALL += ["--queries", "1", "--inner-steps", "1", "--test-steps", "1"]


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_recipe_is_trained_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar(tmp_path / "data", packed=True)
    train = ["train", "fc100-5w1s-maml", *SMALL]
    assert main(train) == 2
    assert "the folder of FC100 is not given: name it with --data-dir" in capsys.readouterr().err
    assert main([*train, "--data-dir", "data"]) == 0
    said = capsys.readouterr().out
    assert "FC100 in" in said
    assert "60 training, 20 validation and 20 test classes, 120 / 40 / 40 images" in said
    assert "conv4(ways=5, channels=3, size=32, filters=4, downsample='maxpool'" in said
    assert main(["evaluate", "runs/fc100-5w1s-maml", "--tasks", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["ways"], result["dataset"], result["split"]) == (5, "fc100", "test")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert main(["evaluate", "runs/fc100-5w1s-maml", "--tasks", "4"]) == 2
    assert "--data-dir" in capsys.readouterr().err
    assert main(["evaluate", "runs/fc100-5w1s-maml", "--tasks", "4", "--data-dir", "moved"]) == 0
    (tmp_path / "shared").mkdir()
    (tmp_path / "moved").rename(tmp_path / "shared" / "fc100")
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "shared"))
    assert main(["evaluate", "runs/fc100-5w1s-maml", "--tasks", "4"]) == 0
    assert main(["train", "fc100-5w1s-maml", *SMALL, "--iterations", "4", "--resume"]) == 0
