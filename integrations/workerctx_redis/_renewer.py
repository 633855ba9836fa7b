"""Renewing leases from a thread that no event loop can hold up, through a line of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import attrs

from workerctx.errors import StoreClosed, StoreUnavailable
from workerctx.queue.finish import check_ttl
from workerctx.queue.hand import Call
from workerctx_redis._jobs import renewal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from workerctx.queue.model import Renewed
    from workerctx_redis._line import Line

_GRACE: Final = 2.0
"""Seconds beyond the line's own limit."""


@attrs.define(eq=False)
class RedisRenewer:
    """`LeaseRenewer` with a connection of its own.

    Threads: used by one thread.
    """

    _make_line: Callable[[], Line]
    _timeout: float
    _line: Line | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def renew(self, lease_ids: Sequence[str], extend_by: float) -> Renewed:
        """Renew leases for ``extend_by`` seconds from now; see `LeaseRenewer.renew`."""
        check_ttl("extend_by", extend_by)
        answered = threading.Event()
        call: Call[Renewed] = Call(renewal(lease_ids, extend_by), None, None, answered.set)
        try:
            (self._line or self._open()).post(call)
        except StoreClosed:
            self._open().post(call)
        if not answered.wait(2 * self._timeout + _GRACE):
            raise StoreUnavailable("the store did not answer in time; whether the leases were renewed is unknown")
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _open(self) -> Line:
        line = self._make_line()
        line.start()
        self._line = line
        return line
