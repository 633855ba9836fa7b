"""`inject`: endpoints that ask for a context in their signature."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast, get_args, get_origin

from attrs import frozen
from starlette.requests import HTTPConnection

from workerctx.lifecycle import WorkerContext
from workerctx_starlette._lookup import Named, worker_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EndpointT = TypeVar("EndpointT", bound="Callable[..., Any]")

_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def inject(endpoint: EndpointT) -> EndpointT:
    """Fill the parameters of an endpoint that are annotated with `WorkerContext`.

    With several contexts, ``Annotated[WorkerContext, Named("mailer")]`` says which one. A context that a caller passes
    by name is left alone, so an endpoint can be called directly, as in a test.

    Args:
        endpoint: a function, async or not, a method, or an `HTTPEndpoint` or `WebSocketEndpoint` class, whose methods
            are looked through.

    Raises:
        TypeError: nothing in it asks for a context, or a parameter that does is positional-only.
    """
    if not isinstance(endpoint, type):
        return cast("EndpointT", _filling(endpoint))
    asking = [name for name, method in inspect.getmembers(endpoint, inspect.isfunction) if _wanted(method)]
    if not asking:
        raise TypeError(_asks_for_nothing(endpoint))
    for name in asking:
        filled = _filling(getattr(endpoint, name))
        is_static = isinstance(inspect.getattr_static(endpoint, name), staticmethod)
        setattr(endpoint, name, staticmethod(filled) if is_static else filled)
    return cast("EndpointT", endpoint)


@frozen(eq=False)
class _Wanted:
    """A parameter to fill, and which context it asks for; None for the only one."""

    parameter: inspect.Parameter
    name: str | None


def _filling(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    wanted = _wanted(endpoint)
    if not wanted:
        raise TypeError(_asks_for_nothing(endpoint))
    signature = _signature(endpoint)
    ours = {each.parameter.name for each in wanted}
    places = [parameter for parameter in signature.parameters.values() if parameter.kind in _BY_POSITION]
    # From the first context on, what is passed by position belongs to the parameters between and behind the contexts.
    ahead = next((index for index, place in enumerate(places) if place.name in ours), len(places))
    behind = [place.name for place in places[ahead:] if place.name not in ours]

    def fill(args: tuple[object, ...], given: dict[str, object]) -> tuple[tuple[object, ...], dict[str, object]]:
        if ahead < len(places):
            args, rest = args[:ahead], args[ahead:]
            if len(rest) > len(behind):
                raise TypeError(f"{_label(endpoint)} got too many arguments: pass a worker by name")
            given |= zip(behind, rest, strict=False)
        missing = [each for each in wanted if each.parameter.name not in given]
        if missing:
            connection = _connection_among(endpoint, (*args, *given.values()))
            given |= {each.parameter.name: worker_from(connection, each.name) for each in missing}
        return args, given

    async def call_async(*args: object, **given: object) -> object:
        args, given = fill(args, given)
        return await endpoint(*args, **given)

    def call_sync(*args: object, **given: object) -> object:
        args, given = fill(args, given)
        return endpoint(*args, **given)

    # Starlette awaits async endpoints and runs the others in threads, so what stands for one must be of its kind.
    function = _function_of(endpoint)
    filled = functools.wraps(function)(call_async if inspect.iscoroutinefunction(function) else call_sync)
    # FastAPI would ask for a value for everything that it sees.
    shown = [parameter for parameter in signature.parameters.values() if parameter.name not in ours]
    vars(filled)["__signature__"] = signature.replace(parameters=shown)
    return filled


def _wanted(endpoint: Callable[..., Any]) -> list[_Wanted]:
    names: dict[str, Any] = getattr(inspect.unwrap(_function_of(endpoint)), "__globals__", {})
    wanted: list[_Wanted] = []
    for parameter in _signature(endpoint).parameters.values():
        asked, name = _asks_for(_evaluated(parameter.annotation, names))
        if asked and parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{_label(endpoint)}: {parameter.name!r} cannot be filled by name: move it behind the `/`")
        if asked:
            wanted.append(_Wanted(parameter, name))
    return wanted


def _signature(endpoint: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(endpoint, annotation_format=Format.FORWARDREF)
    return inspect.signature(endpoint)


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # noqa: S307 - an annotation is code of the program
    except Exception:  # noqa: BLE001 - other parameters may name what only a type checker knows
        return None


def _asks_for(annotation: Any) -> tuple[bool, str | None]:
    kind, *markers = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    asked = isinstance(kind, type) and issubclass(kind, WorkerContext)
    return asked, next((marker.name for marker in markers if isinstance(marker, Named)), None)


def _connection_among(endpoint: Callable[..., Any], given: tuple[object, ...]) -> Mapping[str, Any]:
    for value in given:
        if isinstance(value, HTTPConnection):
            return cast("Mapping[str, Any]", value)
    raise TypeError(
        f"{_label(endpoint)} was called with neither a request nor a websocket to take its worker from: take one as a"
        " parameter, or pass the worker by name"
    )


def _function_of(endpoint: Any) -> Callable[..., Any]:
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - any partial
    return endpoint if inspect.isroutine(endpoint) else type(endpoint).__call__


def _asks_for_nothing(endpoint: object) -> str:
    return (
        f"{_label(endpoint)} asks for no worker: annotate a parameter with WorkerContext, and import that outside"
        " `if TYPE_CHECKING:`, because annotations are read at run time"
    )


def _label(endpoint: object) -> str:
    return getattr(endpoint, "__qualname__", None) or repr(endpoint)
