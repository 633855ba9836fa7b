"""The list of workers in a store: those of a gateway are on it like any other, and hear what operators send them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.errors import WorkerNotFound
from workerctx.queue import WorkerCommand, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from workerctx.queue import Workers
    from workerctx_starlette.gateway._session import Session

_log = logging.getLogger("workerctx")

_TURNS: Final = 12
"""In how many turns at the most everybody has shown that it lives."""
_FEW: Final = 20
"""How many may do so in each turn."""
_AT_ONCE: Final = 100
"""How many calls run side by side, for the store to commit together."""


@define(eq=False)
class Roster:
    """Keeps the connected workers of one namespace on the list."""

    _workers: Workers
    _sessions: Mapping[str, Session]
    _listed: dict[str, None] = field(factory=dict[str, None], init=False)
    """Those on the list, the one that has shown longest ago that it lives first."""
    _ended: set[str] = field(factory=set[str], init=False)
    """Those to be taken off."""
    _untold: dict[str, list[WorkerCommand]] = field(factory=dict[str, "list[WorkerCommand]"], init=False)
    """Commands that were fetched for workers and have not reached them."""

    def part(self, session: Session) -> None:
        """Take a worker off that has ended; any other stays, as it may be connected elsewhere by now.

        Commands wait for it there. One that never comes back is taken off like all that are silent.
        """
        self._listed.pop(session.worker_id, None)
        if session.has_ended:
            self._ended.add(session.worker_id)

    def recall(self, worker_id: str, commands: Iterable[str]) -> None:
        """Take back commands that a worker whose connection broke has not heard."""
        words = [WorkerCommand(word) for word in commands]
        if words:
            self._untold.setdefault(worker_id, []).extend(words)

    async def turn(self) -> None:
        """Show that some workers live, take off those that have ended, and hand on what was sent to them."""
        await self.take_off()
        new = [each for each in self._sessions if each not in self._listed]
        turn = max(_FEW, len(new), len(self._sessions) // _TURNS)
        due = [*new, *self._listed][:turn]
        await _side_by_side(self._show, due)

    async def take_off(self) -> None:
        """Take those off the list that have ended; what others have not heard waits for them in the store again."""
        await _side_by_side(self._give_back, self._untold)
        await _side_by_side(self._take_off, self._ended)

    async def _give_back(self, worker_id: str) -> None:
        while commands := self._untold.get(worker_id):
            await self._send_back(worker_id, commands[:1])
            del commands[0]
        self._untold.pop(worker_id, None)

    async def _take_off(self, worker_id: str) -> None:
        await self._workers.deregister(worker_id)
        self._ended.discard(worker_id)

    async def _show(self, worker_id: str) -> None:
        session = self._sessions.get(worker_id)
        if session is None:
            return
        commands: Sequence[WorkerCommand] = ()
        try:  # also if it is new here: another gateway may have listed it, and commands may wait
            commands = await self._workers.heartbeat(worker_id, state=session.state, in_flight=session.in_flight)
        except WorkerNotFound:
            await self._workers.register(_info_of(session))
        self._listed.pop(worker_id, None)
        now_here = self._sessions.get(worker_id)
        if now_here is None:  # it has left meanwhile
            self.part(session)
            await self._send_back(worker_id, commands)
            return
        self._listed[worker_id] = None
        if commands:
            now_here.command(command.value for command in commands)

    async def _send_back(self, worker_id: str, commands: Iterable[WorkerCommand]) -> None:
        """Have a worker hear where it comes back what was fetched for it here."""
        for command in commands:
            try:
                await self._workers.send(worker_id, command)
            except WorkerNotFound:
                _log.warning("worker %s did not hear %s: it has left", worker_id, command.value)


def _info_of(session: Session) -> WorkerInfo:
    hello = session.hello
    return WorkerInfo(
        id=hello.worker_id,
        name=hello.identity,
        host_id=hello.host_id,
        hostname=hello.node,
        pid=hello.pid,
        queues=hello.queues,
        labels=hello.labels,
        kinds=hello.kinds,
        concurrency=hello.concurrency,
        state=session.state,
        in_flight=session.in_flight,
    )


async def _side_by_side(call: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    async def call_one(name: str) -> None:
        await call(name)

    names = list(names)
    for start in range(0, len(names), _AT_ONCE):
        async with anyio.create_task_group() as tasks:
            for name in names[start : start + _AT_ONCE]:
                tasks.start_soon(call_one, name)
