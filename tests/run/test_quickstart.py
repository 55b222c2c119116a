"""The quickstart on a small scale: every part of it runs, only the schedules are shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from innerloop.cli.main import main
from innerloop.data import omniglot as omniglot_function
from innerloop.recipes import quickstart


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = quickstart.quickstart_configs
    tiny = {"iterations": 2, "val_every": 2, "val_tasks": 2, "test_tasks": 2, "filters": 4, "test_steps": 1}
    monkeypatch.setattr(
        quickstart,
        "quickstart_configs",
        lambda dataset: {name: config.override(**tiny) for name, config in configs(dataset).items()},
    )


@pytest.mark.usefixtures("short")
def test_without_data_or_network_it_uses_glyphs_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = __import__("sys").modules[omniglot_function.__module__]
    monkeypatch.setattr(module, "_ADDRESS", "http://127.0.0.1:9")
    out = tmp_path / "out"
    assert main(["quickstart", "--data-dir", str(tmp_path / "none"), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "cannot be downloaded" in printed.err
    assert "GLYPHS" in printed.err
    assert "http" not in printed.err
    assert "broke off" not in printed.err
    rows = [line.split() for line in printed.out.splitlines() if line.startswith(("maml", "reptile"))]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        (method, "glyphs", norm) for method in ("maml", "reptile") for norm in ("transductive", "inductive")
    ]
    assert (out / "predictions.png").read_bytes().startswith(b"\x89PNG")
    # Once more over what it left, which it may replace.
    assert main(["quickstart", "--data-dir", str(tmp_path / "none"), "--out", str(out)]) == 0


@pytest.mark.usefixtures("short")
def test_with_omniglot_it_uses_it(omniglot_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--data-dir", str(omniglot_root), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "Omniglot found" in printed.err
    assert printed.out.count("omniglot 5-way 1-shot") == 4


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "not made by an earlier quickstart" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
