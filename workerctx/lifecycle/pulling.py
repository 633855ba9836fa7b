"""Pulling items from a source for as long as a worker takes work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from workerctx.lifecycle.latch import Latch
    from workerctx.lifecycle.ledger import Ledger

T = TypeVar("T")


class UntilStopped(AsyncIterator[T], Generic[T]):
    """The iterator behind `WorkerContext.until_stopped`; a plain class, so no scope is left open between items."""

    def __init__(self, ledger: Ledger, stopping: Latch, source: AsyncIterable[T]) -> None:
        self._ledger = ledger
        self._stopping = stopping
        self._source = aiter(source)

    async def __anext__(self) -> T:
        ledger = self._ledger
        while not self._stopping.holds():
            await ledger.gate.wait()
            if ledger.full:
                ledger.attentive = True
                await ledger.room.wait()
            if not self._stopping.holds() and not ledger.full and ledger.gate.holds():
                break
        if self._stopping.holds():
            raise StopAsyncIteration
        with anyio.CancelScope() as scope, self._stopping.cancelling(scope):
            return await anext(self._source)
        raise StopAsyncIteration
