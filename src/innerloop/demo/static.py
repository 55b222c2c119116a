"""The page as a folder of files that needs no server: the browser itself runs the inner loop, in ONNX Runtime."""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from innerloop.demo.bundle import bundled
from innerloop.demo.contenders import Contender, Shown
from innerloop.demo.described import described
from innerloop.demo.requests import Limits
from innerloop.demo.web_runtime import LICENSE, web_runtime
from innerloop.export.adaptation import Setting, adaptation
from innerloop.learner.files import CheckpointError, write_atomically

__all__ = ["write_static"]

MODULE = '  <script type="module" src="main.js"></script>\n'
POLICY = (
    "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src blob:; connect-src blob:; "
    "style-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'"
)
"""The page's Content-Security-Policy: nothing may be fetched but what the page holds."""

SCRIPTS = f"""  <meta http-equiv="Content-Security-Policy" content="{POLICY}">
  <script defer src="learners.js"></script>
  <script defer src="page.js"></script>
  <script defer src="runtime.js"></script>
"""
"""What takes the place of the page's module."""


def write_static(
    shown: Shown, folder: Path, *, runtime: Path | None = None, limits: Limits | None = None
) -> list[Path]:
    """Write the page and its learners as static files, which work on any web server and when opened as a file.

    The learners become ONNX graphs with their inner loops inside, each compared with PyTorch before it is written.

    Args:
        shown: the learners, see :func:`innerloop.demo.opened`.
        folder: the folder to write. Files of the same names are replaced.
        runtime: an unpacked package onnxruntime-web. None means the user's cache folder, and then the npm registry.
        limits: the bounds of what can be drawn.

    Returns:
        The files.

    Raises:
        CheckpointError: the learners have preprocessing of their own, which is Python.
        ExportError: a learner cannot be exported.
        RuntimeFilesError: the files of onnxruntime-web cannot be had.
        OSError: the folder cannot be written.
    """
    limits = limits or Limits()
    if any(one.photographs and one.learner.preprocessing is not None for one in shown.contenders):
        raise CheckpointError(
            "the learner prepares photographs by Python code, which a browser cannot run; choose a learner of "
            "drawings, or serve the page with 'innerloop demo RUN'"
        )
    script, glue, wasm = web_runtime(runtime).values()
    contents = _of_page()
    with tempfile.TemporaryDirectory() as place:
        graphs = {f"{one.key}.onnx": _graph(one, shown, limits, Path(place)) for one in shown.contenders}
    setup = {**described(shown, limits), "server": False, "ink": shown.ink}
    for learner, one in zip(setup["learners"], shown.contenders, strict=True):
        learner.update(_facts(one, shown))
    embedded = {"worker.js": files("innerloop.demo").joinpath("in_browser/worker.js").read_bytes(), **graphs}
    contents["learners.js"] = f"globalThis.innerloop = {{ files: {{}} }};\ninnerloop.setup = {json.dumps(setup)};\n"
    contents["learners.js"] += _embedded(embedded)
    contents["runtime.js"] = _embedded({"ort.mjs": script, "ort-glue.mjs": glue, "ort.wasm": wasm})
    contents["LICENSE-onnxruntime.txt"] = LICENSE
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


def _of_page() -> dict[str, str]:
    """The page's own files: its modules as one script, the rest as it is."""
    demo = files("innerloop.demo")
    found = {file.name: file.read_text("utf-8") for file in demo.joinpath("page").iterdir() if "." in file.name}
    modules = {name: text for name, text in found.items() if name.endswith(".js")}
    for name in ("backend.js", "safetensors.js"):
        modules[name] = demo.joinpath("in_browser", name).read_text("utf-8")
    rest = {name: text for name, text in sorted(found.items()) if name not in modules}
    assert MODULE in rest["index.html"]
    rest["index.html"] = rest["index.html"].replace(MODULE, SCRIPTS)
    return {**rest, "page.js": bundled(modules, "main.js")}


def _graph(one: Contender, shown: Shown, limits: Limits, place: Path) -> bytes:
    """A learner's inner loop as an ONNX graph: a task in, losses, predictions and parameters out."""
    x, y = _example(shown, shown.ways)
    file = place / f"{one.key}.onnx"
    inputs: tuple[Setting, ...] = ("ways",) if one.any_ways else ()
    adaptation(
        one.learner,
        file,
        x,
        y,
        steps=one.steps,
        ways=shown.ways if one.any_ways else None,
        every_step=True,
        parameters=True,
        inputs=inputs,
        max_support=shown.ways * limits.shots,
    )
    return file.read_bytes()


def _facts(one: Contender, shown: Shown) -> dict[str, Any]:
    """What the browser must know to write the file of an adapted network, see :meth:`Contender.adapted`."""
    few, more = (one.trace(*_example(shown, ways), _example(shown, 1)[0][:0], ways).params for ways in (2, 3))
    head = [name for name, tensor in few.items() if tensor.shape != more[name].shape]
    return {"anyWays": one.any_ways, "head": head, "header": one.header()}


def _example(shown: Shown, ways: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A task of random images, one for each class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(ways, shown.channels, shown.size, shown.size, generator=generator)
    return x, torch.arange(ways)


def _embedded(contents: Mapping[str, bytes]) -> str:
    """A script that holds files: a page that is opened from a file may not fetch others."""
    return "".join(
        f'innerloop.files["{name}"] = "{base64.b64encode(gzip.compress(content, mtime=0)).decode()}";\n'
        for name, content in contents.items()
    )
