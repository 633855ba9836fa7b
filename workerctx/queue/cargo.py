"""What travels from one store to another, and what a store must be able to do so that nothing gets lost or doubled.

A batch leaves the source's live tables and enters its outbox in one transaction, enters the target's live tables in
one, and leaves the outbox in a third. The target remembers which batches came, so each of the three steps may be
repeated; whoever was killed in between is followed by somebody who finds the batch in the outbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

import attrs

from workerctx.errors import InvalidRequest, MoveRefused
from workerctx.queue.base import Storage
from workerctx.queue.model import JobState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from workerctx.queue.limits import LimitInUse
    from workerctx.queue.model import QueuedJob
    from workerctx.queue.schedule import Schedule

BATCH_SIZE: Final = 500
"""How many jobs one batch holds, unless more of them depend on each other."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""How many bytes of payloads and results are enough for a batch, however few jobs these are."""

HISTORY: Final = frozenset({JobState.SUCCEEDED, JobState.CANCELLED})
"""The states whose jobs move only on request, or because a job that moves needs their outputs."""


@attrs.frozen(kw_only=True)
class Batch:
    """Records that travel together, neither here nor there until they arrive.

    Attributes:
        id: A new one for each batch.
        target: The store for which it was taken out, as `Moving.identity` names it.
        jobs: Not one of them is running, and none depends on a live job that is not among them.
        schedules: With the times of their ticks.
    """

    id: str
    target: str
    jobs: Sequence[QueuedJob] = ()
    schedules: Sequence[Schedule] = ()


@attrs.frozen(kw_only=True)
class Arrived:
    """What became of a batch.

    Attributes:
        again: Whether it had come before, so that nothing was changed.
        jobs: How many jobs were added.
        schedules: How many schedules were added or joined with those of the same name.
        cancelled: Jobs that could not stay alive here, and the reason with which they were added as cancelled.
    """

    again: bool = False
    jobs: int = 0
    schedules: int = 0
    cancelled: Mapping[str, str] = attrs.field(factory=dict[str, str])


@attrs.frozen(kw_only=True)
class Settings:
    """What holds for jobs on both sides of a move; it is copied, and stays where it was.

    Attributes:
        limits: The rate limits.
        pauses: The paused queues, and when each resumes by itself.
        workflows: The cancelled workflows.
    """

    limits: Sequence[LimitInUse] = ()
    pauses: Mapping[str, float | None] = attrs.field(factory=dict[str, "float | None"])
    workflows: Collection[str] = ()


class Moving(Protocol):
    """Handing jobs over to another store, and taking over those of one.

    What `workerctx.queue.base` says of errors, commits and cancellation holds here too.
    """

    async def identity(self) -> str:
        """Return a text that names this namespace of this store, and no other one anywhere."""
        ...

    async def take_out(self, target: str, *, limit: int = BATCH_SIZE, history: bool = False) -> Batch | None:
        """Take records out of the live tables into the outbox, in one transaction.

        Jobs that wait, dead ones and all schedules are taken; jobs that are running, and those that depend on them,
        on which they depend, or that need the outputs of the same job, stay. Jobs that depend on each other are
        never parted, and what they need the outputs of comes along.

        Args:
            target: Where they go: the identity of the other store.
            limit: About how many jobs; fewer if they are large.
            history: Whether succeeded and cancelled jobs are taken too.

        Returns:
            The batch; the one that is in the outbox already, if there is one; None if nothing can be taken now.

        Raises:
            MoveRefused: A batch in the outbox was taken out for another store.
        """
        ...

    async def outbox(self) -> Batch | None:
        """Return the batch that is in the outbox, if there is one."""
        ...

    async def put_in(self, batch: Batch) -> Arrived:
        """Add the records of a batch as they are, in one transaction, however often it is delivered.

        A job whose unique key is held here by an active job, or whose workflow is cancelled here, is added as
        cancelled with that reason. A schedule of a name that is known keeps the definition that it has here, and
        goes on with the earliest tick that has not fired on either side.

        Raises:
            MoveRefused: A job of its id is here; nothing was added.
        """
        ...

    async def clear_out(self, batch_id: str) -> None:
        """Forget a batch that has arrived; one that is not in the outbox is no error."""
        ...

    async def settings(self) -> Settings:
        """Return what must hold on both sides."""
        ...

    async def adopt(self, settings: Settings) -> None:
        """Let the settings of another store hold here too.

        A limit that is configured here keeps its rate, counts as many calls as used up as there, and is closed as long
        if it was drained there. Of two pauses of a queue the longer one holds. Jobs of cancelled workflows are
        cancelled.
        """
        ...


class MovableStorage(Storage, Protocol):
    """A `Storage` that can be moved from and to."""

    @property
    def moving(self) -> Moving:
        """The way out and in."""
        ...


def moving_of(storage: Storage) -> Moving:
    """Return a storage's way out and in.

    Raises:
        InvalidRequest: It has none.
    """
    if not hasattr(storage, "moving"):
        raise InvalidRequest(f"{storage.url} is of a kind that cannot be moved: name a store, not a gateway to one")
    return cast("MovableStorage", storage).moving


def check_target(batch: Batch, target: str) -> Batch:
    """Return a batch that is in the outbox, to be delivered where it should go.

    Raises:
        MoveRefused: It is for another store.
    """
    if batch.target != target:
        raise MoveRefused(
            f"{len(batch.jobs)} jobs are on their way from here to the store {batch.target}: finish that move first, "
            "or have them given back if that store is gone for good"
        )
    return batch


def check_absent(taken: Iterable[str]) -> None:
    """Refuse a batch some of whose jobs are in the target.

    Raises:
        MoveRefused: There are such.
    """
    names = sorted(taken)
    if names:
        raise MoveRefused(
            f"{len(names)} of the jobs that should arrive are here already, the first one is {names[0]!r}: was this "
            "moved from a copy before? Delete them on one of the two sides"
        )


def key_held(unique_key: str, holder: str) -> str:
    """Return the reason with which a job arrives cancelled whose unique key is held."""
    return f"its unique key {unique_key!r} was held by job {holder!r} when it was moved here"
