"""Formulas as MathML, which browsers show by themselves, with no script and no font."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
PRIME = "\u2032"
ElementTree.register_namespace("", NAMESPACE.strip("{}"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name ``mathml``."""
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def displayed(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def mathml(formula: str, display: str) -> str:
    """A formula of LaTeX as MathML."""
    made = ElementTree.fromstring(convert(formula.strip().replace(r"\textstyle", ""), display=display))
    unraised(made)
    return ElementTree.tostring(made, encoding="unicode")


def unraised(element: ElementTree.Element) -> None:
    """Take primes out of superscripts, in place: the sign is small and raised by itself, and would be tiny there."""
    for place, child in enumerate(element):
        unraised(child)
        kind = child.tag.removeprefix(NAMESPACE)
        if kind in ("msup", "msubsup") and set("".join(child[-1].itertext())) == {PRIME}:
            *rest, primes = child
            row = ElementTree.Element(f"{NAMESPACE}mrow")
            if kind == "msup":
                row.append(rest[0])
            else:
                ElementTree.SubElement(row, f"{NAMESPACE}msub").extend(rest)
            sign = ElementTree.SubElement(row, f"{NAMESPACE}mo", {"lspace": "0", "rspace": "0"})
            sign.text = "".join(primes.itertext())
            element[place] = row
