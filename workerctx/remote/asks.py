"""What handlers ask of the store from afar, until it is answered, over as many sessions as that takes."""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from attrs import define, field

from workerctx.errors import InvalidRequest, StoreUnavailable
from workerctx.lifecycle.latch import Latch
from workerctx.remote.asking import encode_call, read_reply
from workerctx.remote.frames import MAX_MESSAGE, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import msgspec

    from workerctx.remote.calls import Call

R = TypeVar("R")

PATIENCE: Final = 30.0
"""Seconds to wait for an answer, reconnecting included."""


@define(eq=False)
class _Ask:
    name: str
    call: msgspec.Raw
    reply: Reply | None = None
    refusal: InvalidRequest | None = None
    sent: bool = False
    again: bool = False
    over: bool = False
    answered: Latch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.answered = Latch(lambda: self.reply is not None or self.refusal is not None or self.over)

    def check(self, limit: int) -> None:
        """Refuse to be asked if the gateway would not accept it."""
        if len(self.call) > limit:
            advice = "the gateway before it may have done it" if self.again else "ask for less at once"
            self.refusal = InvalidRequest(
                f"a call to {self.name} has {len(self.call)} bytes, and the gateway accepts {limit}: {advice}"
            )


@define(eq=False)
class Asks:
    """The open questions of one worker.

    Attributes:
        wake: Has the session look for something to say.
        limit: Largest call that the gateway accepts, in bytes.

    Threads: any.
    """

    wake: Callable[[], object] = field(default=lambda: None)
    limit: int = MAX_MESSAGE
    _open: dict[int, _Ask] = field(factory=dict[int, _Ask], init=False)
    _numbers: Iterator[int] = field(factory=lambda: count(1), init=False)
    _over: bool = field(default=False, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    async def ask(self, call: Call[R]) -> R:
        """Have the gateway perform a call, and return what it returns.

        Raises:
            InvalidRequest: It is larger than the gateway accepts; if an earlier one was asked, the call was performed
                or not.
            StoreUnavailable: There was no answer in time, or there is no session any more; the call was performed or
                not.
            Exception: What the store raised.

        Cancellation: the call is performed or not, never half.
        """
        ask = _Ask(type(call).__name__, encode_call(call))
        with self._lock:
            ask.check(self.limit)
            if ask.refusal is not None:
                raise ask.refusal
            number = next(self._numbers)
            if not self._over:
                self._open[number] = ask
            ask.over = self._over
        self.wake()
        try:
            with anyio.move_on_after(PATIENCE):
                await ask.answered.wait()
        finally:
            with self._lock:
                self._open.pop(number, None)
        if ask.reply is not None:
            return read_reply(call, ask.reply)
        if ask.refusal is not None:
            raise ask.refusal
        if ask.over:
            raise StoreUnavailable("the worker has no session with its gateway any more")
        raise StoreUnavailable(f"the gateway did not answer within {PATIENCE:g} seconds")

    def collect(self) -> Sequence[Request]:
        """Take the questions that were not asked in this session."""
        with self._lock:
            fresh = [(number, ask) for number, ask in self._open.items() if not (ask.sent or ask.refusal)]
            for _, ask in fresh:
                ask.sent = True
            return [Request(number, ask.call, ask.again) for number, ask in fresh]

    def renew(self) -> None:
        """Begin a new session: what was asked in an earlier one is asked again, unless this gateway accepts less."""
        with self._lock:
            asks = list(self._open.values())
            for ask in asks:
                ask.again |= ask.sent
                ask.sent = False
                ask.check(self.limit)
        for ask in asks:
            if ask.refusal is not None:
                ask.answered.wake()

    def answer(self, reply: Reply) -> None:
        """Hand on an answer; one that nobody waits for is left out."""
        with self._lock:
            ask = self._open.get(reply.id)
        if ask is not None:
            ask.reply = reply
            ask.answered.wake()

    def end(self) -> None:
        """Answer nothing more."""
        with self._lock:
            self._over = True
            asks = list(self._open.values())
        for ask in asks:
            ask.over = True
            ask.answered.wake()
