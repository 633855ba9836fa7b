"""What can be asked of the script: its word and arguments, and how its answer is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import attrs
import msgspec

from workerctx.errors import (
    InvalidRequest,
    JobNotFound,
    LeaseLost,
    UniqueKeyTaken,
    UnknownScope,
    WrongState,
)
from workerctx.queue import transitions
from workerctx.queue.finish import CompleteLease, FailLease, ReleaseLease, SnoozeLease, ThrottleLease
from workerctx.queue.ids import new_id
from workerctx.queue.sql.rows import json_text, to_micros
from workerctx_redis._records import split_lease, to_claimed
from workerctx_redis._source import HOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from workerctx.errors import QueueError
    from workerctx.queue.finish import Finish
    from workerctx.queue.model import Claimed
    from workerctx.queue.turns import ClaimOrder
    from workerctx_redis._records import Groups

R = TypeVar("R")

_encode = msgspec.msgpack.Encoder().encode

CLAIMED_AT_ONCE: Final = 10_000
"""How many jobs one claim gets at most, however many it asks for."""


@attrs.frozen
class Answer:
    """What an operation is answered.

    Attributes:
        result: Its own part of the reply.
        groups: To make sense of numbers.
        now: Store time, in microseconds.
    """

    result: Any
    groups: Groups
    now: int


@attrs.frozen(eq=False)
class Operation(Generic[R]):
    """One thing to be done by the script; called with the answer, it returns the result or raises.

    Attributes:
        words: The name of the action and its arguments.
        read: Makes sense of the answer.
        grows: Whether it takes up memory, so that a full server refuses it and spares what frees memory.
        limit: Seconds to wait for the answer, if that is more than usual.
        home: In which room of the script the action is.
        encoded: That and the words.

    Raises:
        InvalidRequest: A text among the words is none.
    """

    words: tuple[Any, ...]
    read: Callable[[Answer], R]
    grows: bool = False
    limit: float = 0.0
    home: str = attrs.field(init=False)
    encoded: bytes = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            home = HOMES[self.words[0]]
            encoded = _encode((home, *self.words))
        except (TypeError, ValueError, OverflowError) as exc:
            raise InvalidRequest(f"Redis cannot be sent what was passed: {exc}") from exc
        if any(isinstance(word, bytes) for word in self.words):  # which the script cannot unpack
            raise InvalidRequest("Redis cannot be sent what was passed: bytes where a text or number belongs")
        object.__setattr__(self, "home", home)
        object.__setattr__(self, "encoded", encoded)

    def __call__(self, answer: Answer) -> R:
        """Read the answer."""
        return self.read(answer)


def done(*words: Any) -> Operation[None]:
    """Return an operation whose answer says nothing."""
    return Operation(words, _nothing)


def _nothing(_answer: Answer) -> None:
    return None


# Working --------------------------------------------------------------------


def claim(order: ClaimOrder) -> Operation[list[Claimed]]:
    """Take jobs."""
    return Operation(("claim", _wanted(order)), lambda answer: _claimed(order, answer, answer.result))


def finish(finishes: Sequence[Finish], began: Collection[str]) -> Operation[list[QueueError | None]]:
    """Finish leases, each for itself."""
    batch = _Finishes(finishes)
    return Operation(
        ("finish", batch.runs, lease_runs(began)),
        lambda answer: batch.read(answer.result),
    )


def finish_one(how: Finish) -> Operation[None]:
    """Finish a lease."""
    batch = _Finishes((how,))

    def read(answer: Answer) -> None:
        (error,) = batch.read(answer.result)
        if error is not None:
            raise error

    return Operation(("finish", batch.runs, ()), read)


def finish_and_claim(
    finishes: Sequence[Finish], began: Collection[str], order: ClaimOrder
) -> Operation[tuple[list[QueueError | None], list[Claimed]]]:
    """Finish leases, each for itself, then take jobs."""
    batch = _Finishes(finishes)

    def read(answer: Answer) -> tuple[list[QueueError | None], list[Claimed]]:
        problems, claimed = answer.result
        return batch.read(problems), _claimed(order, answer, claimed)

    words = ("finish_and_claim", batch.runs, lease_runs(began), _wanted(order))
    return Operation(words, read)


def give_back(claimed: Sequence[Claimed]) -> Operation[list[QueueError | None]] | None:
    """Return what undoes a claim that nobody took delivery of."""
    return finish([ReleaseLease(lease.id) for _, lease in claimed], ()) if claimed else None


def _wanted(order: ClaimOrder) -> dict[str, Any]:
    request = order.request
    return {
        "queues": list(dict.fromkeys(request.queues)),
        "weights": order.turns.weights,
        "credit": order.turns.credit,
        "kinds": None if request.kinds is None else list(request.kinds),
        "labels": list(request.labels),
        "room": dict(request.kind_limits),
        "limit": min(request.limit, CLAIMED_AT_ONCE),
        "worker": request.worker_id,
        "ttl": to_micros(request.lease_ttl),
        "began": request.began,
        "token": new_id(),
    }


def _claimed(order: ClaimOrder, answer: Answer, result: Any) -> list[Claimed]:
    columns, credit = result
    order.turns.credit = credit
    request = order.request
    return [
        to_claimed(row, answer.groups, answer.now, request.lease_ttl, began=request.began)
        for row in zip(*columns, strict=True)
    ]


def lease_runs(leases: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return leases as the script wants them: runs of those that share a token, with the ids of their jobs."""
    runs: list[tuple[str, list[str]]] = []
    for lease in leases:
        job_id, token = split_lease(lease)
        if not runs or runs[-1][0] != token:
            runs.append((token, []))
        runs[-1][1].append(job_id)
    return runs


