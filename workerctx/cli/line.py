"""The line between a supervisor and a worker process.

Orders go down and answers come up, one JSON object a line. The system closes an end with the process that held it, so
a worker whose supervisor was killed hears of it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import msgspec
from attrs import define, field

from workerctx.cli.health import Health, Verdict
from workerctx.errors import CommandError
from workerctx.lifecycle.control import OWN_GRACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.lifecycle.shutdown import Stoppable

VARIABLE: Final = "WORKERCTX_SUPERVISED"
"""Tells a worker process its number and the descriptor of its end."""

_PIECE: Final = 65536
_STARTING: Final = Verdict(ok=False, reason="starting")
STARTING: Final = Health(Verdict(ok=True, reason="starting"), _STARTING, _STARTING)


class _Stop(msgspec.Struct, tag="stop"):
    reason: str
    at_once: bool


class _Ask(msgspec.Struct, tag="ask"):
    pass


_orders: Final = msgspec.json.Decoder(_Stop | _Ask)
_answers: Final = msgspec.json.Decoder(Health)


@define(eq=False)
class UpperEnd:
    """The supervisor's end."""

    _socket: socket.socket
    _owed: bool = field(default=False, init=False)
    """Whether an answer is outstanding."""
    _received: bytearray = field(factory=bytearray, init=False)
    answered: bool = field(default=False, init=False)
    """Whether the worker ever answered."""

    def stop(self, reason: str, *, at_once: bool) -> None:
        """Tell the worker to stop, with its grace or without."""
        self._send(_Stop(reason, at_once))

    def ask(self) -> None:
        """Ask how the worker fares; `answer` waits for what it says."""
        if self._owed:
            self.answer(0.0)  # one that came too late
        if not self._owed:
            self._owed = True
            self._send(_Ask())

    def answer(self, deadline: float) -> Health | None:
        """Return what the worker says; None if it says nothing until then, in `time.monotonic()` seconds."""
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                self._owed, self.answered = False, True
                return _answers.decode(line)
            try:
                self._socket.settimeout(max(0.0, deadline - time.monotonic()))
                piece = self._socket.recv(_PIECE)
            except OSError:
                return None
            if not piece:
                return None
            self._received += piece

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _send(self, order: msgspec.Struct) -> None:
        # The few bytes of an order fit into the buffer. A worker that is gone needs none.
        with suppress(OSError):
            self._socket.send(msgspec.json.encode(order) + b"\n", socket.MSG_DONTWAIT)


@define(eq=False)
class LowerEnd:
    """The worker's end, served by a thread from the start of the process on.

    Until it is attached to something that can be stopped, nothing runs here that could be lost, so an order to stop,
    or the end of the supervisor, just ends the process.
    """

    number: int
    _socket: socket.socket
    _attached: tuple[Stoppable, Callable[[], Health]] | None = field(default=None, init=False)
    _changing: threading.Lock = field(factory=threading.Lock, init=False)

    @classmethod
    def from_environment(cls) -> Self | None:
        """Return the end that a supervisor left to this process; None without a supervisor.

        Raises:
            CommandError: The variable was set by somebody else.
        """
        told = os.environ.pop(VARIABLE, None)  # not for the processes that this one starts
        if told is None:
            return None
        try:
            number, descriptor = map(int, told.split(":"))
            end = cls(number, socket.socket(fileno=descriptor))
        except (ValueError, OSError) as exc:
            raise CommandError(f"{VARIABLE} is for the processes of a supervisor, which sets it: unset it") from exc
        end._socket.set_inheritable(False)
        threading.Thread(target=end._listen, name="workerctx supervisor line", daemon=True).start()
        return end

    @property
    def name(self) -> str:
        """What the supervisor calls this process."""
        return name_of(self.number)

    def attach(self, target: Stoppable, health: Callable[[], Health]) -> None:
        """Hand orders to `target` from now on, and answer with `health`, which is called from the line's thread."""
        with self._changing:
            self._attached = target, health

    def _listen(self) -> None:
        with self._socket, self._socket.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                order = _orders.decode(line)
                if isinstance(order, _Stop):
                    self._stop(order.reason, at_once=order.at_once)
                else:
                    health = STARTING if self._attached is None else self._attached[1]()
                    self._socket.sendall(msgspec.json.encode(health) + b"\n")
        self._stop("the supervisor is gone", at_once=False)

    def _stop(self, reason: str, *, at_once: bool) -> None:
        with self._changing:
            if self._attached is None:
                os._exit(0)
            target = self._attached[0]
        target.stop(reason, grace=0.0 if at_once else OWN_GRACE)


def name_of(number: int) -> str:
    """Return what people call a worker process."""
    return f"worker {number}"
