"""Configuration of Sphinx: `make docs` builds the pages of this folder, warnings being errors."""

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
