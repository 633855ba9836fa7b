"""Workers that can take the same jobs, which are claimed for all of them together and dealt out by room."""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING, Final

import anyio
from attrs import Factory, define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import Claimed
    from workerctx.runtime.ahead import ClaimAhead
    from workerctx_starlette.gateway._session import Session

_LARGEST_CLAIM: Final = 1000
_FEW: Final = 16
"""How many workers are compared at least before a job is handed out."""


@frozen
class Profile:
    """What a worker can take; workers with the same one are served together."""

    queues: tuple[str, ...]
    kinds: tuple[str, ...]
    labels: tuple[str, ...]
    weights: frozenset[tuple[str, int]] = frozenset()


@define(eq=False)
class Line:
    """The workers of one profile.

    Attributes:
        sessions: All of them.
        hungry: Those that want more than they got, in the order in which they said so; not all of them have room, as
            one that holds as much as it may waits here until the store has heard of some of that.
        look: Whether there may be jobs for them that were not seen yet.
        narrow: Whether the last look left out kinds that nobody had room for.
        ahead: The claim that the next wake-up begins.
        scope: Around the task that hears wake-ups for them.
    """

    profile: Profile
    ahead: ClaimAhead
    sessions: dict[Session, None] = field(factory=dict["Session", None], init=False)
    hungry: dict[Session, None] = field(factory=dict["Session", None], init=False)
    look: bool = field(default=True, init=False)
    narrow: bool = field(default=False, init=False)
    scope: anyio.CancelScope = field(factory=anyio.CancelScope, init=False)
    _seen: anyio.Event | None = field(default=None, init=False)

    def looked(self, *, again: bool) -> None:
        """Take note of a look for jobs, and whether there may be more of them, or have been meanwhile."""
        self.look |= again
        if self._seen is not None and not self.look:
            self._seen.set()

    async def all_seen(self) -> None:
        """Wait until the queues were looked at and nothing was left there."""
        while self.look:
            self._seen = anyio.Event()
            await self._seen.wait()

    def queue(self, session: Session) -> None:
        """Let a worker wait for jobs if it wants any; one that waits already keeps its place."""
        if session.wanted > 0:
            self.hungry[session] = None
        else:
            self.hungry.pop(session, None)

    def has_room(self) -> bool:
        """Tell whether any of its workers can take a job now."""
        return any(session.free > 0 for session in self.hungry)

    def room(self) -> int:
        """Return how many jobs to claim now."""
        room = 0
        for session in self.hungry:
            room += max(0, session.free)
            if room >= _LARGEST_CLAIM:
                return _LARGEST_CLAIM
        return room

    def kind_limits(self) -> dict[str, int]:
        """Return how many jobs of each kind there is room for; a kind that one worker does not limit is left out."""
        sessions = [session for session in self.hungry if session.free > 0]
        if not all(session.kind_limits for session in sessions):
            return {}
        limited = set[str]().union(*(session.kind_limits for session in sessions))
        return {
            kind: min(_LARGEST_CLAIM, sum(session.kind_limits[kind] for session in sessions))
            for kind in limited
            if all(kind in session.kind_limits for session in sessions)
        }

    def deal(self, jobs: Sequence[Claimed]) -> Sequence[Claimed]:
        """Hand jobs to workers that have room for them, and return those that nobody has room for any more.

        Of those that have waited longest, the one with most room comes first; all of them are asked only if need be.
        """
        if not jobs:
            return ()
        rest = self._deal_among(list(islice(self.hungry, _FEW + 2 * len(jobs))), jobs)
        return self._deal_among(list(self.hungry), rest) if rest else ()

    def _deal_among(self, sessions: Sequence[Session], jobs: Sequence[Claimed]) -> Sequence[Claimed]:
        heap = [_Place(session, number) for number, session in enumerate(sessions) if session.free > 0]
        heapq.heapify(heap)
        rest: list[Claimed] = []
        for claimed in jobs:
            unfit: list[_Place] = []
            while heap and not heap[0].takes(claimed):
                unfit.append(heapq.heappop(heap))
            if heap:
                heap[0].put(claimed)
                heapq.heapreplace(heap, heap[0])
            else:
                rest.append(claimed)
            for place in unfit:
                heapq.heappush(heap, place)
        for place in heap:
            if place.jobs:
                place.session.give(place.jobs)
                del self.hungry[place.session]  # it goes behind those that wait longer
                self.queue(place.session)
        return rest


@define(eq=False)
class _Place:
    """The room at one worker, while jobs are dealt out; the one with most comes first."""

    session: Session
    number: int
    free: int = field(default=Factory(lambda self: self.session.free, takes_self=True), init=False)
    limits: dict[str, int] = field(
        default=Factory(lambda self: dict(self.session.kind_limits), takes_self=True), init=False
    )
    jobs: list[Claimed] = field(factory=list["Claimed"], init=False)

    def __lt__(self, other: _Place) -> bool:
        return (-self.free, self.number) < (-other.free, other.number)

    def takes(self, claimed: Claimed) -> bool:
        return self.free > 0 and self.limits.get(claimed[0].kind, 1) > 0

    def put(self, claimed: Claimed) -> None:
        kind = claimed[0].kind
        self.jobs.append(claimed)
        self.free -= 1
        if kind in self.limits:
            self.limits[kind] -= 1
