"""Who holds what: the leases of connected workers, and of those that have just gone.

Leases of a worker that is gone are not given back at once: they get `resume_window` seconds to live. If the worker
comes back in time, here or at another gateway, it says what it holds and nothing is done twice; if not, they expire.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.queue import CancelReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workerctx.queue import JobQueue
    from workerctx_starlette.gateway._config import GatewayConfig
    from workerctx_starlette.gateway._session import Session

_log = logging.getLogger("workerctx")

_FORGOTTEN: Final = 3
"""How many heartbeats may leave out a lease before its worker no longer counts as its holder."""


@define(eq=False)
class Holding:
    """A lease at a worker.

    Attributes:
        reported: Whether the outcome is on its way to the store.
        told: Whether the worker was told to stop the run.
        unmentioned: How many heartbeats in a row have left it out.
    """

    lease_id: str
    session: Session
    reported: bool = False
    told: bool = False
    unmentioned: int = 0


@define(eq=False)
class Leases:
    """The leases of one namespace that this gateway keeps alive."""

    _jobs: JobQueue
    _config: GatewayConfig
    _held: dict[str, Holding] = field(factory=dict[str, Holding], init=False)
    _parting: dict[str, None] = field(factory=dict[str, None], init=False)
    """Leases whose worker is gone, and whose last renewal is still to be made."""

    def get(self, lease_id: str) -> Holding | None:
        """Return a lease that is held here."""
        return self._held.get(lease_id)

    def take(self, session: Session, lease_id: str) -> None:
        """Note that a worker holds a lease, whoever did before."""
        self.drop(lease_id)
        self._parting.pop(lease_id, None)
        self._held[lease_id] = session.holdings[lease_id] = Holding(lease_id, session)

    def drop(self, lease_id: str) -> None:
        """Forget a lease: it is finished, lost, or given back."""
        holding = self._held.pop(lease_id, None)
        if holding is not None:
            del holding.session.holdings[lease_id]

    def part(self, session: Session) -> None:
        """Let the leases of a worker that is gone live on for a while."""
        for lease_id in list(session.holdings):
            self.drop(lease_id)
            self._parting[lease_id] = None

    def confirm(self, session: Session, leases: Iterable[str]) -> None:
        """Note which leases a worker says that it holds; one that it leaves out repeatedly is let expire."""
        mentioned = set(leases)
        for holding in list(session.holdings.values()):
            holding.unmentioned = 0 if holding.lease_id in mentioned else holding.unmentioned + 1
            if holding.unmentioned >= _FORGOTTEN:
                self.drop(holding.lease_id)

    def is_foreign(self, lease_id: str, subject: str) -> bool:
        """Tell whether a lease is held by a worker of somebody else.

        Workers with the same credentials may speak for each other: one that is started again tells what the journal of
        the one before it holds.
        """
        holding = self._held.get(lease_id)
        return holding is not None and holding.session.identity.subject != subject

    async def bring_back(self, leases: Sequence[str], subject: str) -> set[str]:
        """Renew what a worker says that it still holds, and return what it does not; a store that hangs tells later."""
        foreign = {lease_id for lease_id in leases if self.is_foreign(lease_id, subject)}
        own = [lease_id for lease_id in leases if lease_id not in foreign]
        if not own:
            return foreign
        try:
            with anyio.fail_after(self._config.register_timeout / 2):
                renewed = await self._jobs.renew_leases(own, extend_by=self._config.lease_ttl)
        except Exception as exc:  # noqa: BLE001 - the next round will tell
            _log.warning("leases of a worker that came back could not be renewed: %s", exc)
            return foreign
        return foreign.union(renewed.lost)

    async def renew(self) -> None:
        """Renew everything once, and tell workers what is lost or should stop."""
        held = list(self._held)
        if held:
            renewed = await self._jobs.renew_leases(held, extend_by=self._config.lease_ttl)
            for lease_id in renewed.lost:
                self._tell(lease_id, CancelReason.LEASE_LOST)
                self.drop(lease_id)
            for lease_id, reason in renewed.cancelled.items():
                self._tell(lease_id, reason)
        # After the renewal above, so that a lease whose worker left meanwhile has the shorter life.
        parting = list(self._parting)
        if parting:
            await self._jobs.renew_leases(parting, extend_by=self._config.resume_window)
            for lease_id in parting:
                self._parting.pop(lease_id, None)

    def _tell(self, lease_id: str, reason: CancelReason) -> None:
        holding = self._held.get(lease_id)
        if holding is not None and not (holding.told or holding.reported):
            holding.told = True
            holding.session.cancel(lease_id, reason)
