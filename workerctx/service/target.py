"""The import path of a function: how another process finds it."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attrs import frozen

from workerctx.errors import InvalidHandler

if TYPE_CHECKING:
    from collections.abc import Callable


@frozen
class Target:
    """Where a function can be imported.

    Attributes:
        module: Its module.
        qualname: Its name there.
    """

    module: str
    qualname: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Target:
        """Return the import path of a function.

        Raises:
            InvalidHandler: Another process could not import it, or there are no process groups here.
        """
        module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        if os.name != "posix":
            raise InvalidHandler(
                f'{qualname} cannot have executor="process" on this system, which has no process groups to end a '
                "run by: leave it out, and the handler runs in a thread"
            )
        if module is None or qualname is None:
            raise InvalidHandler(f"{function!r} has no import path, by which its process finds it: write a function")
        if not all(part.isidentifier() for part in qualname.split(".")):
            raise InvalidHandler(
                f"{qualname} is local, so its process could not import it: define it at the top of a module"
            )
        if module == "__main__":
            raise InvalidHandler(
                f"{qualname} stands in the program that is being run, and its process would have to run that again: "
                "move it to a module and import it, or start the worker with `workerctx worker MODULE:OBJECT`"
            )
        if not _is_found(module):
            raise InvalidHandler(
                f"{qualname} stands in {module!r}, which is on no import path, so its process could not import it: "
                "put the module where `import` finds it"
            )
        return cls(module, qualname)

    def find(self) -> Any:
        """Import what stands there.

        Raises:
            InvalidHandler: Nothing does.
        """
        try:
            found: Any = import_module(self.module)
            for part in self.qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as exc:
            raise InvalidHandler(f"{self} cannot be imported: {exc}; keep a handler where it was registered") from exc
        return found

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"


def _is_found(module: str) -> bool:
    """Tell whether a module that is being imported could be imported once more, by another process."""
    package = module.rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None) if package else None
    if package and path is None:
        return False
    return any(finder.find_spec(module, path) is not None for finder in sys.meta_path)
