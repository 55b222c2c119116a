"""The data sets of the literature: their splits, every form that files come in, and files that are not theirs."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from published_files import cifar

from innerloop.data import DATASETS, DataError, from_published
from innerloop.data._published_sets import PUBLISHED, published_split
from innerloop.data._unpickle import load_arrays
from innerloop.data.base import SPLITS, Location
from innerloop.data.published import plan_published, shared_place
from innerloop.parts import describe, restore

QUIET = Location(progress=False)
SIZES = {
    "mini_imagenet": (64, 16, 20),
    "tiered_imagenet": (351, 97, 160),
    "cifar_fs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "cub": (100, 50, 50),
}
SUPERCLASSES = {  # of CIFAR-100, as far as two of FC100's splits need them
    "val": "bear leopard lion tiger wolf camel cattle chimpanzee elephant kangaroo crab lobster snail spider worm "
    "hamster mouse rabbit shrew squirrel",
    "test": "beaver dolphin otter seal whale bee beetle butterfly caterpillar cockroach fox porcupine possum raccoon "
    "skunk baby boy girl man woman",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)


@pytest.mark.parametrize("name", SIZES)
def test_a_split_has_the_published_numbers_of_classes(name: str) -> None:
    splits = published_split(name)
    assert tuple(splits) == SPLITS
    assert tuple(map(len, splits.values())) == SIZES[name]
    every = [each for names in splits.values() for each in names]
    assert len(set(every)) == sum(SIZES[name])  # no class is in two splits
    assert all(list(names) == sorted(names) for names in splits.values())
    if "imagenet" in name:
        assert all(len(each) == 9 and each[0] == "n" and each[1:].isdigit() for each in every)


def test_splits_follow_the_rules_that_their_papers_give() -> None:
    cifar = {
        name: {each for names in published_split(name).values() for each in names} for name in ("cifar_fs", "fc100")
    }
    assert cifar["cifar_fs"] == cifar["fc100"]  # both are all of CIFAR-100
    for split, names in SUPERCLASSES.items():
        assert sorted(published_split("fc100")[split]) == sorted(names.split())
    for split, wanted in (("train", (1, 3)), ("val", (2,)), ("test", (0,))):
        numbers = [int(each[:3]) for each in published_split("cub")[split]]
        assert all(number % 4 in wanted for number in numbers)


def drawn(names: Any, root: Path, where: str = "{name}", size: int = 3) -> Path:
    """A folder of an image for each class, whose grey level is the place of the class."""
    for level, name in enumerate(names):
        folder = root / where.format(name=name)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (level, level, level)).save(folder / "0.png")
    return root


def level_of(data: Any, name: str) -> int:
    x = data.inputs.at(data.members[data.names.index(name)])
    return round(255 * float(x[0].mean()))


@pytest.mark.parametrize("where", ["{name}", "images/{name}", "cifar100/data/{name}"])
def test_folders_by_class(where: str, tmp_path: Path) -> None:
    names = sorted(each for split in published_split("cifar_fs").values() for each in split)
    root = drawn([*names, "zebra"], tmp_path / "data", where)  # a class that is not of the data set is left alone
    plan = plan_published("cifar_fs", root, progress=False)
    assert (plan.layout, plan.images) == ("folders", (64, 16, 20))
    assert restore(json.loads(json.dumps(describe(plan)))) == plan
    assert "64 training, 16 validation and 20 test classes" in plan.lines()[0]
    assert "not comparable to the letter" in plan.lines()[-1]
    data = plan.open("test", QUIET)
    assert data.names == published_split("cifar_fs")["test"]
    assert level_of(data, "whale") == names.index("whale")
    assert tuple(data.inputs.at(data.members[0]).shape) == (1, 3, 32, 32)
    (root / where.format(name="whale") / "0.png").unlink()
    with pytest.raises(DataError, match="lacks folders of 1 of the 100 classes of CIFAR-FS: whale"):
        plan_published("cifar_fs", root, progress=False)


def test_folders_of_splits_must_be_those_of_the_paper(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split, names in published_split("fc100").items():
        drawn(names, root, f"meta-{split}/{{name}}")
    assert plan_published("fc100", root, progress=False).smallest == 20
    (root / "meta-train" / "apple").rename(root / "meta-test" / "apple")
    with pytest.raises(DataError, match="another split than the published one of FC100: 1 of its train classes"):
        plan_published("fc100", root, progress=False)
    drawn(["apple"], root, "meta-train/{name}")
    with pytest.raises(DataError, match="holds the class apple of FC100 twice"):
        plan_published("fc100", root, progress=False)


def test_cub_has_its_images_in_a_folder(tmp_path: Path) -> None:
    names = [each for split in published_split("cub").values() for each in split]
    root = drawn(names, tmp_path / "CUB_200_2011", "images/{name}")
    (root / "images.txt").write_text("".join(f"{i} {name}/0.png\n" for i, name in enumerate(names, 1)))
    data = from_published("cub", tmp_path, "val", progress=False)  # the folder above will do as well
    assert data.names == published_split("cub")["val"]
    assert data.preprocessing.shape == (3, 84, 84)
    assert plan_published("cub", root / "images", progress=False).images == (100, 50, 50)
    (root / "images" / names[3] / "0.png").rename(root / "images" / names[4] / "1.png")
    drawn([names[3]], root / "images", "other/{name}")
    with pytest.raises(DataError, match=f"1 images are not among those of CUB .*: {names[4]}/1.png"):
        plan_published("cub", root, progress=False)
    (root / "images" / names[4] / "1.png").unlink()
    (root / "images" / names[5] / "0.png").rename(root / "images" / names[5] / "1.png")
    with pytest.raises(DataError, match=f"1 of the 200 images in .*images.txt are absent: {names[5]}/0.png"):
        plan_published("cub", root, progress=False)
    (root / "images.txt").write_text("1\n")
    with pytest.raises(DataError, match="cannot be read as CUB's list"):
        plan_published("cub", root, progress=False)


def csv_files(root: Path) -> Path:
    """mini-ImageNet as Ravi and Larochelle's CSV files have it."""
    (root / "images").mkdir(parents=True)
    for split, names in published_split("mini_imagenet").items():
        rows = ["filename,label"]
        for name in names:
            Image.new("RGB", (4, 4), (9, 9, 9)).save(root / "images" / f"{name}00000001.jpg")
            rows.append(f"{name}00000001.jpg,{name}")
        (root / f"{split}.csv").write_text("\n".join(rows))
    return root


