"""How many jobs a worker wants, and what its gateway was told of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from workerctx.remote.frames import Credit

if TYPE_CHECKING:
    from collections.abc import Collection

    from workerctx.queue import ClaimRequest


@define(eq=False)
class Appetite:
    """The credit of one worker with its gateway.

    Attributes:
        received: How many tasks have arrived in this session.
        wanted: How many jobs the worker could take at its last look, beside those it got then.
    """

    _kinds: Collection[str]
    received: int = field(default=0, init=False)
    wanted: int = field(default=0, init=False)
    _claim: ClaimRequest | None = field(default=None, init=False)
    """How the worker asked last."""
    _offer: tuple[int, dict[str, int]] = field(default=(0, {}), init=False)
    """How many tasks this session may bring in all, and of some kinds how many of those that are still to come."""
    _told: tuple[int, dict[str, int]] = field(default=(0, {}), init=False)

    def begin(self) -> None:
        """Begin a session, in which nothing was received or told."""
        self.received, self._offer, self._told = 0, (0, {}), (0, {})

    def ask(self, claim: ClaimRequest, missing: int) -> None:
        """Want what is missing to a claim."""
        self.wanted, self._claim = missing, claim

    def settle(self, waiting: int, *, is_open: bool) -> bool:
        """Work out what to offer the gateway; True if it was told otherwise.

        Args:
            waiting: How many jobs have arrived that the worker has not taken.
            is_open: Whether jobs may come at all.
        """
        more = max(0, self.wanted - waiting) if is_open else 0
        self._offer = (self.received + more, self._limits() if more else {})
        return self.is_news

    @property
    def is_news(self) -> bool:
        """Whether the gateway was told otherwise."""
        return self._offer != self._told

    def credit(self) -> Credit:
        """Tell the gateway."""
        self._told = allowed, limits = self._offer
        at_once = self._claim is not None and self._claim.began
        return Credit(self.received, max(0, allowed - self.received), at_once, limits)

    def _limits(self) -> dict[str, int]:
        claim = self._claim
        if claim is None or claim.kinds is None:
            return {}
        return dict(claim.kind_limits) | dict.fromkeys(set(self._kinds).difference(claim.kinds), 0)
