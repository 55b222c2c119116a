"""The pages of the site and their order, their languages, and the start page."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTIONS = {
    "": ["docs/tutorial", "docs/examples", "docs/demo"],
    "How-to guides": [
        "docs/how-to/README",
        "docs/own-data",
        "docs/data-sets",
        "docs/models",
        "docs/rules",
        "docs/how-to/own-method",
        "docs/how-to/own-data-set",
        "docs/training",
        "docs/how-to/lightning",
        "docs/how-to/accelerate",
        "docs/how-to/gpu",
        "docs/how-to/distributed",
        "docs/callbacks",
        "docs/plots",
        "docs/sweeps",
        "docs/export",
    ],
    "Concepts": ["docs/concepts", "docs/learner", "docs/methods/README", "docs/recipes"],
    "Reference": ["docs/reference/index"],
    "As measured": ["docs/results", "docs/reproduce", "docs/performance", "benchmarks/README"],
    "How it is built": ["docs/design", "docs/kernels", "docs/recordings", "CONTRIBUTING", "CHANGELOG", "SECURITY"],
    "中文": [
        "README.zh-CN",
        "docs/zh/tutorial",
        "docs/zh/how-to/README",
        "docs/zh/own-data",
        "docs/zh/models",
        "docs/zh/rules",
        "docs/zh/how-to/own-method",
        "docs/zh/how-to/own-data-set",
        "docs/zh/training",
        "docs/zh/how-to/lightning",
        "docs/zh/how-to/accelerate",
        "docs/zh/how-to/gpu",
        "docs/zh/how-to/distributed",
        "docs/zh/export",
    ],
}
"""The pages of each part of the side bar. The first part is the start page's own."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what happens when pages are read and written."""
    app.add_config_value("pages_of_the_site", SECTIONS, "env", (dict,))  # the start page holds them: it is read again
    app.connect("source-read", read)
    app.connect("html-page-context", in_its_language)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the lists of pages to the pages that have them, and mark examples with prompts as such."""
    text = re.sub(
        r"^```(?:python)?\n(>>> .*?)\n*^```$", r"```pycon\n\1\n```", source[0], flags=re.MULTILINE | re.DOTALL
    )
    text = re.sub(r'^```python title="(.*)"$', r"```{code-block} python\n:caption: \1", text, flags=re.MULTILINE)
    if other := in_other_language(name, app.env.found_docs):
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n[{'English' if is_chinese(name) else '中文'}](/{other}.md)\n{rest}"
    if name == app.config.root_doc:
        text += "".join(tree(caption, pages) for caption, pages in SECTIONS.items())
    if name == "docs/methods/README":
        methods = sorted(path.stem for path in Path(app.srcdir, "docs", "methods").glob("[a-z]*.md"))
        text += tree("", [f"docs/methods/{method}" for method in methods])
    source[0] = joined(text) if is_chinese(name) else text


def tree(caption: str, pages: list[str]) -> str:
    """A list of pages for the side bar."""
    lines = [f":caption: {caption}"] if caption else []
    return "\n".join(["\n\n```{toctree}", ":hidden:", *lines, "", *(f"/{page}" for page in pages), "```\n"])


def joined(text: str) -> str:
    """Chinese text without the ends of lines that browsers would show as spaces. Blocks of code stay as they are."""
    wide = "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”]"
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(rf"(?<={wide})\n[ ]*(?={wide})", "", parts[i])
        parts[i] = re.sub(r"(?<=[，。；：、）])\n[ ]*(?=[^\s#|>*-])", "", parts[i])
    return "".join(parts)


def in_its_language(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Name the language of a page, for browsers and for people who listen to it."""
    if is_chinese(name):
        context["language"] = "zh-CN"


def is_chinese(name: str) -> bool:
    """Whether a page is in Chinese."""
    return name.startswith("docs/zh/") or name.endswith(".zh-CN")


def in_other_language(name: str, pages: Collection[str]) -> str:
    """The page in the other language that a page should link to; empty if there is none. The start pages have links."""
    if name.startswith("docs/zh/"):
        return name.replace("docs/zh/", "docs/", 1)
    chinese = name.replace("docs/", "docs/zh/", 1)
    return chinese if chinese != name and chinese in pages else ""


def finish(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's root to the start page."""
    if error is None and app.builder.format == "html":
        target = f"{app.config.root_doc}.html"
        refresh = f'<meta http-equiv="refresh" content="0; url={target}">'
        text = f'<!doctype html><meta charset="utf-8"><title>innerloop</title>{refresh}'
        Path(app.outdir, "index.html").write_text(f'{text}<a href="{target}">innerloop</a>\n', encoding="utf-8")
