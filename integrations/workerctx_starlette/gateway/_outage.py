"""Whether the store of a namespace answers, as a gateway's readiness and its log say."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from workerctx.lifecycle import WorkerContext

_log = logging.getLogger("workerctx")


@define(eq=False)
class Outage:
    """The time in which a store fails.

    Attributes:
        failures: How often it has failed in a row.
    """

    _context: WorkerContext
    _namespace: str
    failures: int = field(default=0, init=False)

    def failed(self, error: Exception) -> None:
        """Take note of a failure."""
        if not self.failures:
            _log.warning(
                "gateway %r cannot reach the store of namespace %r and tries again",
                self._context.name,
                self._namespace,
                exc_info=error,
            )
        self.failures += 1
        self._context.mark_unready(f"the store of namespace {self._namespace!r} fails: {error}", about=self._namespace)

    def answered(self) -> None:
        """Take note that the store answers."""
        failures, self.failures = self.failures, 0
        if failures:
            self._context.mark_ready(about=self._namespace)
            _log.warning(
                "gateway %r reaches the store of namespace %r again after %d failures",
                self._context.name,
                self._namespace,
                failures,
            )
