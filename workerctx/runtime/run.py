"""A claimed job on its way through a worker, and what it takes up there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Hashable

    from anyio import CancelScope

    from workerctx.queue import Lease, QueuedJob
    from workerctx.service import JobCtx


@define(eq=False)
class Run:
    """A claimed job on its way through this worker.

    Attributes:
        claimed_at: when it was claimed, on the event loop's clock.
        counted: whether the store knows that the run began.
        ctx: the handler's context, once it runs.
        scope: what cancels it, once it runs.
        began_at: when a slot took it, on the same clock.
        seats: what it takes up of the limits of its kind.
        line: where it stands in line for them.
        refusal: why it fails instead of running.
    """

    job: QueuedJob
    lease: Lease
    claimed_at: float
    counted: bool
    ctx: JobCtx | None = None
    scope: CancelScope | None = None
    began_at: float = 0.0
    seats: tuple[Seats, ...] = ()
    line: dict[str, Run] | None = None
    refusal: Exception | None = None


@define(eq=False)
class Seats:
    """So many jobs at once; claimed ones beyond that stand in line, first come first."""

    limit: int
    key: Hashable = None
    taken: int = field(default=0, init=False)
    line: dict[str, Run] = field(factory=dict[str, "Run"], init=False)
    """By lease id."""

    @property
    def is_full(self) -> bool:
        """Whether nobody else may sit down."""
        return self.taken >= self.limit
