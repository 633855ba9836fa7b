"""How Sphinx builds these pages: sphinx-build -n -W docs docs/_build."""

import ast
import inspect
import sys
from importlib import import_module
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

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
napoleon_use_ivar = True  # an attribute may be listed by its class and document itself
napoleon_custom_sections = ["Cancellation", "Threads"]

# The build needs no network, so names of other projects cannot be looked up. Ours must resolve.
nitpick_ignore_regex = [(r"py:.*", r"(?!workerctx).*")]

OURS = {
    "workerctx",
    "workerctx_opentelemetry",
    "workerctx_postgres",
    "workerctx_prometheus",
    "workerctx_redis",
    "workerctx_starlette",
}
PACKAGES = (
    "workerctx.lifecycle",
    "workerctx.queue",
    "workerctx.service",
    "workerctx.service.layers",
    "workerctx.runtime",
    "workerctx.remote",
    "workerctx.testing",
    "workerctx_starlette",
    "workerctx_postgres",
    "workerctx_redis",
    "workerctx_prometheus",
    "workerctx_opentelemetry",
)

for package in PACKAGES:
    import_module(package)

# Once everything is loaded, do the imports that are for type checkers only, so that annotations can be
# evaluated.
for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in OURS]:
    for node in ast.parse(inspect.getsource(module)).body:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                exec(compile(ast.Module(node.body, []), f"{module.__name__}, for type checkers", "exec"), vars(module))


def resolve_where_public(app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: Any) -> Any:
    """Lead a reference to the module that holds a name to where users import it from.

    Names that are not public, such as type variables and protocols of arguments, stay text.
    """
    module, _, name = node["reftarget"].rpartition(".")
    if not hasattr(sys.modules.get(module), name):
        return None
    for package in PACKAGES:
        if module.startswith(f"{package}."):
            python, public = env.domains.python_domain, f"{package}.{name}"
            found = python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, contents)
            if found:
                return found
    return contents


def setup(app: Sphinx) -> None:
    """Hook into the build."""
    app.connect("missing-reference", resolve_where_public)
