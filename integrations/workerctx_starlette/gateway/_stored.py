"""Which outcomes were stored lately, for workers that tell them again."""

from __future__ import annotations

from typing import Final

from attrs import define, field

_REMEMBERED: Final = 20_000
"""How many are remembered at least, once there were as many."""


@define(eq=False)
class Stored:
    """The latest leases whose outcome was stored here."""

    _latest: set[str] = field(factory=set[str], init=False)
    _before: set[str] = field(factory=set[str], init=False)

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._latest or lease_id in self._before

    def add(self, lease_id: str) -> None:
        """Remember one."""
        self._latest.add(lease_id)
        if len(self._latest) >= _REMEMBERED:
            self._before, self._latest = self._latest, set()
