"""A folder of images by class: classes, splits, broken files, and the cache."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.data import DataError, from_folder
from innerloop.data.base import Location
from innerloop.data.folder import FolderPlan, plan_folder
from innerloop.folders import user_cache
from innerloop.parts import describe, restore

QUIET = Location(progress=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder_of(root: Path, names: list[str], images: int = 3) -> Path:
    """Class i has images of the level 10 i + j."""
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for j in range(images):
            Image.new("L", (5 + j, 4), 10 * i + j).save(root / name / f"{j}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "data", ["b", "a/x", "a/y", "c", "d"])


def levels(data, row: int) -> list[int]:  # noqa: ANN001
    x = data.inputs.at(data.members[row])
    return [round(255 * float(image.mean())) for image in x]


def test_every_folder_with_images_is_a_class(root: Path) -> None:
    (root / "notes.txt").write_text("")
    (root / ".hidden").mkdir()
    Image.new("L", (4, 4)).save(root / ".hidden" / "0.png")
    plan = plan_folder(root, image_size=4)
    assert sorted((*plan.train, *plan.val, *plan.test)) == ["a/x", "a/y", "b", "c", "d"]
    assert [len(plan.train), len(plan.val), len(plan.test)] == [3, 1, 1]
    assert restore(json.loads(json.dumps(describe(plan)))) == plan
    for split in ("train", "val", "test"):
        data = plan.open(split, QUIET)
        assert data.names == getattr(plan, split)
        for row, name in enumerate(data.names):
            first = 10 * ["b", "a/x", "a/y", "c", "d"].index(name)
            assert levels(data, row) == [first, first + 1, first + 2]
    assert plan_folder(root, split_seed=1).test != plan_folder(root, split_seed=0).test


def test_a_plan_is_kept_when_the_folder_changes(root: Path) -> None:
    plan = plan_folder(root)
    folder_of(root, ["new", "aa"])
    assert plan.open("train", QUIET).names == plan.train
    (root / plan.test[0] / "0.png").unlink()
    assert plan.open("test", QUIET).members[0].shape == (2,)
    for file in (root / plan.test[0]).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=f"lacks 1 of the 1 test classes .*: {plan.test[0]}"):
        plan.open("test", QUIET)
    moved = root.with_name("moved")
    root.rename(moved)
    with pytest.raises(DataError, match="does not exist"):
        plan.open("train", QUIET)
    assert plan.moved(moved).open("train", QUIET).names == plan.train


@pytest.mark.parametrize("fields", [{"root": 3}, {"train": (1,)}, {"broken": "maybe"}, {"preprocessing": "none"}])
def test_a_damaged_plan_is_refused(root: Path, fields: dict) -> None:
    described = describe(plan_folder(root))
    described["fields"].update(fields)
    with pytest.raises(ValueError, match=next(iter(fields))):
        restore(described)


def test_folders_of_splits(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", ["train/a", "train/b", "Val/c", "test/d/e"])
    plan = plan_folder(root)
    assert (plan.train, plan.val, plan.test) == (("train/a", "train/b"), ("Val/c",), ("test/d/e",))
    assert plan.held_out
    pooled = plan_folder(root, split_by="classes", val_share=0.25, test_share=0.25)
    assert sorted((*pooled.train, *pooled.val, *pooled.test)) == ["a", "b", "c", "d/e"]
    assert pooled.open("test", QUIET).names == pooled.test
    folder_of(root, ["test/a"])
    with pytest.raises(DataError, match="1 classes are in both train and test: a"):
        plan_folder(root)
    pooled = plan_folder(root, split_by="classes", val_share=0.25, test_share=0.25)
    assert sum(len(rows) for rows in pooled.open("train", QUIET).members) in (6, 9)
    other = folder_of(tmp_path / "other", ["train/a", "test/b"])
    assert not plan_folder(other).held_out
    with pytest.raises(DataError, match="no split 'val'"):
        plan_folder(other).open("val", QUIET)
    with pytest.raises(DataError, match="no folders train and test"):
        plan_folder(folder_of(tmp_path / "plain", ["a", "b", "c"]), split_by="folders")


def test_size_and_colour_follow_from_the_images(tmp_path: Path, root: Path) -> None:
    assert plan_folder(root).preprocessing.shape == (1, 28, 28)
    assert plan_folder(root, channels=3, image_size=10).preprocessing.shape == (3, 10, 10)
    for name in "abcde":
        (tmp_path / "photographs" / name).mkdir(parents=True)
        image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "photographs" / name / "0.JPG")
    assert plan_folder(tmp_path / "photographs").preprocessing.shape == (3, 84, 84)


def test_folders_that_hold_no_classes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "file.png")
    for path, message in (("absent", "does not exist"), ("file.png", "is a file"), ("empty", "no images")):
        with pytest.raises(DataError, match=message):
            plan_folder(tmp_path / path)
    loose = tmp_path / "loose"
    loose.mkdir()
    Image.new("L", (4, 4)).save(loose / "0.png")
    with pytest.raises(DataError, match="1 images, but none in a folder of its class"):
        plan_folder(loose)
    with pytest.raises(DataError, match="cannot be split"):
        plan_folder(folder_of(tmp_path / "two", ["a", "b"]))


def test_broken_files_are_listed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "b" / "1.png").write_text("no image")
    whole = (root / "c" / "2.png").read_bytes()
    (root / "c" / "2.png").write_bytes(whole[:40])
    plan = plan_folder(root, image_size=4)
    with pytest.raises(DataError, match=r"2 of 15 images are broken: .*b/1.png is not an image.*c/2.png"):
        plan.open("train", QUIET)
    skipping = plan_folder(root, image_size=4, broken="skip")
    with caplog.at_level(logging.WARNING):
        opened = {name: rows for split in ("train", "val", "test") for name, rows in read(skipping, split)}
    assert {name: len(rows) for name, rows in opened.items()} == {"a/x": 3, "a/y": 3, "b": 2, "c": 2, "d": 3}
    assert opened["b"] == [0, 2]
    assert opened["d"] == [40, 41, 42]
    assert "2 of 15 images are broken and left out" in caplog.text


def read(plan: FolderPlan, split: str) -> list[tuple[str, list[int]]]:
    data = plan.open(split, QUIET)
    return [(name, levels(data, row)) for row, name in enumerate(data.names)]


def copies() -> list[Path]:
    return sorted(user_cache().glob("images/*/*/pixels.bin"))


def test_the_cache_is_used_until_a_file_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_folder(root, image_size=4)
    before = read(plan, "train")
    (copy,) = copies()
    with monkeypatch.context() as patched:
        patched.setattr("innerloop.data._image_cache._build", None)  # a call of it would fail
        assert read(plan, "train") == before
        inverted = plan_folder(root, image_size=4, invert=True)  # needs no copy of its own
        assert levels(inverted.open("train", QUIET), 0) == [255 - level for level in before[0][1]]
    file = root / plan.train[0] / "0.png"
    Image.new("L", (4, 4), 200).save(file)
    os.utime(file, (1, 1))
    assert read(plan, "train")[0][1][0] == 200
    (newer,) = copies()  # the older copy is gone
    assert newer != copy
    newer.write_bytes(newer.read_bytes()[:-1])
    assert read(plan, "train")[0][1][0] == 200
    (newer.parent / "index.json").write_text("[]")
    assert read(plan, "train")[0][1][0] == 200


def test_a_process_that_is_killed_leaves_no_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    plan = plan_folder(root, image_size=4)
    with monkeypatch.context() as patched:
        patched.setattr("innerloop.data._image_cache.os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            plan.open("train", QUIET)
    assert not copies()
    place = next(user_cache().glob("images/*"))
    (place / ".left.1234.part").mkdir()  # as SIGKILL leaves it
    assert len(read(plan, "train")) == 3
    assert not list(place.glob(".*.part"))


def open_once(plan: FolderPlan, started: multiprocessing.Barrier, results: multiprocessing.Queue) -> None:
    started.wait()
    results.put(read(plan, "train"))


def test_two_processes_may_read_the_same_folder(root: Path) -> None:
    plan, context = plan_folder(root, image_size=4), multiprocessing.get_context("fork")
    started, results = context.Barrier(2), context.Queue()
    both = [context.Process(target=open_once, args=(plan, started, results)) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert found[0] == found[1] == read(plan, "train")
    assert len(copies()) == 1


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written .* XDG_CACHE_HOME"):
        plan_folder(root).open("train", QUIET)


def test_links_are_followed_once(root: Path) -> None:
    (root / "b" / "loop").symlink_to(root)
    assert plan_folder(root).open("train", QUIET).classes == 3


def test_episodes_are_of_the_images(root: Path) -> None:
    data = from_folder(root, "train", progress=False, image_size=4)
    episode = data.episodes(ways=3, shots=1, queries=2, tasks=5)(torch.Generator().manual_seed(0))
    assert episode.query_x.shape == (5, 6, 1, 4, 4)
    tens = (255 * episode.query_x.mean((2, 3, 4)) / 10 + 0.01).floor()
    own = (255 * episode.support_x.mean((2, 3, 4)) / 10 + 0.01).floor()
    assert torch.equal(tens, own.gather(1, episode.query_y))


def test_splits_in_csv_files(tmp_path: Path) -> None:
    """As mini-ImageNet has them: all files in one folder."""
    root = tmp_path / "mini"
    (root / "images").mkdir(parents=True)
    for split, first in (("train", 0), ("val", 3), ("test", 4)):
        rows = [
            (f"{c}_{i}.png", f"n{c}") for c in range(first, first + (3 if split == "train" else 1)) for i in range(2)
        ]
        for name, label in rows:
            Image.new("L", (4, 4), 10 * int(label[1:]) + int(name[2])).save(root / "images" / name)
        lines = ["filename,label", *(f"{name},{label}" for name, label in rows)]
        (root / f"{split}.csv").write_text("\n".join(lines))
    plan = plan_folder(root, image_size=4)
    assert (plan.train, plan.val, plan.test) == (("n0", "n1", "n2"), ("n3",), ("n4",))
    assert read(plan, "train") == [("n0", [0, 1]), ("n1", [10, 11]), ("n2", [20, 21])]
    assert read(plan, "test") == [("n4", [40, 41])]
    (root / "images" / "0_1.png").unlink()
    with pytest.raises(DataError, match="1 of the files that the CSV files name are absent"):
        plan_folder(root)
    (root / "val.csv").write_text("filename,label\n0_0.png,n0")
    with pytest.raises(DataError, match="'n0' is in two splits"):
        plan_folder(root)
    (root / "val.csv").write_text("filename,label\n../0_0.png,n3")
    with pytest.raises(DataError, match="expected a file in"):
        plan_folder(root)
    (root / "val.csv").write_text("file,class\na,b")
    with pytest.raises(DataError, match="columns filename and label"):
        plan_folder(root)


def test_splits_in_lists_of_classes(tmp_path: Path) -> None:
    """As CIFAR-FS has them: class folders in ``data``, and lists in ``splits/NAME``."""
    root = folder_of(tmp_path / "cifar", ["data/apple", "data/bear", "data/clock", "data/unused"])
    lists = root / "splits" / "theirs"
    lists.mkdir(parents=True)
    for split, name in (("train", "bear"), ("val", "apple"), ("test", "clock")):
        (lists / f"{split}.txt").write_text(f"{name}\n")
    plan = plan_folder(root, image_size=4)
    assert (plan.train, plan.val, plan.test) == (("data/bear",), ("data/apple",), ("data/clock",))
    assert read(plan, "train") == [("data/bear", [10, 11, 12])]
    assert len(plan_folder(root, split_by="classes", val_share=0.25, test_share=0.25).train) == 2
    (lists / "val.txt").write_text("bear\n")
    with pytest.raises(DataError, match="in both train and val"):
        plan_folder(root)
    (lists / "val.txt").write_text("lion\n")
    with pytest.raises(DataError, match="'lion', which has no folder"):
        plan_folder(root)
