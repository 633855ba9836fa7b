"""How Sphinx builds these pages: sphinx-build -n -W docs docs/_build."""

import sys
import typing
from importlib import import_module

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
default_role = "py:obj"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cancellation", "Threads"]

# The build needs no network, so names of other projects cannot be looked up. Ours must resolve.
nitpick_ignore = [("py:obj", "workerctx.testing")]
nitpick_ignore_regex = [(r"py:.*", r"(?!workerctx).*")]

PACKAGES = ("workerctx.lifecycle", "workerctx.queue")

# With the imports that are for type checkers only, the annotations can be evaluated.
typing.TYPE_CHECKING = True
for package in PACKAGES:
    import_module(package)
typing.TYPE_CHECKING = False


def resolve_where_public(app, env, node, contents):
    """Lead a reference to the module that holds a name to where users import it from.

    Names that are not public, such as type variables and protocols of arguments, stay text.
    """
    target = node["reftarget"]
    module, _, name = target.rpartition(".")
    for package in PACKAGES:
        if module.startswith(f"{package}.") and hasattr(sys.modules.get(module), name):
            public = f"{package}.{name}"
            python = env.domains.python_domain
            found = python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, contents)
            return found or contents
    return None


def setup(app):
    """Hook into the build."""
    app.connect("missing-reference", resolve_where_public)
