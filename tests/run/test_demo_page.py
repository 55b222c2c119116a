"""The demo's page in a real browser: drawing, adapting, undoing, uploading, two languages, two pages at once.

It needs the package playwright and a Chromium: ``chromium`` on the path, or the one that INNERLOOP_CHROMIUM names.
Where either is absent the tests are skipped, and say so.
"""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_helpers import CHROMIUM, IN_A_BROWSER, QUIET, draw, listening
from PIL import Image, ImageDraw
from processes import start_innerloop
from safetensors.torch import load_file

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = start_innerloop("demo", "--port", "0")
    line = server.first_line()
    assert line.startswith("open http://127.0.0.1:"), line
    yield line.split()[1]
    server.send_signal(signal.SIGTERM)
    server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, accept_downloads=True)
    yield opened(context, address)
    context.close()


def opened(context: Any, address: str) -> Any:
    """A page that has its first answers. What the browser complains of is an error."""
    page = listening(context.new_page())
    page.goto(address)
    page.wait_for_selector(".guess strong")
    assert page.complaints == []
    return page


def answers(page: Any) -> list[str]:
    return list(page.locator(".guess strong").all_inner_texts())


def bars(page: Any) -> int:
    return int(page.locator('[data-learner="maml"] .bars li').count())


def after(page: Any, act: Any) -> None:
    """Do something, and wait until what has been asked is answered and shown."""
    with page.expect_response("**/api/adapt") as response:
        act()
    assert response.value.ok
    page.wait_for_selector("#answers:not(.is-working)")


def test_it_opens_on_a_filled_example_and_asks_nobody_else(page: Any, address: str) -> None:
    assert bars(page) == 5
    right = page.locator(".classes .name").nth(4).input_value()
    assert answers(page)[:2] == [right, right]  # MAML and Reptile know the fifth symbol again
    assert all(url.startswith((address, "blob:", "data:")) for url in page.asked)
    page.locator("#step").fill("0")  # before the first step nobody knows anything
    assert page.locator(".tied").count() == 3
    assert page.locator(".value").first.inner_text() == "20%"


def test_each_stroke_adapts_and_can_be_undone(page: Any) -> None:
    page.locator(".adder button").click()
    pads = page.locator(".classes .pad")
    assert bars(page) == 5  # a symbol without a drawing does not count
    after(page, lambda: draw(page, pads.nth(5), [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8)]))
    assert bars(page) == 6
    query = page.locator("#query .pad")
    after(page, lambda: page.locator("#query .tool").nth(1).click())
    assert page.locator("#notice").is_visible()
    after(page, lambda: draw(page, query, [(0.25, 0.25), (0.85, 0.22), (0.82, 0.8)]))
    assert page.locator("#notice").is_hidden()
    assert answers(page)[:2] == ["F", "F"]
    for expected in (6, 6, 5):
        after(page, lambda: page.keyboard.press("Control+z"))
        assert bars(page) == expected
    after(page, lambda: page.keyboard.press("Control+Shift+z"))
    assert bars(page) == 6
    page.locator(".classes .tool[title^='Remove']").first.click()
    after(page, lambda: page.locator("#undo").click())
    assert bars(page) == 6


def test_the_keyboard_draws_too(page: Any) -> None:
    query = page.locator("#query .pad")
    query.focus()
    after(page, lambda: page.keyboard.press("Delete"))
    page.keyboard.press("Space")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    assert "%" in page.locator("#spoken").inner_text()
    after(page, lambda: page.keyboard.press("Space"))
    assert page.locator(".guess strong").count() == 3
    assert page.evaluate("document.activeElement.className") == "pad"


def ring() -> bytes:
    picture = Image.new("L", (300, 240), 235)
    ImageDraw.Draw(picture).ellipse((90, 50, 210, 170), outline=40, width=9)
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()


