"""``innerloop cache``: what is listed, and what is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from innerloop.cli.main import main
from innerloop.data._image_cache import locked
from innerloop.data.base import Location
from innerloop.data.folder import plan_folder
from innerloop.folders import user_cache


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two folders of images with their copies, and other files in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("one", "two"):
        for label in "abc":
            (tmp_path / "data" / name / label).mkdir(parents=True)
            Image.new("L", (4, 4)).save(tmp_path / "data" / name / label / "0.png")
        plan_folder(tmp_path / "data" / name, val_share=0.3, test_share=0.3).open("train", Location(progress=False))
    (user_cache() / "omniglot").mkdir()
    (user_cache() / "omniglot" / "omniglot-28-abc.npz").write_bytes(b"12345")
    (user_cache() / "omniglot" / "images_background.zip").write_bytes(b"a download")
    (user_cache() / "networks.json").write_text("[]")
    return tmp_path / "data" / "one", tmp_path / "data" / "two"


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    capsys.readouterr()
    assert main(["cache", "list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_gone_is_removed(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    entries = listed(capsys)
    assert {(entry["what"], entry["source"]) for entry in entries} == {
        *(("images", str(folder)) for folder in folders),
        ("omniglot", None),
    }
    assert all(entry["bytes"] > 3 * 28 * 28 for entry in entries if entry["what"] == "images")
    assert main(["cache", "clear"]) == 0
    assert "removed: 0 entries" in capsys.readouterr().out
    shutil.rmtree(folders[0])
    assert main(["cache", "list"]) == 0
    said = capsys.readouterr().out
    assert f"images of {folders[0]} (gone)" in said
    assert f"images of {folders[1]}\n" in said
    assert main(["cache", "clear", "--dry-run"]) == 0
    assert "would be removed: 1 entries" in capsys.readouterr().out
    assert len(listed(capsys)) == 3
    assert main(["cache", "clear"]) == 0
    assert [entry["source"] for entry in listed(capsys) if entry["what"] == "images"] == [str(folders[1])]


def test_a_source_or_all(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--source", str(folders[0])]) == 0
    assert [entry["source"] for entry in listed(capsys) if entry["what"] == "images"] == [str(folders[1])]
    assert main(["cache", "clear", "--source", str(folders[0].parent)]) == 0
    assert [entry["what"] for entry in listed(capsys)] == ["omniglot"]
    assert main(["cache", "clear", "--all"]) == 0
    assert listed(capsys) == []
    assert (user_cache() / "omniglot" / "images_background.zip").exists()  # a download cannot be made again
    assert (user_cache() / "networks.json").exists()


def test_a_copy_that_is_being_made_is_left(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folders[0])
    (entry,) = [entry for entry in listed(capsys) if entry["gone"]]
    with locked(Path(entry["path"])):
        assert main(["cache", "clear"]) == 0
    said = capsys.readouterr().out
    assert "left: another process is making it" in said
    assert "removed: 0 entries" in said
    assert len(listed(capsys)) == 3


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["cache"], ""),
        (["cache", "empty"], "choose list or clear"),
        (["cache", "clear", "--all", "--source", "."], "--all or --source"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
