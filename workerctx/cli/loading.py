"""Finding what ``MODULE:OBJECT`` names."""

from __future__ import annotations

import importlib
import os
import sys

from workerctx.errors import CommandError
from workerctx.service import JobRegistry


def load_registry(target: str) -> JobRegistry:
    """Import the registry that ``MODULE:OBJECT`` names; the working directory is searched first.

    Raises:
        CommandError: there is no such module or object, or it is no registry.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or module_name.startswith(".") or not attribute:
        raise CommandError(f"{target!r} does not name a registry: write MODULE:OBJECT, for example app:jobs")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (module_name + ".").startswith(exc.name + "."):
            raise
        raise CommandError(
            f"there is no module {module_name!r} here or on sys.path: check its name and where you are"
        ) from exc
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise CommandError(f"module {module_name!r} has no {attribute!r}: name the JobRegistry that it makes")
        found = getattr(found, part)
    if not isinstance(found, JobRegistry):
        raise CommandError(f"{target} is a {type(found).__name__}, not a JobRegistry: name the registry itself")
    return found
