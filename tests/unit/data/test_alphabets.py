"""Tasks within alphabets: one alphabet, drawers kept apart, warps, and Lake's protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import innerloop as il
from innerloop.cli.main import main
from innerloop.data import alphabets
from innerloop.data.alphabets import Alphabets, warped
from innerloop.data.base import DATASETS
from innerloop.data.images import ImageClasses

SIZES = (3, 5, 9)
DRAWERS = 6


def numbered(turns: bool = False) -> Alphabets:
    """Drawings that tell their character and their drawer: the levels of two pixels. A third marks where up is."""
    characters = sum(SIZES)
    images = torch.zeros(characters, DRAWERS, 4, 4, dtype=torch.uint8)
    images[:, :, 1, 1] = torch.arange(1, characters + 1)[:, None]
    images[:, :, 1, 2] = torch.arange(1, DRAWERS + 1)
    images[:, :, 0, 0] = 200
    groups = torch.tensor([i for i, size in enumerate(SIZES) for _ in range(size)])
    return Alphabets(ImageClasses.from_classes(images, "episode" if turns else "none"), groups)


def read(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The characters and the drawers of images ``[T, N, 1, 4, 4]`` that are not turned."""
    levels = (x[:, :, 0] * 255).round().long()
    return levels[:, :, 1, 1] - 1, levels[:, :, 1, 2] - 1


def test_a_task_is_of_one_alphabet_and_its_drawers_are_kept_apart() -> None:
    data = numbered()
    episode = data.episodes(ways=4, shots=2, queries=3, tasks=200)(torch.Generator().manual_seed(0))
    (character, drawer), (asked, by) = read(episode.support_x), read(episode.query_x)
    alphabet = data.groups[character]
    assert (alphabet == alphabet[:, :1]).all()
    assert set(alphabet.unique().tolist()) == {1, 2}  # the alphabet of three characters is too small
    # The same characters in both sets, each with its own label.
    assert (character.view(200, 4, 2)[:, :, 0] == asked.view(200, 4, 3)[:, :, 0]).all()
    assert all(len(set(row.tolist())) == 4 for row in character.view(200, 4, 2)[:, :, 0])
    assert (episode.support_y == torch.arange(4).repeat_interleave(2)).all()
    # All characters of a task are by the same drawers, and those of the queries are others.
    assert (drawer.view(200, 4, 2) == drawer.view(200, 4, 2)[:, :1]).all()
    assert (by.view(200, 4, 3) == by.view(200, 4, 3)[:, :1]).all()
    assert not any(set(one.tolist()) & set(other.tolist()) for one, other in zip(drawer, by, strict=True))
    # An alphabet is as likely as its share of the characters: 9 of 14.
    assert abs(float((alphabet[:, 0] == 2).float().mean()) - 9 / 14) < 0.12


def test_a_task_is_turned_as_a_whole() -> None:
    episode = numbered(turns=True).episodes(3, 1, 1, 60)(torch.Generator().manual_seed(0))
    mark = torch.cat([episode.support_x, episode.query_x], 1)[:, :, 0].flatten(2).argmax(-1)
    assert (mark == mark[:, :1]).all()
    assert set(mark[:, 0].tolist()) == {0, 3, 12, 15}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((10, 1, 1, 1), "the largest alphabet has 9"),
        ((2, 3, 4, 1), "need 7 drawers: there are 6"),
        ((1, 1, 1, 1), "ways=1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(counts: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbered().episodes(*counts)


def test_bad_alphabets_are_refused() -> None:
    data = numbered()
    with pytest.raises(ValueError, match=r"expected int64 \[17\]"):
        Alphabets(data.drawings, data.groups[1:])
    with pytest.raises(ValueError, match="warp=-1"):
        Alphabets(data.drawings, data.groups, -1.0)


def test_warps_differ_between_drawings_and_keep_the_ink_in_the_picture() -> None:
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 12:16, 12:16] = 1
    moved = warped(x, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(moved, warped(x, 1.0, torch.Generator().manual_seed(0)))
    assert not torch.equal(moved[0], moved[1])
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1 + 1e-5
    ink = moved.sum((1, 2, 3))
    assert float(ink.min()) > 16 / 1.6
    assert float(ink.max()) < 16 * 1.6
    rows = torch.arange(28.0)
    height = (moved.sum((1, 3)) * rows).sum(1) / ink
    assert float(height.std()) > 0.5
    assert float((height - 13.5).abs().max()) < 5


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omniglot's place is taken by glyphs, with as many characters."""

    def omniglot(root: object, split: str, scheme: str, *, rotations: str, **place: object) -> ImageClasses:
        count = 964 if split == "train" else 659
        images = il.data.glyphs("train").images[0, :count, :, 0]
        assert scheme == "lake"
        return ImageClasses.from_classes(images, rotations, maximum=255)  # type: ignore[arg-type]

    monkeypatch.setattr(alphabets, "omniglot", omniglot)


@pytest.mark.usefixtures("invented")
def test_background_and_evaluation_alphabets() -> None:
    parts = {split: il.data.omniglot_alphabets(None, split, validation=5) for split in ("train", "val", "test")}
    assert {split: part.classes for split, part in parts.items()} == {"train": 792, "val": 172, "test": 659}
    assert [len(part.groups.bincount()) for part in parts.values()] == [25, 5, 20]
    assert il.data.omniglot_alphabets(None, warp=1.0).warp == 1.0
    assert il.data.omniglot_alphabets(None, "test", warp=1.0).warp == 0.0
    with pytest.raises(il.data.DataError, match="validation is 0"):
        il.data.omniglot_alphabets(None, "val")
    with pytest.raises(ValueError, match="validation=30"):
        il.data.omniglot_alphabets(None, validation=30)
    assert DATASETS["omniglot_alphabets"].held_out(validation=1, turns=False, warp=0.0)


SMALL = ["--iterations", "2", "--val-every", "1", "--val-tasks", "2", "--filters", "4", "--queries", "1", "--quiet"]


@pytest.mark.usefixtures("invented")
def test_lakes_protocol_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["train", "omniglot-lake-prototypical", *SMALL, "--tasks", "1", "--ways", "5", "--out", str(run)]
    assert main(words) == 0
    command = ["evaluate", str(run), "--protocol", "lake", "--tasks", "3"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"ways": 20, "shots": 1, "queries": 1, "tasks": 3, "dataset": "omniglot_alphabets", "split": "test"}
    assert {name: found[name] for name in expected} == expected
    assert main([*command, "--ensemble", "2"]) == 0
    assert "ensemble of 2" in capsys.readouterr().out
    for option in (["--split", "val"], ["--last-step"], ["--norm", "per_step"]):
        assert main([*command, *option]) == 2
        assert "does not fit --protocol lake" in capsys.readouterr().err


@pytest.mark.usefixtures("invented")
def test_runs_that_lakes_protocol_cannot_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen, five = tmp_path / "seen", tmp_path / "five"
    short = [*SMALL, "--tasks", "1", "--ways", "5", "--inner-steps", "1"]
    assert main(["train", "glyphs-5w1s-maml", *short, "--out", str(seen)]) == 0
    assert main(["train", "omniglot-lake-protomaml", *short, "--out", str(five)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(seen), "--protocol", "lake"]) == 2
    assert "was trained on glyphs" in capsys.readouterr().err
    assert main(["evaluate", str(five), "--protocol", "lake"]) == 2
    assert "train with --ways 20" in capsys.readouterr().err