def test_csv_files(tmp_path: Path) -> None:
    root = csv_files(tmp_path / "mini")
    plan = plan_published("mini_imagenet", root, progress=False)
    assert (plan.layout, plan.open("val", QUIET).names) == ("csv", published_split("mini_imagenet")["val"])
    (root / "val.csv").rename(root / "other")
    (root / "test.csv").rename(root / "val.csv")
    (root / "other").rename(root / "test.csv")
    with pytest.raises(DataError, match="another split than the published one of mini-ImageNet: 20 of its test"):
        plan_published("mini_imagenet", root, progress=False)


def mini_pickles(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, names in published_split("mini_imagenet").items():
        count = 2 * len(names)
        images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, 3)
        rows = {name: [place, count - 1 - place] for place, name in enumerate(names)}
        content = {"image_data": images, "class_dict": rows, **changes}
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content, 2))
    return root


def test_the_pickle_files_of_mini_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mini_pickles(tmp_path / "mini" / "inside").parent
    plan = plan_published("mini_imagenet", root, progress=False)
    assert (plan.layout, plan.images) == ("mini-imagenet-cache", (128, 32, 40))
    assert "(mini-imagenet-cache-train.pkl), 64 training" in plan.lines()[0]
    monkeypatch.setattr("innerloop.data._packed.load_arrays", None)  # the copy is there: a call of it would fail
    data = plan.open("test", QUIET)
    third = data.inputs.at(data.members[2])
    assert [round(255 * float(image.mean())) for image in third] == [2, 37]
    assert restore(describe(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_dict": {"n99999999": [0, 1]}}, "images are of no class"),
        ({"class_dict": {"a": list(range(128)), "b": [3]}}, "absent or in two classes"),
        ({"class_dict": {"a": [999]}}, "absent or in two classes"),
        ({"class_dict": [1]}, "class_dict is a list"),
        ({"image_data": np.zeros((2, 3, 4, 4))}, "expected uint8"),
        ({"image_data": np.zeros((128, 1, 1, 3), np.uint8), "class_dict": {"a": list(range(128))}}, "lacks n0"),
    ],
)
def test_a_pickle_file_with_something_else(changes: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        plan_published("mini_imagenet", mini_pickles(tmp_path, **changes), progress=False)


def tiered(root: Path, form: str) -> Path:
    root.mkdir(parents=True)
    for split, names in published_split("tiered_imagenet").items():
        images = np.zeros((len(names), 2, 2, 3), np.uint8)
        images[:, :, :, 0] = 200  # OpenCV's first colour is blue
        labels = {b"label_specific": np.arange(len(names)), b"label_specific_str": [b"crane"] * len(names)}
        (root / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, 2))
        if form == "npz":
            np.savez(root / f"{split}_images.npz", images=images)
            continue
        file = io.BytesIO()
        Image.fromarray(images[0, :, :, ::-1]).save(file, "png")
        png = np.frombuffer(file.getvalue(), np.uint8)[:, None]
        (root / f"{split}_images_png.pkl").write_bytes(pickle.dumps([png] * len(names), 2))
    return root


