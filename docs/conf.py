"""How Sphinx builds these pages: sphinx-build -n -W docs docs/_build."""

import workerctx

project = "workerctx"
author = "The workerctx maintainers"
release = version = workerctx.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"workerctx {release}"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation", "Threads"]

# The build needs no network, so names of other projects cannot be looked up. Ours must resolve.
nitpick_ignore_regex = [(r"py:.*", r"(?!workerctx).*")]
