"""ONNX Runtime for browsers: two files of the npm package onnxruntime-web, fetched once and checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from innerloop.folders import user_cache
from innerloop.learner.files import write_atomically

__all__ = ["LICENSE", "VERSION", "RuntimeFilesError", "web_runtime"]

VERSION = "1.22.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
TARBALL = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
"""The SHA-512 of the package, as the npm registry states it."""

FILES: Mapping[str, str] = {
    "ort.wasm.min.mjs": "6ef726f355b791129f7ddf3f62e7877a16b9b777abe87004b8ab306e6b9cf265",
    "ort-wasm-simd-threaded.mjs": "30dd851d9c00622940500f71ddd2ff8820c5cb65270816080175b958705385a8",
    "ort-wasm-simd-threaded.wasm": "71aef04959c5c1b6de461b6538e2058e306610034a85aad2742d0c7fd4533fe4",
}
"""The files of the package that a page needs, and their SHA-256."""

SECONDS = 300
"""How long npm may take."""

BY_HAND = f"run 'npm pack {PACKAGE}' where there is a network, unpack the file, and name its folder with --runtime DIR"


class RuntimeFilesError(OSError):
    """The files of onnxruntime-web cannot be had, or are not the expected ones. The message says what to do."""


def web_runtime(folder: Path | None = None) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by name.

    They come from a folder that is named, or from the user's cache folder, or from the npm registry. Wherever they
    come from, their contents are compared with the expected hashes. What was fetched is kept in the cache folder.

    Args:
        folder: an unpacked package. None means the cache folder, and then the registry.

    Raises:
        RuntimeFilesError: a file is absent or has other contents, or npm is absent or has no network.
    """
    if folder is not None:
        return {name: _checked(name, _beneath(folder, name)) for name in FILES}
    cache = user_cache() / "onnxruntime-web" / VERSION
    try:
        return {name: _checked(name, cache / name) for name in FILES}
    except RuntimeFilesError:
        found = _from_registry()
    with contextlib.suppress(OSError):  # without a cache folder the files are fetched again the next time
        cache.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            write_atomically(cache / name, content)
    return found


def _beneath(folder: Path, name: str) -> Path:
    """A file in an unpacked package, whichever of its folders is named."""
    places = [folder / inner / name for inner in ("dist", "package/dist", ".")]
    return next((place for place in places if place.is_file()), places[0])


def _checked(name: str, file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RuntimeFilesError(f"{file} cannot be read ({error.strerror}); --runtime needs {PACKAGE}") from error
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise RuntimeFilesError(f"{file} is not the file of {PACKAGE}: its contents are others; {BY_HAND}")
    return content


def _from_registry() -> dict[str, bytes]:
    """The files, out of the package that npm fetches."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeFilesError(f"the program npm, which fetches {PACKAGE}, is not installed; install it, or {BY_HAND}")
    with tempfile.TemporaryDirectory() as place:
        # npm reads no settings of a project from an empty folder, and runs no script of a package that it packs.
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error", "--pack-destination", place]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeFilesError(f"npm did not fetch {PACKAGE} ({error}); {BY_HAND}") from error
        found = sorted(Path(place).glob("*.tgz"))
        if done.returncode or not found:
            errors = [line for line in done.stderr.splitlines() if line.lower().startswith(("npm error", "npm err!"))]
            said = errors[0] if errors else f"its exit status was {done.returncode}"
            raise RuntimeFilesError(f"npm could not fetch {PACKAGE} ({said}); try again with a network, or {BY_HAND}")
        return _unpacked(found[0])


def _unpacked(package: Path) -> dict[str, bytes]:
    """The files in a package whose contents are as the registry stated when this was written."""
    digest = hashlib.sha512(package.read_bytes()).digest()
    if base64.b64encode(digest).decode() != TARBALL:
        raise RuntimeFilesError(f"npm fetched another file than {PACKAGE}: its contents are others; {BY_HAND}")
    with tarfile.open(package) as archive:
        members = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


LICENSE = f"""The files in runtime.js are of onnxruntime-web {VERSION}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
"""The licence that goes with a copy of the files."""
