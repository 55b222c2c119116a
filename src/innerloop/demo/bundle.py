"""The page's modules in one classic script: a page that is opened from a file may not load modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["BundleError", "bundled"]

IMPORT = re.compile(r'^import \{ ([^}]*) \} from "\./([\w.-]+)";$', re.M)
EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.M)
LEFT_OVER = re.compile(r"^(?:import|export)\b.*", re.M)


class BundleError(ValueError):
    """A module has an import or an export of a form that is not known, or the modules import each other in a ring."""


def bundled(sources: Mapping[str, str], main: str) -> str:
    """One classic script that does what a module and all that it imports do.

    Each module becomes a function, which runs once and returns what the module exports. The modules are also found
    under ``innerloop.modules``, by their names.

    Args:
        sources: the modules' texts, by their file names. They import each other as ``import { a, b } from "./c.js";``,
            and export functions, classes and constants where they declare them.
        main: the module to begin with. It exports nothing, and may use ``await`` outside of functions.

    Raises:
        BundleError: an import or an export has another form, a module is absent, or modules import each other.
    """
    parts: list[str] = []
    for name in _in_order(sources, main):
        text = _without_imports(name, sources[name])
        exported = [match[2] for match in EXPORT.finditer(text)]
        text = EXPORT.sub(r"\1 \2", text)
        if left := LEFT_OVER.search(text):
            raise BundleError(f"{name} has the line {left[0]!r}; write imports and exports as the other modules do")
        if name == main:
            parts.append(f"// {name}\n(async () => {{\n{text}}})();\n")
        else:
            parts.append(
                f'// {name}\nmodules["{name}"] = (() => {{\n{text}return {{ {", ".join(exported)} }};\n}})();\n'
            )
    return '"use strict";\n{\nconst modules = (innerloop.modules = {});\n\n' + "\n".join(parts) + "}\n"


def _without_imports(name: str, text: str) -> str:
    return IMPORT.sub(lambda match: f'const {{ {match[1].replace(" as ", ": ")} }} = modules["{match[2]}"];', text)


def _in_order(sources: Mapping[str, str], main: str) -> list[str]:
    """The names of a module and of all that it imports, each after those that it imports."""
    order: list[str] = []
    above: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in above:
            raise BundleError(f"modules import each other: {' -> '.join([*above, name])}")
        if name not in sources:
            raise BundleError(f"{above[-1]} imports {name}, which does not exist")
        above.append(name)
        for match in IMPORT.finditer(sources[name]):
            visit(match[2])
        order.append(above.pop())

    visit(main)
    return order