def test_pictures_can_be_uploaded_and_bad_ones_are_refused(page: Any) -> None:
    def choose(*files: tuple[str, str, bytes]) -> None:
        with page.expect_file_chooser() as chooser:
            page.locator("#query .tool").first.click()
        chooser.value.set_files([{"name": n, "mimeType": kind, "buffer": content} for n, kind, content in files])

    before = page.locator(".seen canvas").evaluate("c => c.toDataURL()")
    after(page, lambda: choose(("ring.png", "image/png", ring())))
    assert page.locator(".seen canvas").evaluate("c => c.toDataURL()") != before
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30000).to_bytes(4, "big") * 2 + b"\x01\0\0\0\0"
    blank = io.BytesIO()
    Image.new("L", (20, 20), 255).save(blank, "png")
    for name, kind, content, said in (
        ("notes.txt", "text/plain", b"hello", "no picture"),
        ("broken.png", "image/png", ring()[:60], "no picture"),
        ("bomb.png", "image/png", bomb, "too large"),
        ("blank.png", "image/png", blank.getvalue(), "nothing that stands out"),
    ):
        choose((name, kind, content))
        notice = page.locator("#notice[data-kind=error]", has_text=name)
        notice.wait_for()
        assert said in notice.inner_text()
    assert page.locator(".guess strong").count() == 3  # what was there is still there


def test_it_speaks_two_languages_and_remembers(page: Any) -> None:
    page.locator("#language").click()
    assert page.locator("h1").inner_text() == "看一遍，就学会。"
    page.locator("#theme").click()
    page.reload()
    page.wait_for_selector(".guess strong")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    left = page.evaluate(
        "[...document.querySelectorAll('button, [role=application], input')].filter(e => e.checkVisibility() &&"
        " !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length"
    )
    assert left == 0  # everything that can be used has a name
    page.locator("#language").click()
    assert page.locator("h1").inner_text() == "Show it once. It learns."


def test_two_pages_at_once_do_not_disturb_each_other(browser: Any, address: str, page: Any) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    other = opened(context, address)
    after(other, lambda: other.locator("#clear").click() or other.locator("#undo").click())
    pad = other.locator("#query .pad")
    pad.scroll_into_view_if_needed()
    after(other, pad.tap)  # a dot
    after(page, lambda: page.locator("#next").click())
    assert bars(page) == bars(other) == 5
    assert page.locator("#query .pad").evaluate("c => c.toDataURL()") != pad.evaluate("c => c.toDataURL()")
    assert other.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert other.evaluate("[...document.querySelectorAll('.pad')].every((pad) => pad.width === pad.height)")
    context.close()


def test_the_adapted_network_is_downloaded(page: Any, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.locator('[data-learner="reptile"] .save').click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "reptile-adapted.safetensors"
    assert load_file(path)["head.weight"].shape[0] == 5


def test_drawings_become_images_as_omniglots_do(page: Any) -> None:
    """The pixels that are sampled are Pillow's, and a drawing has Omniglot's size and place wherever it is drawn."""
    numbers = Image.fromarray(np.arange(105, dtype=np.uint8)[None].repeat(105, 0))
    expected = np.asarray(numbers.resize((28, 28), Image.Resampling.NEAREST))[0].tolist()
    found = page.evaluate(
        """async () => {
          const raster = await import("./raster.js");
          const images = { size: 28, channels: 1 };
          const square = (a, b) => [[[a, a], [b, a], [b, b], [a, b], [a, a]]];
          return {
            sampled: Array.from({ length: 28 }, (_, i) => raster.sampled(i, 28) - 0.5),
            large: [...raster.fromStrokes(square(0.1, 0.9), images)],
            small: [...raster.fromStrokes(square(0.3, 0.6), images)],
            dot: [...raster.fromStrokes([[[0.2, 0.2]]], images)].filter(Boolean).length,
          };
        }"""
    )
    assert found["sampled"] == expected
    assert found["large"] == found["small"]
    rows = np.flatnonzero(np.array(found["large"]).reshape(28, 28).any(1))
    assert 17 <= len(range(rows[0], rows[-1] + 1)) <= 20  # 69 of 105 pixels
    assert 1 <= found["dot"] <= 4
    assert json.loads(page.request.get(page.url + "api/setup").text())["size"] == 28
