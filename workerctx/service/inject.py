"""Injection as a handler writes it: which parameters are filled when its job runs, and from where.

A parameter that is to be injected is keyword-only and says so with its default::

    async def resize(ctx: JobCtx, path: str, *, db: Annotated[DB, From(get_db)] = injected()) -> str: ...

Where its value comes from is the annotation's business: `From` a provider; a type that implements `FromRequest`; any
other type, looked up in the request's data. A provider's own parameters are filled in the same way, without a default.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, Self, TypeAlias, get_args, get_origin

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.service.request import Request

Provider: TypeAlias = "Callable[..., Any]"


class FromRequest(Protocol):
    """A type that makes its own value from a request; `from_request` may be async."""

    @classmethod
    def from_request(cls, request: Request, /) -> Self | Awaitable[Self]:
        """Return the value for this request.

        Raises:
            MissingData: The request lacks what is needed.
        """
        ...


@frozen(eq=False)
class From:
    """Marks, in `Annotated`, who provides a parameter: ``Annotated[DB, From(get_db)]``.

    One provider is called once per request, however many parameters name it.

    Args:
        provider: A function, sync or async; or one decorated with `contextlib.asynccontextmanager` or
            `contextlib.contextmanager`, which is left after the handler; or a class, whose instances are entered and
            left if they are context managers. Sync ones run on the event loop, so they must not block.
    """

    provider: Provider


class _Injected(Enum):
    INJECTED = auto()

    def __repr__(self) -> str:
        return "injected()"


INJECTED: Final = _Injected.INJECTED
"""What `injected` returns: the default that marks a parameter."""


def injected() -> Any:
    """Mark a keyword-only parameter, as its default, to be filled by its annotation when the job runs."""
    return INJECTED


def source_of(annotation: Any) -> Any:
    """Return the marker of an annotation that says where a value comes from, or None if it has none."""
    if get_origin(annotation) is not Annotated:
        return None
    for marker in get_args(annotation)[1:]:
        if isinstance(marker, From) or callable(getattr(marker, "from_request", None)):
            return marker
    return None
