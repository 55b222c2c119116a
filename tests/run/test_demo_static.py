"""The page without a server, in a real browser with no network: it adapts there, and as PyTorch does here.

Beside a browser it needs the files of onnxruntime-web, from the user's cache folder or with npm from the registry.
Where one of these is absent the tests are skipped, and say so.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from browser_helpers import CHROMIUM, IN_A_BROWSER, QUIET, draw, listening
from safetensors import safe_open
from safetensors.torch import load

import innerloop as il
from innerloop.demo import Contender, Limits, Shown, opened
from innerloop.demo.requests import task_in
from innerloop.demo.web_runtime import RuntimeFilesError, web_runtime

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytest.importorskip("onnxruntime")
pytestmark = IN_A_BROWSER

ASK = """async (drawings) => {
  const { "raster.js": raster, "backend.js": backend } = innerloop.modules;
  const levels = drawings.map((strokes) => raster.fromStrokes(strokes, innerloop.setup));
  const classes = [[levels[0]], [levels[1], levels[2]], [levels[3]]];
  const task = { classes, names: ["a", "b", "c"], query: levels[4] };
  const answer = await backend.adapt(task);
  const bytes = async ({ id }) => [...new Uint8Array(await (await backend.model(task, id)).arrayBuffer())];
  const models = await Promise.all(answer.learners.map(bytes));
  return { levels: levels.map((one) => [...one]), answer, models };
}"""
DRAWINGS = [
    [[[0.1, 0.1], [0.9, 0.15], [0.5, 0.8]]],
    [[[0.2, 0.5], [0.8, 0.5]], [[0.5, 0.2], [0.5, 0.8]]],
    [[[0.25, 0.5], [0.85, 0.55]], [[0.5, 0.1], [0.45, 0.8]]],
    [[[0.3, 0.3], [0.6, 0.3], [0.6, 0.6], [0.3, 0.6], [0.3, 0.3]]],
    [[[0.15, 0.45], [0.8, 0.5]], [[0.5, 0.25], [0.55, 0.9]]],
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def runtime() -> None:
    try:
        web_runtime()
    except RuntimeFilesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def written(shown: Shown, folder: Path) -> Path:
    from innerloop.demo.static import write_static

    write_static(shown, folder)
    return folder


def same_as_pytorch(page: Any, shown: Shown) -> None:
    """What the browser answers to drawings is what the server would: images, probabilities, losses and the file."""
    found = page.evaluate(ASK, DRAWINGS)
    images = [base64.b64encode(bytes(levels)).decode() for levels in found["levels"]]
    classes = [images[:1], images[1:3], images[3:4]]
    task = task_in(json.dumps({"classes": classes, "query": images[4], "names": list("abc")}).encode(), shown, Limits())
    assert [answer["id"] for answer in found["answer"]["learners"]] == [one.key for one in shown.contenders]
    for one, answer, model in zip(shown.contenders, found["answer"]["learners"], found["models"], strict=True):
        expected = one.answer(task.x, task.y, task.queries, task.ways)
        assert torch.tensor(answer["probabilities"]).shape == (one.steps + 1, 3)
        for name in ("probabilities", "losses"):
            assert (torch.tensor(answer[name]) - torch.tensor(expected[name])).abs().max() < 1e-3
        here, there = load(bytes(model)), load(one.adapted(task.x, task.y, task.ways, task.names))
        assert here.keys() == there.keys()
        assert torch.equal(here["support"], there["support"])  # the same images, to the bit
        assert all((here[name] - there[name]).abs().max() < 1e-3 for name in there)


@pytest.mark.usefixtures("runtime")
def test_the_whole_demo_runs_in_the_browser_without_a_network(browser: Any, tmp_path: Path) -> None:
    shown = opened()
    shown = replace(shown, contenders=shown.contenders[:1])
    folder = written(shown, tmp_path / "site")
    foreign: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"

        def blocked(route: Any) -> None:
            if route.request.url.startswith((address, "blob:")):
                route.continue_()
            else:
                foreign.append(route.request.url)
                route.abort()

        context.route("**/*", blocked)
        page = listening(context.new_page())
        page.goto(address)
        page.wait_for_selector(".guess strong")
        server.shutdown()
    context.set_offline(True)  # from here on nothing answers at all
    assert page.locator(".guess strong").all_inner_texts() == ["E"]
    page.locator("#query .tool").nth(1).click()
    page.wait_for_selector("#notice:not([hidden])")
    draw(page, page.locator("#query .pad"), [(0.15, 0.5), (0.85, 0.5)])
    draw(page, page.locator("#query .pad"), [(0.5, 0.2), (0.5, 0.8), (0.52, 0.8)])
    page.wait_for_selector("#notice", state="hidden")
    page.wait_for_selector("#answers:not(.is-working) .guess strong")
    page.locator("#step").fill("0")
    assert page.locator(".tied").count() == 1
    page.locator("#language").click()
    page.locator(".about summary").click()
    assert "你的图不会离开这个浏览器" in page.locator("#about").inner_text()
    with page.expect_download() as download:
        page.locator(".save").click()
    download.value.save_as(tmp_path / "adapted.safetensors")
    with safe_open(tmp_path / "adapted.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list("ABCDE")
        assert file.get_tensor("head.weight").shape == (5, 128)
    same_as_pytorch(page, shown)
    assert page.complaints == []
    assert foreign == []
    context.close()


@pytest.mark.usefixtures("runtime")
def test_it_opens_as_a_file_and_shows_any_learner_of_drawings(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = {"name": "conv4", "arguments": {"ways": 3, "filters": 2, "size": 16}}
    nets = [il.nets.conv4(ways=3, filters=2, size=16) for _ in range(2)]
    learners = [il.Learner(net, il.maml(0.1, 2), norm="inductive", net_spec=spec) for net in nets]
    both = tuple(Contender(key, "mine", one, 2, {}) for key, one in zip(("run", "other"), learners, strict=True))
    shown = Shown(both, size=16, ink=0, ways=3)
    page = listening(browser.new_page())
    page.goto(written(shown, tmp_path / "site").joinpath("index.html").as_uri())
    page.wait_for_selector("#notice:not([hidden])")  # it asks for drawings
    same_as_pytorch(page, shown)
    assert page.complaints == []
    assert all(url.startswith(("file:", "blob:")) for url in page.asked)
    page.close()