class _Finishes:
    """Finishes as the script wants them, without those that are refused at once.

    Attributes:
        runs: Of different leases that share a token and end in the same way: token, ids of the jobs, the way, and
            columns with the details of it.
    """

    __slots__ = ("_finishes", "_in_run", "_outcomes", "_sent", "runs")

    def __init__(self, finishes: Sequence[Finish]) -> None:
        self._finishes = finishes
        self._outcomes: list[QueueError | None] = [None] * len(finishes)
        self._sent: list[int] = []
        self._in_run: set[str] = set()
        self.runs: list[tuple[str, list[str], str, tuple[list[Any], ...]]] = []
        for place, how in enumerate(finishes):
            try:
                transitions.check_finish(how)
                words = _finish_words(how)
            except InvalidRequest as exc:
                self._outcomes[place] = exc
                continue
            self._sent.append(place)
            self._add(how.lease_id, *words)

    def _add(self, lease: str, word: str, *details: Any) -> None:
        job_id, token = split_lease(lease)
        run = self.runs[-1] if self.runs else None
        # Of a lease that is finished twice the second time must find what the first one did.
        if run is None or run[0] != token or run[2] != word or job_id in self._in_run:
            run = (token, list[str](), word, tuple(list[Any]() for _ in details))
            self.runs.append(run)
            self._in_run.clear()
        self._in_run.add(job_id)
        run[1].append(job_id)
        for column, detail in zip(run[3], details, strict=True):
            column.append(detail)

    def read(self, problems: Sequence[tuple[int, str]]) -> list[QueueError | None]:
        """Return what went wrong with each."""
        outcomes = list(self._outcomes)
        for number, problem in problems:
            place = self._sent[number]
            how = self._finishes[place]
            if problem == "scope" and isinstance(how, ThrottleLease):
                outcomes[place] = UnknownScope(how.scope or "")
            else:
                outcomes[place] = LeaseLost(how.lease_id)
        return outcomes


def _finish_words(how: Finish) -> tuple[Any, ...]:
    match how:
        case CompleteLease():
            return "complete", how.outputs_json.decode()
        case FailLease():
            delay = None if how.delay is None else to_micros(how.delay)
            return "fail", json_text(how.error), how.retryable, delay
        case ReleaseLease():
            return ("release",)
        case SnoozeLease():
            return "snooze", to_micros(how.delay)
        case ThrottleLease():
            return "throttle", to_micros(how.retry_after), how.scope


# Steering -------------------------------------------------------------------


def on_job(action: str, job_id: str, remedy: str = "") -> Operation[bool]:
    """Do something to one job; False if it had ended and the action does not mind.

    Raises, when read:
        JobNotFound: There is none.
        WrongState: The action makes no sense in its state.
        UniqueKeyTaken: Another active job has its key.
    """

    def read(answer: Answer) -> bool:
        match answer.result:
            case ["missing"]:
                raise JobNotFound(job_id)
            case ["state", state]:
                raise WrongState(job_id, state, action, remedy)
            case ["key", key, holder]:
                raise UniqueKeyTaken(job_id, key, holder)
            case [word]:
                return bool(word == "done")
            case [_, found]:
                return bool(found)
            case other:
                raise AssertionError(other)

    return Operation((action, job_id), read)
