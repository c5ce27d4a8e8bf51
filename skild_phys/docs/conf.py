"""Configuration of Sphinx: `make docs` builds the pages of this folder, warnings being errors."""

import re
from typing import Any

from skild_phys import __version__

project = "skild-phys"
author = "The skild-phys developers"
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_click",
]
html_theme = "furo"
html_title = "skild-phys"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
autodoc_typehints = "signature"
autodoc_type_aliases = {"Lattices": "Lattices", "Source": "Source"}
autodoc_member_order = "bysource"
napoleon_google_docstring = False
exclude_patterns = ["_build"]
smartquotes = False  # two dashes are an option


def described(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Take what stands behind `name : ` for a description: types are in the signatures."""
    section, out = "", []
    for i, line in enumerate(lines):
        if set(lines[min(i + 1, len(lines) - 1)]) == {"-"}:
            section = line
        parts = re.match(r"([\w*, ]+) : (.+)", line)
        if parts and section in ("Parameters", "Attributes", "Raises"):
            out += [parts[1], "    " + parts[2]]
        else:
            out.append(line)
    # `(n, *shape)` and |m| are no emphasis and no substitution.
    lines[:] = [re.sub(r"(?<=[ (])\*(?=\w+\b[^*])|\|(?=\w)|(?<=\w)\|", r"\\\g<0>", x) for x in out]


def left_out(app: Any, what: str, name: str, item: Any, skip: bool, options: Any) -> bool | None:
    """Leave fields of named tuples to the section Attributes of their class."""
    return True if str(item.__doc__).startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Have docstrings rewritten before napoleon reads them."""
    app.connect("autodoc-process-docstring", described, priority=400)
    app.connect("autodoc-skip-member", left_out)
