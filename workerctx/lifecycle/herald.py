"""Telling listeners of a worker's transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field

from workerctx.lifecycle import events
from workerctx.lifecycle.state import Change, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workerctx.lifecycle.signals import Outbox
    from workerctx.lifecycle.state import Machine, Snapshot


@define(eq=False)
class Herald:
    """Makes an event of each transition, once and in transition order, whichever caller gets here first."""

    _machine: Machine
    _outbox: Outbox
    _told: Snapshot = field(default=Factory(lambda self: self._machine.snapshot, takes_self=True), init=False)

    def tell(self, made: Snapshot) -> None:
        """Put into the outbox what has not been told up to this transition."""
        self._outbox.put(self._until(made.sequence))

    def _until(self, sequence: int) -> Iterator[events.Event]:
        # The machine's own history is the queue.
        while self._told.sequence < sequence:
            self._told = self._told.following["next"]
            event = self._event_of(self._told)
            if event is not None:
                yield event

    def _event_of(self, made: Snapshot) -> events.Event | None:
        """Make the event of a transition; None if nobody listens or it was none."""
        facts: dict[str, Any] = {"sequence": made.sequence, "at": made.at}
        heard = self._outbox.audience
        match made.change:
            case Change.START if heard(events.Start):
                return events.Start(**facts)
            case Change.PAUSE if heard(events.Pause):
                return events.Pause(**facts, reason=made.reason)
            case Change.RESUME if heard(events.Resume):
                return events.Resume(**facts)
            case Change.STOP if heard(events.Stop):
                return events.Stop(**facts, reason=made.reason, error=made.failure)
            case Change.EXIT if heard(events.Exit):
                outcome = made.outcome or Outcome.CLEAN
                return events.Exit(**facts, outcome=outcome, reason=made.reason, error=made.failure)
            case _:
                return None
