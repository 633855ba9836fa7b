"""One object of a layer's own for each key of its requests, on each event loop by itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import anyio
from anyio.lowlevel import RunVar
from attrs import define, field, frozen

from workerctx.service.jobctx import JobCtx

if TYPE_CHECKING:
    from workerctx.service.request import Request

S = TypeVar("S")

_FIRST_SWEEP = 64

Key: TypeAlias = "Callable[[Request], Hashable]"
"""Tells to which of a layer's groups a request belongs."""


def by_kind(request: Request) -> str:
    """Group by the handler's kind."""
    return request.kind


def by_tenant(request: Request) -> str | None:
    """Group by the job's tenant.

    Raises:
        MissingData: The request has no `JobCtx`.
    """
    return request.data.require(JobCtx).job.tenant_id


@define(eq=False)
class _Table(Generic[S]):
    states: dict[Hashable, S] = field(factory=dict[Hashable, S])
    sweep_at: int = _FIRST_SWEEP


@frozen(eq=False)
class Keyed(Generic[S]):
    """Makes the objects as they are needed and forgets them once they tell nothing any more.

    Args:
        make: Makes a fresh one.
        is_fresh: Whether one is, at a time on the event loop's clock, no different from a fresh one.
        by: The key of a request; None has one object for all.
    """

    make: Callable[[], S]
    is_fresh: Callable[[S, float], bool]
    by: Key | None = None
    _tables: RunVar[_Table[S] | None] = field(
        factory=lambda: RunVar[_Table[S] | None]("workerctx layer", None), init=False
    )

    def of(self, request: Request) -> S:
        """Return the object of a request's key."""
        return self.at(None if self.by is None else self.by(request))

    def at(self, key: Hashable) -> S:
        """Return the object of a key."""
        table = self._tables.get()
        if table is None:
            table = _Table[S]()
            self._tables.set(table)
        state = table.states.get(key)
        if state is None:
            if len(table.states) >= table.sweep_at:
                self._sweep(table)
            state = table.states[key] = self.make()
        return state

    def _sweep(self, table: _Table[S]) -> None:
        now = anyio.current_time()
        for key in [key for key, state in table.states.items() if self.is_fresh(state, now)]:
            del table.states[key]
        table.sweep_at = max(_FIRST_SWEEP, 2 * len(table.states))

    def __len__(self) -> int:
        table = self._tables.get()
        return 0 if table is None else len(table.states)