@pytest.mark.parametrize("form", ["png", "npz"])
def test_the_files_of_tiered_imagenet_are_read_in_their_colours(form: str, tmp_path: Path) -> None:
    root = tiered(tmp_path / "tiered-imagenet", form)
    plan = plan_published("tiered_imagenet", root, progress=False)
    assert (plan.layout, plan.smallest) == (f"tiered-{form}", 97)
    data = plan.open("val", QUIET)
    assert data.names[:2] == ("000 crane", "001 crane")  # one title, two classes
    colours = 255 * data.inputs.at(data.members[5]).mean((0, 2, 3))
    assert colours.round().tolist() == [0, 0, 200]
    (root / "val_labels.pkl").write_bytes(pickle.dumps({"labels": [0] * 97}))
    with pytest.raises(DataError, match="has 1 classes: expected the 97 val classes of tieredImageNet"):
        plan_published("tiered_imagenet", root, progress=False)


def test_an_npz_file_that_is_cut_off(tmp_path: Path) -> None:
    root = tiered(tmp_path / "data", "npz")
    (root / "train_images.npz").write_bytes((root / "train_images.npz").read_bytes()[:300])
    with pytest.raises(DataError, match="train_images.npz is no .npz file"):
        plan_published("tiered_imagenet", root, progress=False)
    np.savez(root / "train_images.npz", images=np.zeros((3, 2)))
    with pytest.raises(DataError, match="expected uint8"):
        plan_published("tiered_imagenet", root, progress=False)


