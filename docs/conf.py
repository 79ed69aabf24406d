"""The documentation site: ``make docs`` builds it into out/site; every warning is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import mdsd_bounds

DOCS = Path(__file__).parent
ROOT = DOCS.parent

# The notebooks stand at the top level of the repository; the site shows them as they were executed there.
# Links from a notebook to a page of docs/ are one folder shorter there.
(DOCS / "notebooks").mkdir(exist_ok=True)
for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
    (DOCS / "notebooks" / notebook.name).write_text(notebook.read_text().replace("../docs/", "../"))

project = "mdsd_bounds"
author = "the mdsd_bounds developers"
copyright = "the mdsd_bounds developers, MIT licence"
release = mdsd_bounds.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "myst_nb",
]
exclude_patterns = [
    "examples",
    "results/tree_rules",
    "gallery/*.ipynb",
    "**sg_execution_times.rst",
    "**.ipynb_checkpoints",
]

# Notebooks are executed by the tests, which hold their outputs against the code; the site only shows them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "download_all_examples": False,
    "remove_config_comments": True,
    "capture_repr": (),
    "show_memory": False,
    "min_reported_time": 10_000,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "pydata_sphinx_theme"
html_title = "mdsd_bounds"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
# Pages without a section of their own need no sidebar; wide tables need its room.
_OWN = ("methods", "glossary", "claims", "chimera", "judge", "MAP")
_WIDE = (
    "trees",
    "study",
    "scale",
    "optimal_certificates",
    "optimal_comparison",
    "lossy_frontier",
    "results/**",
    "notebooks/**",
)
html_sidebars = {page: [] for page in (*_OWN, *_WIDE)}
html_theme_options = {
    "navigation_with_keys": True,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    # Short pages full of commands and their output need the room more than a table of contents.
    "secondary_sidebar_items": {"[!h]**": ["page-toc"], "hardening": ["page-toc"], "howto/**": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Browsers draw MathML themselves: the site's formulas need neither a script nor a network.
html_math_renderer = "mathml"
# Sphinx keeps a picture of its environment; functions in this file cannot be part of it.
suppress_warnings = ["config.cache"]


def setup(app: Any) -> None:
    """Formulas as MathML."""

    def visit(translator: Any, node: Any) -> None:
        display = "block" if isinstance(node, nodes.math_block) else "inline"
        translator.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    app.add_html_math_renderer("mathml", inline_renderers=(visit, None), block_renderers=(visit, None))
