"""Reading functions: their signatures with annotations resolved, and whether they are async."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from workerctx.errors import InvalidHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Scope: TypeAlias = "Mapping[str, Any] | None"
"""Local names around a function that was defined inside another one."""


def read_signature(
    function: Callable[..., Any], where: str, scope: Scope = None, *, with_result: bool = True
) -> inspect.Signature:
    """Return a signature with its annotations resolved.

    Args:
        function: Any callable.
        where: Its name, for messages.
        scope: Local names around a function that was defined inside another one.
        with_result: Whether the return annotation matters; if not, it may name what only a type checker knows.

    Raises:
        InvalidHandler: It has none, or a name in an annotation cannot be resolved at run time.
    """
    names = scope if "<locals>" in getattr(function, "__qualname__", "") else None
    try:
        try:
            return inspect.signature(function, locals=names, eval_str=True)
        except NameError:
            if with_result:
                raise
            return _without_result(function, names)
    except (TypeError, ValueError) as exc:
        raise InvalidHandler(f"cannot read the signature of {where}: {exc}; wrap it in a function") from exc
    except NameError as exc:
        raise InvalidHandler(
            f"cannot resolve the annotations of {where}: {exc}; its types decide how jobs are decoded and injected, "
            "so import them outside `if TYPE_CHECKING:`"
        ) from exc


def _without_result(function: Callable[..., Any], local: Scope) -> inspect.Signature:
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    signature = inspect.signature(function)
    parameters = [
        each.replace(annotation=eval(each.annotation, names, local)) if isinstance(each.annotation, str) else each  # noqa: S307 - an annotation is code of the program, and inspect evaluates it the same way
        for each in signature.parameters.values()
    ]
    return inspect.Signature(parameters)


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling a function, partial, method or callable object gives a coroutine."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        not isinstance(function, type) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - the method itself is wanted
    )
