"""Operations of which many are done in one go, and the order in which a batch of calls is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypeGuard, TypeVar

import attrs

from workerctx.errors import InvalidRequest, QueueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workerctx.queue.hand import Call
    from workerctx.queue.sql.transaction import Transaction

A = TypeVar("A")
R = TypeVar("R")


@attrs.frozen(eq=False)
class Merging(Generic[A, R]):
    """An operation of which many are done in one go.

    Attributes:
        argument: What this one is about.
        rank: In a batch, lower ones go first; others than these go between enqueueing and claiming.
    """

    argument: A
    rank: ClassVar[int] = 0

    def __call__(self, tx: Transaction) -> R:
        """Do this one by itself."""
        (outcome,) = self.together(tx, [self.argument])
        if isinstance(outcome, QueueError):
            raise outcome
        return outcome

    @classmethod
    def together(cls, tx: Transaction, arguments: Sequence[A]) -> Sequence[R | QueueError]:
        """Do all of them; one that fails does so alone, with its error in its place."""
        raise NotImplementedError


_Kind: TypeAlias = type[Merging[Any, Any]]
_SINGLE_RANK: Final = 2


@attrs.frozen(eq=False)
class Step:
    """Calls that are done together."""

    calls: Sequence[Call[Any]]
    merging: _Kind | None = None

    def do(self, tx: Transaction) -> None:
        """Do the calls and keep their results."""
        if self.merging is None:
            (call,) = self.calls
            call.result = call.operation(tx)
            return
        outcomes = self.merging.together(tx, [call.operation.argument for call in self.calls])
        for call, outcome in zip(self.calls, outcomes, strict=True):
            if isinstance(outcome, QueueError):
                call.result, call.error = None, outcome
            else:
                call.result, call.error = outcome, None

    def apart(self, error: BaseException) -> Sequence[Step]:
        """Return the calls as steps of their own if the error may be that of one of them; else nothing."""
        alone = len(self.calls) == 1 or not isinstance(error, InvalidRequest)
        return [] if alone else [Step([call], self.merging) for call in self.calls]

    def fail(self, error: BaseException) -> None:
        """Give every call the same error."""
        for call in self.calls:
            call.result, call.error = None, error


def steps(calls: Sequence[Call[Any]]) -> Iterator[Step]:
    """Group calls that merge. All of them are under way at the same time, so any order between them is right."""
    merged: dict[_Kind, list[Call[Any]]] = {}
    single: list[Step] = []
    for call in calls:
        if _merges(call.operation):
            merged.setdefault(type(call.operation), []).append(call)
        else:
            single.append(Step([call]))
    kinds = sorted(merged, key=lambda kind: kind.rank)
    yield from (Step(merged[kind], kind) for kind in kinds if kind.rank < _SINGLE_RANK)
    yield from single
    yield from (Step(merged[kind], kind) for kind in kinds if kind.rank > _SINGLE_RANK)


def _merges(operation: object) -> TypeGuard[Merging[Any, Any]]:
    return isinstance(operation, Merging)
