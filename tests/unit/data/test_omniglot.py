from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import random
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from innerloop.data import DataError, find_omniglot, omniglot
from innerloop.data._download import download
from innerloop.data._omniglot_cache import drawings
from innerloop.data._omniglot_source import PARTS, Contents, Source, omniglot_layout
from innerloop.data._splits import SCHEMES, packed_by_alphabet, split_names, unpack
from innerloop.data.omniglot import fetch
from innerloop.folders import user_cache

TINY = Contents({PARTS[0]: ["Latin/character01", "Latin/character02"], PARTS[1]: ["Tengwar/character01"]}, drawings=2)
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return user_cache()


# --- a tiny set of our own


def png(seed: int, size: int = 105, mode: str = "1") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 2, (size, size), dtype=np.uint8) * 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def tiny() -> Files:
    names = [f"{part}/{name}" for part, names in TINY.parts.items() for name in names]
    return {f"{name}/{i:04d}_{k:02d}.png": png(10 * i + k) for i, name in enumerate(names) for k in (1, 2)}


def put_archives(root: Path, files: Files) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for name in sorted(files, reverse=True):  # an order nobody should rely on
                if part in name or name.startswith((".", "/")):
                    archive.writestr(name, files[name])
    return root


def put_folders(root: Path, files: Files) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def load(root: Path, size: int = 28) -> np.ndarray:
    source = Source.find(root)
    assert source is not None
    return drawings(source, TINY, size, progress=False)


@pytest.mark.parametrize("put", [put_archives, put_folders])
@pytest.mark.parametrize("sub", ["", "omniglot"])
def test_archives_and_folders_are_read_alike(tmp_path: Path, put: Callable[[Path, Files], Path], sub: str) -> None:
    files = tiny()
    extra = {
        "__MACOSX/images_background/Latin/character01/._0000_01.png": b"?",
        "images_background/Latin/character01/.DS_Store": b"?",
        "images_background/Latin/character01/._0000_01.png": b"?",
        "images_background/Latin/notes.txt": b"?",
    }
    put(tmp_path / "data" / sub, files | extra)
    bits = load(tmp_path / "data")
    assert bits.shape == (3, 2, 28, 28)
    for row, name in enumerate(TINY.names):
        for k, file in enumerate(sorted(f for f in files if name in f)):
            image = Image.open(io.BytesIO(files[file]))
            for same in (image.resize((28, 28)), image.resize((28, 28), Image.Resampling.LANCZOS)):
                assert np.array_equal(bits[row, k], 1 - np.asarray(same, dtype=np.uint8))


def test_nothing_is_extracted(tmp_path: Path) -> None:
    root = put_archives(tmp_path / "data", tiny())
    load(root)
    assert [p.suffix for p in sorted(root.rglob("*"))] == [".zip", ".zip"]


@pytest.mark.parametrize("name", ["../images_background/a/b.png", "/etc/images_background/x.png"])
def test_paths_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    root = put_archives(tmp_path / "data", tiny() | {name: b"?"})
    with pytest.raises(DataError, match=re.escape(f"images_background holds the unsafe path {name!r}")):
        load(root)


def without(*parts: str) -> Callable[[Files], Files]:
    return lambda files: {name: data for name, data in files.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("0002_02"), "images_evaluation/Tengwar/character01 has 1 drawings, expected 2. Delete"),
        (without("character02"), "images_background/Latin/character02 is missing. Delete"),
        (
            lambda files: files | {"images_background/Latin/character03/1_1.png": b""},
            "images_background/Latin/character03 is not one of Omniglot's",
        ),
        (
            lambda files: (
                without("0000_01", "0001_01", "0002_01")(files)
                | {f"images_background/X/character0{i}/1_1.png": b"" for i in range(4)}
            ),
            "images_background/X/character00 is not one of Omniglot's and 4 more faults.",
        ),
        (
            lambda files: dict.fromkeys(files, png(0, size=28)),
            "is a 28x28 image of mode '1': expected an original 105x105",
        ),
        (lambda files: dict.fromkeys(files, png(0, mode="L")), "is a 105x105 image of mode 'L'"),
        (lambda files: dict.fromkeys(files, png(0)[:60]), "is not a readable PNG image"),
        (lambda files: dict.fromkeys(files, b"GIF89a"), "is not a readable PNG image"),
    ],
)
@pytest.mark.parametrize("put", [put_archives, put_folders])
def test_an_incomplete_set_is_named(
    tmp_path: Path, put: Callable[[Path, Files], Path], change: Callable[[Files], Files], message: str
) -> None:
    root = put(tmp_path / "data", change(tiny()))
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load(root)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_member_too_large_is_refused(tmp_path: Path) -> None:
    files = tiny()
    files["images_background/Latin/character01/0000_01.png"] = bytes(2 << 20)
    with pytest.raises(DataError, match="too large for a drawing"):
        load(put_archives(tmp_path / "data", files))


