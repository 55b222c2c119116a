"""The documentation site: ``make docs`` builds it into build/site. A warning is an error.

The sources are the Markdown files of the repository where they lie, and the docstrings. Nothing is fetched, neither
while building nor by a reader's browser.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "website"), str(ROOT / "src")]

project = "innerloop"
author = "the innerloop authors"
copyright = author  # noqa: A001 - the name that Sphinx reads
root_doc = "README"
highlight_language = "none"  # of blocks that name no language: mostly commands
include_patterns = ["*.md", "docs/**", "benchmarks/README.md"]
exclude_patterns = ["docs/methods/notes/**"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "pages", "formulas"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_admonition_for_examples = False
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "innerloop"
html_favicon = "static/icon.svg"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["innerloop.css"]
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#3340a8", "color-brand-content": "#3340a8"},
    "dark_css_variables": {"color-brand-primary": "#a3adff", "color-brand-content": "#a3adff"},
}
templates_path = ["templates"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