@pytest.mark.parametrize("name", ["cifar_fs", "fc100"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_archive_of_cifar_100(name: str, packed: bool, tmp_path: Path) -> None:
    names = cifar(tmp_path / "data", packed=packed)
    plan = plan_published(name, tmp_path / "data", progress=False)
    assert plan.layout == ("cifar-100-archive" if packed else "cifar-100")
    assert plan.images == tuple(2 * size for size in SIZES[name])
    data = plan.open("train", QUIET)
    levels = 255 * data.inputs.at(data.members[data.names.index("tractor" if name == "fc100" else "lion")]).mean(
        (1, 2, 3)
    )
    first = names.index("tractor" if name == "fc100" else "lion")
    assert levels.round().tolist() == [first, first + 100]


def test_pickle_files_of_splits(tmp_path: Path) -> None:
    for split, names in published_split("fc100").items():
        labels = list(range(len(names))) * 2
        content = {"data": np.zeros((len(labels), 32, 32, 3), np.uint8), "labels": labels}
        (tmp_path / f"FC100_{split}.pickle").write_bytes(pickle.dumps(content))
    plan = plan_published("fc100", tmp_path, progress=False)
    assert (plan.layout, plan.test[3], plan.images) == ("fc100-pickles", "test 03", (120, 40, 40))
    assert plan.open("test", QUIET).classes == 20
    (tmp_path / "FC100_test.pickle").unlink()
    with pytest.raises(DataError, match="lacks FC100_test.pickle, from which FC100 was read"):
        plan.open("test", QUIET)


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("this must not be printed",)


class Stated:
    def __init__(self) -> None:
        self.state = 3


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_file_cannot_run_code(protocol: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.pkl"
    contents = [Evil(), {"image_data": Evil()}, [np.array([Evil()], dtype=object)], print, Stated(), {1, 2}, 3 + 4j]
    contents += [np.ma.array([1]), np.array(["a"]), np.array([1], dtype="M8[s]"), np.zeros(2, [("a", "u1")])]
    contents += [np.ndarray, np.dtype("u1"), np.random.default_rng(0)]
    for content in contents:
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(DataError, match="asks for|damaged"):
            load_arrays(path)
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nndarray\n(I3\ntR.",  # a known name that nothing calls
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
        b"]}b.",  # a state for a list
        b"c_codecs\nencode\n(S'a'\nS'zip'\ntR.",
        b"Pid\n.",
        b"\x80\x02]\x85R.",
        b"(lI1\nI2\ns.",
        b"h\x05.",
        b"0.",
        b"t.",
        b"",
        b"\x80\x02",
    ],
)
def test_odd_programs_are_refused(program: bytes) -> None:
    with pytest.raises(DataError, match="damaged|asks for"):
        load_arrays(io.BytesIO(program), "file")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damage_anywhere_is_told_or_gives_another_value(protocol: int) -> None:
    content = {"image_data": np.arange(6, dtype=np.uint8).reshape(2, 1, 3), "class_dict": {"a": [0], "b": [1.5]}}
    whole = pickle.dumps(content, protocol)
    damages = [whole[:length] for length in range(len(whole))]
    for place in range(len(whole)):
        damages += [whole[:place] + bytes([value]) + whole[place + 1 :] for value in (0, 40, 255, whole[place] ^ 1)]
    for damage in damages:
        with contextlib.suppress(DataError):  # there is no other error, whatever the damage
            load_arrays(io.BytesIO(damage), "file")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    kinds = ("u1", ">i4", "<i8", "f4", "f8", "?")
    arrays = [np.asfortranarray(np.arange(6).reshape(2, 3).astype(kind)) for kind in kinds]
    arrays.append(np.arange(6, dtype=np.uint8).reshape(3, 2))
    several, both = [1 << 70, -3, 1.5, None, True], {"x": 1}
    content = {"a": arrays, "n": [np.int64(3), np.float32(2), 4, *several], b"b": b"", "t": ("é", b"\xe9")}
    content |= {"o": collections.OrderedDict(both), "twice": [both, both, arrays[0]], "p": ((), (1,), (1, 2, 3, 4))}
    content["empty"] = np.zeros((0, 3))
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol))
    found = load_arrays(tmp_path / "file")
    for array, wanted in zip(found["a"], arrays, strict=True):
        assert np.array_equal(array, wanted)
        assert array.dtype.kind == wanted.dtype.kind
    assert (found["n"], found["b"], found["empty"].shape) == ([3, 2, 4, *several], b"", (0, 3))
    assert (found["t"], found["o"], found["p"]) == (("é", b"\xe9"), both, content["p"])
    assert np.array_equal(found["twice"][2], arrays[0])


def test_a_file_of_python_2_is_read() -> None:
    program = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"q\x05(K\x01K\x03\x85cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x03\x01\xc8\x03tbU\x06labelsq\x08]q\x09(K\x00K\x01eU\x05namesq\x0a]q\x0b"
        b"(U\x05appleq\x0cU\x03busq\x0deu."
    )
    found = load_arrays(io.BytesIO(program), "file")
    assert (found["data"].tolist(), found["data"].dtype, found["labels"]) == ([1, 200, 3], np.uint8, [0, 1])
    assert found["names"] == ["apple", "bus"]


def test_places_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(PUBLISHED) == set(SIZES) <= DATASETS.keys()
    with pytest.raises(DataError, match="no published data set 'mnist'"):
        from_published("mnist", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="does not hold CUB: expected folders of images, named by those of CUB_200"):
        plan_published("cub", tmp_path)
    with pytest.raises(DataError, match="the folder of FC100 is not given: name it with --data-dir"):
        DATASETS["fc100"].open(Location())
    cifar(tmp_path / "shared" / "fc100", packed=False)
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path / "shared"))
    plan = DATASETS["fc100"].open(QUIET)
    assert plan.root == str(tmp_path / "shared" / "fc100")
    assert plan.moved(tmp_path / "shared").layout == "folders"
    (tmp_path / "shared" / "images").mkdir()
    assert shared_place("images") is None  # a person's own images are where they say
    with pytest.raises(DataError, match="does not exist"):
        plan.moved(tmp_path / "absent")
    described = describe(plan)
    described["fields"]["layout"] = "other"
    with pytest.raises(ValueError, match="layout"):
        restore(described)
