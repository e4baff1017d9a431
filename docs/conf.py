"""How Sphinx builds this site: pages in MyST Markdown, tutorials executed from ../examples, no network."""

import os
import sys

from docutils import nodes
from sphinx.application import Sphinx

import mar_pipeline

os.environ.update(MPLBACKEND="Agg", COLUMNS="84")
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # `mar` of this environment

project = "mar-pipeline"
author = "the mar-pipeline authors"
project_copyright = author
release = mar_pipeline.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.programoutput",
]
exclude_patterns = [
    "tutorials/*.ipynb",
    "tutorials/*.py",
    "tutorials/*.md5",
    "tutorials/*.zip",
    "sg_execution_times.rst",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's settings hold nothing that could be pickled

default_role = "py:obj"  # `name` in a docstring links to what these pages document, and is code otherwise
nitpick_ignore_regex = [(r"py:(obj|class|exc)", ".*")]  # docstrings also name what is not public, and others' types

html_theme = "furo"
html_title = f"mar-pipeline {release}"
html_static_path = ["_static"]
html_show_sphinx = False
html_copy_source = False

autodoc_typehints = "none"  # the docstrings say shapes and units, which types do not
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "notebook_extensions": set(),
    "capture_repr": (),
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
}


def setup(app: Sphinx) -> None:
    """Clean what the program prints as it is read."""
    app.connect("doctree-read", remove_backspaces)


def remove_backspaces(_: Sphinx, page: nodes.document) -> None:
    """Remove what a terminal would not show: jsonargparse's help takes a space back by a backspace."""
    for block in page.findall(nodes.literal_block):
        if "\b" in block.astext():
            clean = block.astext().replace(" \b", "")
            block.replace_self(nodes.literal_block(clean, clean, language=block.get("language", "text")))
