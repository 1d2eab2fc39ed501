"""How Sphinx makes the book: the notebooks as they are committed, the pages of book/, and the API from docstrings.

The source folder is the whole checkout, so that a link which works on GitHub or in JupyterLab works here, too:

    sphinx-build -c book . book/_build/html                                 (that is what `make book` does,
    sphinx-build -c book -D language=zh_CN . book/_build/html/zh_CN          and this, for the Chinese pages)
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "extensions"))  # Sphinx finds extensions by name only

import minivllm  # noqa: E402

project = "minivllm"
release = minivllm.__version__
author = "the authors of minivllm"
copyright = "the authors of minivllm, Apache License 2.0"
root_doc = "book/index"
language = "en"

include_patterns = ["book/**", "notebooks/*.ipynb"]
exclude_patterns = [
    "book/_build/**",
    "book/README.md",
    "book/extensions/**",
    "book/locale/**",
    "book/simulator/**",
    "book/templates/**",
    "book/**/.*/**",  # a pattern that begins with **/. would also leave out the style sheets of html_static_path
]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "course_pages",
    "measured",
    "translated",
]

# The notebooks are executed and compared by `python -m minivllm.course notebooks`; the book shows what they show.
nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "image/svg+xml", 10)]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]
copybutton_selector = "div.highlight-ipython3 pre, div.highlight-shell pre, div.highlight-python pre"

default_role = "code"  # single backticks, as the docstrings have them
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
add_module_names = False
autodoc_default_options = {"members": True}

html_theme = "furo"
templates_path = ["templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/languages.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_title = "minivllm"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_extra_path = ["pages"]  # index.html at the top, which leads to book/index.html
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": False}  # the arrow keys step through the pictures

# `make translations` brings book/locale/ up to date. Comments with line numbers would change with every edit.
locale_dirs = ["book/locale"]  # seen from the checkout
gettext_compact = False
gettext_uuid = False
gettext_location = False
