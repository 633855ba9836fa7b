"""The leases that are a worker's until their outcomes are acknowledged, and which of their runs have begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@define(eq=False)
class Held:
    """What a worker knows of its leases.

    Threads: whoever uses it holds a lock.
    """

    _jobs: dict[str, str] = field(factory=dict[str, str], init=False)
    """Whose leases they are; those of an earlier process are nobody's."""
    _uncounted: set[str] = field(factory=set[str], init=False)
    """Those whose run the store does not know to begin."""
    _begun: set[str] = field(factory=set[str], init=False)
    """Those among them whose run has begun."""
    _untold: list[str] = field(factory=list[str], init=False)
    """Those among them of which the gateway was not told in this session."""

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._jobs

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def job_of(self, lease_id: str) -> str:
        """Return whose lease it is; empty if that is not known."""
        return self._jobs.get(lease_id, "")

    def take(self, lease_id: str, job_id: str = "", *, counted: bool = True) -> None:
        """Hold a lease.

        Args:
            lease_id: The lease.
            job_id: Whose it is.
            counted: Whether the store knows that its run begins.
        """
        self._jobs[lease_id] = job_id
        if not counted:
            self._uncounted.add(lease_id)

    def begin(self, lease_ids: Iterable[str]) -> None:
        """Note that runs have begun."""
        fresh = [lease_id for lease_id in lease_ids if lease_id in self._uncounted and lease_id not in self._begun]
        self._begun.update(fresh)
        self._untold += fresh

    def end(self, lease_id: str) -> None:
        """Note that a run has ended, so that nobody needs to hear that it began."""
        self._uncounted.discard(lease_id)
        self._begun.discard(lease_id)

    def drop(self, lease_id: str) -> None:
        """Hold a lease no more."""
        self._jobs.pop(lease_id, None)
        self.end(lease_id)

    def renew(self) -> None:
        """Begin a new session, in which the gateway was told nothing."""
        self._untold = [lease_id for lease_id in self._begun if lease_id in self._jobs]

    def collect(self) -> tuple[str, ...]:
        """Take the leases of runs that have begun, go on, and of which the gateway was not told."""
        untold, self._untold = self._untold, []
        return tuple(lease_id for lease_id in untold if lease_id in self._begun)