def test_a_damaged_archive_is_named_with_its_remedy(tmp_path: Path) -> None:
    root = put_archives(tmp_path / "data", tiny())
    archive = root / "images_background.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=re.escape(f"{archive} is not a readable zip archive")) as error:
        load(root)
    assert f"Delete {archive}" in str(error.value)
    assert "--download" in str(error.value)
    at = whole.index(b"IDAT") + 40
    archive.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
    with pytest.raises(DataError, match=re.escape(f"{archive} is damaged at ")):
        load(root)


# --- the cache


def test_the_cache_is_used_and_follows_the_source(tmp_path: Path, private_cache: Path) -> None:
    root = put_archives(tmp_path / "data", tiny())
    first = load(root)
    (cache,) = private_cache.rglob("*.npz")
    stamp = cache.stat().st_mtime_ns
    assert np.array_equal(load(root), first)
    assert cache.stat().st_mtime_ns == stamp
    assert load(root, size=20).shape[-1] == 20
    changed = tiny()
    changed["images_background/Latin/character01/0000_01.png"] = png(999)
    put_archives(root, changed)
    assert not np.array_equal(load(root), first)


@pytest.mark.parametrize("damage", ["truncate", "text", "pickle", "format", "names", "empty"])
def test_an_unsound_cache_is_made_again(
    tmp_path: Path, private_cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = put_archives(tmp_path / "data", tiny())
    first = load(root)
    (cache,) = private_cache.rglob("*.npz")
    good = cache.read_bytes()
    if damage == "truncate":
        cache.write_bytes(good[: len(good) - 30])
    elif damage == "text":
        cache.write_text("not a cache")
    elif damage == "empty":
        cache.write_bytes(b"")
    else:
        stored = dict(np.load(cache))
        stored["format"] = np.int64(0 if damage == "format" else 1)
        if damage != "format":
            stored["names"] = np.array(["a", "b", "c"], dtype=object if damage == "pickle" else None)
        np.savez(cache, **stored)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(load(root), first)
    assert f"the cache {cache} is not sound" in caplog.text
    caplog.clear()
    assert np.array_equal(load(root), first)
    assert not caplog.records


def test_nothing_is_written_beside_the_originals(tmp_path: Path, private_cache: Path) -> None:
    root = put_archives(tmp_path / "data", tiny())
    before = sorted(root.iterdir())
    first = load(root)
    assert sorted(root.iterdir()) == before
    (cache,) = private_cache.rglob("*.npz")
    assert not list(private_cache.rglob("*.tmp"))
    beside = cache.replace(root / cache.name)  # where earlier versions wrote it
    assert np.array_equal(load(root), first)
    assert beside.exists()
    assert not list(private_cache.rglob("*.npz"))


def test_where_nothing_can_be_written_it_stays_in_memory(tmp_path: Path, private_cache: Path) -> None:
    root = put_archives(tmp_path / "data", tiny())
    private_cache.parent.mkdir()
    private_cache.write_text("a file where the folder should be")
    assert load(root).shape == (3, 2, 28, 28)
    assert not list(tmp_path.rglob("*.npz"))


# --- the splits


@pytest.mark.parametrize(
    ("scheme", "sizes"),
    [
        ("maml", {"train": 1100, "val": 100, "test": 423}),
        ("reptile", {"train": 1200, "test": 423}),
        ("vinyals", {"train": 1028, "val": 172, "test": 423}),
        ("lake", {"train": 964, "test": 659}),
    ],
)
def test_a_scheme_divides_all_characters(scheme: str, sizes: dict[str, int]) -> None:
    splits = [split_names(scheme, split) for split in sizes]
    assert [len(names) for names in splits] == list(sizes.values())
    assert sorted(name for names in splits for name in names) == omniglot_layout().names
    assert len(set(omniglot_layout().names)) == 1623


def test_a_split_that_does_not_exist_is_named() -> None:
    with pytest.raises(DataError, match="'lake' has only train, test"):
        omniglot("nowhere", split="val", scheme="lake")
    with pytest.raises(DataError, match=r"scheme='omni' .* expected one of maml, reptile, vinyals, lake"):
        omniglot("nowhere", scheme="omni")  # type: ignore[arg-type]


def test_vinyals_holds_whole_alphabets() -> None:
    val = {name.split("/")[0] for name in split_names("vinyals", "val")}
    assert val == {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
    assert split_names("vinyals", "test")[0] == "Gurmukhi/character42"
    assert split_names("vinyals", "train")[-1] == "Tifinagh/character55"


def test_packing_is_undone_by_unpacking() -> None:
    names = random.Random(0).sample(omniglot_layout().names, 400)
    assert unpack(packed_by_alphabet(names)) == sorted(names)


# --- finding and loading


def test_absence_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_omniglot(tmp_path) is None
    with pytest.raises(
        DataError, match=re.escape(f"Omniglot is not in {tmp_path}: expected images_background.zip")
    ) as e:
        omniglot(tmp_path)
    assert "download=True (--download)" in str(e.value)
    assert "INNERLOOP_DATA" in str(e.value)
    put_archives(tmp_path / "omniglot", tiny())
    assert find_omniglot(tmp_path) == tmp_path / "omniglot"
    monkeypatch.setenv("INNERLOOP_DATA", str(tmp_path))
    assert find_omniglot() == tmp_path / "omniglot"
    (tmp_path / "omniglot" / "images_evaluation.zip").unlink()
    assert find_omniglot() is None


def test_without_a_root_the_user_cache_is_searched(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INNERLOOP_DATA", raising=False)
    assert find_omniglot() is None
    put_archives(private_cache / "omniglot", tiny())
    assert find_omniglot() == private_cache / "omniglot"


@pytest.mark.parametrize(("option", "value"), [("ink", 2), ("size", 0), ("size", 106)])
def test_options_out_of_range_are_refused(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option}={value}: expected"):
        omniglot("nowhere", **{option: value})


# --- the download


class Server:
    """An HTTP server on this machine whose faults a test chooses."""

    def __init__(self) -> None:
        self.files: Files = {}
        self.ranges: list[str | None] = []
        self.honour_ranges = True
        self.break_after: list[int] = []  # bytes sent before hanging up, one entry a request
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        asked = to.headers.get("Range")
        self.ranges.append(asked)
        data = self.files.get(to.path)
        if data is None:
            to.send_error(404)
            return
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.honour_ranges else 0
        if first >= len(data) and first:
            to.send_response(416)
            to.send_header("Content-Range", f"bytes */{len(data)}")
            to.end_headers()
            return
        to.send_response(206 if first else 200)
        if first:
            to.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        to.send_header("Content-Length", str(len(data) - first))
        to.end_headers()
        most = self.break_after.pop(0) if self.break_after else len(data)
        to.wfile.write(data[first : first + most])


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    served.files["/a.zip"] = random.Random(0).randbytes(300_000)
    yield served
    served.http.shutdown()
    served.http.server_close()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def get(server: Server, target: Path, expected: str | None = None, tries: int = 3) -> None:
    url, data = f"{server.address}/a.zip", server.files.get("/a.zip", b"")
    download(url, target, expected or md5(data), progress=False, tries=tries, timeout=5)


def test_a_download_lands_whole(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.zip"
    get(server, target)
    get(server, target)  # not asked for again
    assert target.read_bytes() == server.files["/a.zip"]
    assert server.ranges == [None]
    assert [p.name for p in target.parent.iterdir()] == ["a.zip"]


def test_a_broken_download_goes_on_within_the_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 50_000]
    get(server, tmp_path / "a.zip")
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "a.zip").read_bytes() == server.files["/a.zip"]


def test_a_broken_download_goes_on_in_the_next_call(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000]
    with pytest.raises(DataError, match=r"connection closed after 100000 of 300000 bytes.*100000 bytes are kept"):
        get(server, tmp_path / "a.zip", tries=1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip.part"]
    get(server, tmp_path / "a.zip", tries=1)
    assert server.ranges == [None, "bytes=100000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_server_that_cannot_resume_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    server.honour_ranges = False
    get(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.files["/a.zip"]


def test_a_complete_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(server.files["/a.zip"])
    get(server, tmp_path / "a.zip")
    assert server.ranges == ["bytes=300000-"]


def test_a_part_too_long_is_started_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(bytes(300_001))
    get(server, tmp_path / "a.zip")
    assert server.ranges == ["bytes=300001-", None]


def test_a_part_of_another_file_is_fetched_anew_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    get(server, tmp_path / "a.zip")
    assert server.ranges == ["bytes=1000-", None]
    assert (tmp_path / "a.zip").read_bytes() == server.files["/a.zip"]


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.zip has MD5 [0-9a-f]{32}, expected 0{32}, twice"):
        get(server, tmp_path / "a.zip", expected="0" * 32)
    assert server.ranges == [None, None]
    assert not list(tmp_path.iterdir())


def test_an_absent_file_is_reported_at_once(server: Server, tmp_path: Path) -> None:
    del server.files["/a.zip"]
    with pytest.raises(DataError, match=r"a\.zip answered 404 Not Found\. Without a network, put a\.zip into"):
        get(server, tmp_path / "a.zip")
    assert server.ranges == [None]


def test_an_unreachable_server_is_reported(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(DataError, match=r"could not be fetched .* 0 bytes are kept"):
        get(server, tmp_path / "a.zip")


def test_a_folder_that_cannot_be_made_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Choose a data folder that you may write to"):
        get(server, tmp_path / "file" / "a.zip")


def test_only_what_is_absent_is_fetched(server: Server, tmp_path: Path) -> None:
    made = put_archives(tmp_path / "made", tiny())
    server.files = {f"/{part}.zip": (made / f"{part}.zip").read_bytes() for part in PARTS}
    sums = {part: md5(server.files[f"/{part}.zip"]) for part in PARTS}
    fetch(tmp_path / "fresh", address=server.address, md5=sums, progress=False)
    assert np.array_equal(load(tmp_path / "fresh"), load(made))
    assert find_omniglot(tmp_path / "fresh") == tmp_path / "fresh" / "omniglot"
    half = tmp_path / "half"
    half.mkdir()
    (made / f"{PARTS[0]}.zip").rename(half / f"{PARTS[0]}.zip")
    server.ranges.clear()
    fetch(half, address=server.address, md5=sums, progress=False)
    assert len(server.ranges) == 1
    assert find_omniglot(half) == half


# --- Omniglot itself, if given


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, omniglot_root: Path) -> Path:
    """A folder of links to the real data set, so that its cache is made here."""
    source = Source.find(omniglot_root)
    assert source is not None
    root = tmp_path_factory.mktemp("real")
    for part in PARTS:
        path = source.path(part)
        assert path is not None
        (root / path.name).symlink_to(path.resolve())
    return root


def test_the_script_reproduces_the_splits(real: Path, tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "scripts" / "make_omniglot_splits.py"
    spec = importlib.util.spec_from_file_location("make_omniglot_splits", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(real, tmp_path)
    kept = path.parents[1] / "src" / "innerloop" / "data" / "splits"
    for scheme in SCHEMES:
        name = f"omniglot-{scheme}.json"
        assert (tmp_path / name).read_bytes() == (kept / name).read_bytes()
        assert set(json.loads((kept / name).read_text())) == {"rule", "splits"}


def test_pillow_shrinks_real_drawings_by_nearest_neighbour(real: Path) -> None:
    source = Source.find(real)
    assert source is not None
    names = omniglot_layout().names
    bits = drawings(source, omniglot_layout(), 28)
    path = source.path(PARTS[0])
    assert path is not None
    if path.is_dir():
        pytest.skip("this check reads the archive")
    with zipfile.ZipFile(path) as archive:
        file = min(n for n in archive.namelist() if "/Greek/character05/" in n and n.endswith(".png"))
        image = Image.open(io.BytesIO(archive.read(file)))
        assert (image.mode, image.size) == ("1", (105, 105))
        original = np.asarray(image, dtype=np.uint8)
        centres = ((np.arange(28) + 0.5) * 105 / 28).astype(int)
        nearest = original[centres][:, centres]
        for how in (None, Image.Resampling.LANCZOS, Image.Resampling.NEAREST):
            assert np.array_equal(np.asarray(image.resize((28, 28), how), dtype=np.uint8), nearest)
        grey = np.asarray(image.convert("L").resize((28, 28), Image.Resampling.LANCZOS))
        assert len(np.unique(grey)) > 2  # what converting to grey first would give
    assert np.array_equal(bits[names.index("Greek/character05"), 0], 1 - nearest)


def test_the_authors_choices_are_the_defaults(real: Path) -> None:
    maml, reptile = omniglot(real), omniglot(real, scheme="reptile")
    assert (maml.classes, maml.instances, maml.rotations) == (1100, 20, "episode")
    assert (reptile.classes, reptile.rotations) == (4800, "classes")
    assert omniglot(real, "test", "reptile").classes == 423
    assert omniglot(real, "val", "vinyals", rotations="none").classes == 172
    assert omniglot(real, "test", "lake").classes == 659
    generator = torch.Generator().manual_seed(0)
    ink = maml.episodes(5, 1, 15, 8)(generator)
    assert ink.support_x.shape == (8, 5, 1, 28, 28)
    assert set(ink.query_x.unique().tolist()) == {0.0, 1.0}
    assert 0.03 < ink.query_x.mean() < 0.2  # ink is scarce
    paper = reptile.episodes(5, 1, 15, 8)(generator)
    assert 0.8 < paper.query_x.mean() < 0.97
    swapped = omniglot(real, scheme="reptile", ink=1)
    assert torch.equal(swapped.images, 1 - reptile.images)
