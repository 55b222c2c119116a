"""Preprocessing: images of every kind, tables and arrays become tensors; values that print, compare and are saved."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import innerloop as il
from innerloop.data import (
    ArrayPreprocessing,
    CategoryColumn,
    DataError,
    ImagePreprocessing,
    NumberColumn,
    Preprocessing,
    Scale,
    TablePreprocessing,
)
from innerloop.parts import describe, restore

GREY = ImagePreprocessing(size=(6, 6), channels=1)
COLOUR = ImagePreprocessing(size=(6, 6))
TABLE = TablePreprocessing(
    (NumberColumn("a", 1.0, 2.0, missing=True), CategoryColumn("c", ("x", "y"))), Scale(10.0, 4.0)
)
EVERY = [GREY, COLOUR, TABLE, ArrayPreprocessing((3, 2), (1.0, 2.0, 3.0), (1.0, 1.0, 2.0), Scale(0.0, 1.0))]


@pytest.mark.parametrize("made", EVERY, ids=lambda made: type(made).__name__)
def test_it_is_a_value(made: Preprocessing) -> None:
    read = restore(json.loads(json.dumps(describe(made))))
    assert read == made
    assert hash(read) == hash(made)
    assert isinstance(made, Preprocessing)
    prepared = torch.rand(5, *made.shape)
    assert made(prepared) is prepared
    with pytest.raises(DataError, match="add an axis"):
        made(prepared[0])
    with pytest.raises(DataError, match="was expected"):
        made(torch.rand(5, 9, 9, 9))
    with pytest.raises(DataError):
        made(3)


def files(tmp_path: Path) -> dict[str, Path]:
    """One picture, black at the left and white at the right, in many modes."""
    grey = np.repeat(np.array([[0, 0, 0, 255, 255, 255]], dtype=np.uint8), 6, 0)
    images = {
        "grey.png": Image.fromarray(grey),
        "colour.png": Image.fromarray(grey).convert("RGB"),
        "palette.gif": Image.fromarray(grey).convert("P"),
        "bits.png": Image.fromarray(grey).convert("1"),
        "sixteen.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "cmyk.tif": Image.fromarray(grey).convert("CMYK"),
        "float.tif": Image.fromarray(grey.astype(np.float32) / 255),
    }
    clear = np.zeros((6, 6, 4), dtype=np.uint8)
    clear[:, :3, 3] = 255  # black and opaque at the left, transparent at the right
    images["clear.png"] = Image.fromarray(clear)
    for name, image in images.items():
        image.save(tmp_path / name)
    turned = Image.fromarray(grey).rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    return {path.name: path for path in tmp_path.iterdir()}


def test_every_mode_gives_the_same_picture(tmp_path: Path) -> None:
    found = files(tmp_path)
    wanted = torch.tensor([0.0] * 3 + [1.0] * 3).expand(6, 6)
    assert len(found) == 9
    for prepare in (GREY, COLOUR):
        prepared = prepare(list(found.values()))
        assert prepared.shape == (9, prepare.channels, 6, 6)
        for name, image in zip(found, prepared, strict=True):
            assert torch.equal(image, wanted.expand(prepare.channels, 6, 6)), name
    assert torch.equal(ImagePreprocessing((6, 6), 1, invert=True)(found["grey.png"])[0, 0], 1 - wanted)


def test_every_kind_of_input_gives_the_same_picture(tmp_path: Path) -> None:
    path = files(tmp_path)["colour.png"]
    image = Image.open(path)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    wanted = COLOUR([path])
    for given in (
        [path, str(path), image, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, {"path": str(path)}],
        [array, array / 255, array.transpose(2, 0, 1), tensor, tensor.permute(2, 0, 1)],
        np.stack([array, array]),
        np.stack([array, array]) / 255,
        torch.stack([tensor, tensor]),
        torch.stack([tensor, tensor]).permute(0, 3, 1, 2),
        [wanted[0], wanted[0]],
        path,
        image,
    ):
        prepared = COLOUR(given)
        assert torch.equal(prepared, wanted.expand_as(prepared))
    assert torch.equal(GREY(np.stack([array, array])[..., 0]), GREY([path, path]))
    assert GREY([]).shape == (0, 1, 6, 6)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(whole, "png")
    cut.write_bytes(whole.getvalue()[:500])
    for bad, message in (
        (text, "text.png is not an image"),
        (cut, "cut.png cannot be read"),
        (tmp_path / "absent.png", "No such file"),
        (np.full((4, 4), 7.0), "from 7 to 7"),
        (np.full((4, 4), math.nan), "Floats must be"),
        (np.zeros((4, 4), dtype=np.int64), "int64"),
        (np.zeros((5, 5, 2), dtype=np.uint8), "channels"),
        (np.zeros((0, 4), dtype=np.uint8), "no pixels"),
        (Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)), "32-bit"),
        (b"no image", "not an image"),
    ):
        with pytest.raises(DataError, match=message):
            GREY([bad])


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_size(fit: str) -> None:
    wide = np.zeros((10, 40, 3), dtype=np.uint8)
    x = ImagePreprocessing((6, 8), 3, fit, "nearest")([wide, wide.transpose(1, 0, 2)])
    assert x.shape == (2, 3, 6, 8)
    assert bool((x == 0).all()) is (fit != "pad")


def test_networks_trained_elsewhere() -> None:
    prepare = ImagePreprocessing((2, 2), 3, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    x = prepare([np.full((2, 2, 3), 255, dtype=np.uint8)])
    assert x[0, :, 0, 0].tolist() == [1.0, 3.0, 1.0]


@pytest.mark.parametrize(
    "arguments",
    [{"size": (0, 4)}, {"size": (4,)}, {"channels": 2}, {"fit": "squash"}, {"resample": "best"}, {"std": (0.0,) * 3}]
    + [{"mean": (1.0,)}],
)
def test_images_bad_arguments(arguments: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        ImagePreprocessing(**{"size": (4, 4), **arguments})


class Frame:
    """What a data frame is known by."""

    columns = ("c", "a", "other")

    def __getitem__(self, name: str) -> list:
        return {"a": np.array([3.0, math.nan]), "c": ["x", "z"]}[name]


def test_tables() -> None:
    wanted = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    for given in (
        Frame(),
        {"a": [3, None], "c": ["x", "z"]},
        [{"a": "3", "c": "x"}, {"a": " ", "c": None}],
        [[3.0, "x"], [None, "z"]],
        np.array([[3, "x"], [None, "z"]], dtype=object),
    ):
        assert torch.equal(TABLE(given), wanted)
    for bad, message in (
        ({"a": [1]}, "no column 'c'"),
        ([{"a": 1}], "no column 'c'"),
        ([[1]], "the 2 values a, c"),
        ({"a": ["much"], "c": ["x"]}, "'a' holds 'much'"),
        ({"a": [math.inf], "c": ["x"]}, "expected a number"),
        ({"a": [1, 2], "c": ["x"]}, "2, 1 values"),
    ):
        with pytest.raises(DataError, match=message):
            TABLE(bad)
    assert TABLE.target.inverse(TABLE.target([6, 14])).flatten().tolist() == [6, 14]
    with pytest.raises(DataError, match="missing"):
        TABLE.target([1, math.nan])


def test_categories_that_are_numbers() -> None:
    codes = CategoryColumn("code", ("1", "2"), missing=True)
    assert codes.features([1, 2.0, "1", None]).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_arrays() -> None:
    prepare = ArrayPreprocessing((2,), (1.0, 2.0), (1.0, 2.0))
    wanted = torch.tensor([[0.0, 1.0]])
    for given in ([[1, 4]], np.array([[1, 4]]), torch.tensor([[1, 4]]), [torch.tensor([1, 4])], [np.array([1, 4])]):
        assert torch.equal(prepare(given), wanted)
    for bad in ([[1]], [[1, math.nan]], [["a", "b"]], [[1, 2], [3]]):
        with pytest.raises(DataError):
            prepare(bad)


def test_the_drawings_of_omniglot_are_shrunk_as_in_its_recipes() -> None:
    drawing = Image.fromarray((np.random.default_rng(0).random((105, 105)) > 0.1).astype(np.uint8) * 255).convert("1")
    theirs = 1 - np.asarray(drawing.resize((28, 28), Image.Resampling.NEAREST), dtype=np.float32)
    ours = il.data.ImagePreprocessing((28, 28), 1, "stretch", "nearest", invert=True)([drawing])
    assert torch.equal(ours[0, 0], torch.from_numpy(theirs))
