"""The claim of who has nothing to do: made ready while it waits, and begun by the wake-up itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue import Claimed, ClaimRequest, JobQueue, Prepared, Wakeups

_FEW: Final = 16
"""How many jobs are claimed ahead: whoever gets them all looks again, and whoever has less room by then takes none."""


@frozen(eq=False)
class Ready:
    """What to claim now, and the claim if it was prepared."""

    request: ClaimRequest
    claim: Prepared[Sequence[Claimed]] | None = None


@define(eq=False)
class ClaimAhead:
    """At most one claim that was prepared, for an owner whose wishes may change until it is begun."""

    _jobs: JobQueue
    _ready: Ready | None = field(default=None, init=False)

    def prepare(self, request: ClaimRequest, wakeups: Wakeups) -> None:
        """Have the next wake-up begin a claim, instead of the one that was prepared before."""
        self.drop()
        request = msgspec.structs.replace(request, limit=min(request.limit, _FEW))
        claim = self._jobs.prepare_claim(request)
        if claim is not None:
            self._ready = Ready(request, claim)
            wakeups.then(claim)

    def take(self, request: ClaimRequest) -> Ready:
        """Return what was prepared if it gets nothing that is not asked for now, and else, dropping it, the request."""
        ready = self._ready
        if ready is not None and _covers(request, ready.request):
            self._ready = None
            return ready
        self.drop()
        return Ready(request)

    def drop(self) -> None:
        """Do without it; jobs that it has got are given back."""
        ready, self._ready = self._ready, None
        if ready is not None and ready.claim is not None:
            ready.claim.drop()


def _covers(request: ClaimRequest, other: ClaimRequest) -> bool:
    """Tell whether a claim asks for whatever another one gets."""
    alike = msgspec.structs.replace(other, limit=request.limit, began=request.began)
    return alike == request and other.limit <= request.limit
