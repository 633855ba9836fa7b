"""A worker's place on the list of workers: it enters its name, beats, obeys what it is sent, and leaves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import anyio
from attrs import define, field

from workerctx.errors import WorkerNotFound
from workerctx.lifecycle import HeartBeat
from workerctx.queue import WorkerCommand
from workerctx.runtime.persist import keep_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import WorkerInfo, Workers
    from workerctx.runtime.desk import Desk

_log = logging.getLogger("workerctx")

_GOODBYE: Final = 2.0
"""Seconds in which a worker that has stopped may still take its name off the list."""


@define(eq=False)
class Presence:
    """Shows that a worker lives, and what it is doing."""

    _workers: Workers
    _info: WorkerInfo
    _desk: Desk
    _context: WorkerContext
    _entered: bool = field(default=False, init=False)

    async def run(self, heartbeat: float) -> None:
        """Be on the list, and beat every `heartbeat` seconds, until cancelled."""
        await keep_on(self._context.name, "show that it lives", heartbeat, self._beat)

    async def leave(self) -> None:
        """Take the name off the list; a store that does not answer is left alone."""
        with anyio.move_on_after(_GOODBYE, shield=True):
            try:
                await self._workers.deregister(self._info.id)
            except Exception as exc:  # noqa: BLE001 - it will be reaped from the list
                _log.warning("worker %r could not take its name off the list: %s", self._context.name, exc)

    async def _beat(self) -> None:
        if not self._entered:
            await self._workers.register(self._info)
            self._entered = True
            return
        self._context.emit(HeartBeat(in_flight=self._desk.in_flight))
        try:
            # Who sent a command should soon see what came of it.
            while commands := await self._show():
                for command in commands:
                    self._obey(command)
        except WorkerNotFound:
            await self._workers.register(self._info)

    async def _show(self) -> Sequence[WorkerCommand]:
        context = self._context
        return await self._workers.heartbeat(self._info.id, state=context.state.value, in_flight=self._desk.in_flight)

    def _obey(self, command: WorkerCommand) -> None:
        _log.info("worker %r was sent the command %s", self._context.name, command.value)
        match command:
            case WorkerCommand.PAUSE if self._context.is_running:
                self._context.pause("remote command")
            case WorkerCommand.RESUME if self._context.is_paused:
                self._context.resume()
            case WorkerCommand.STOP:
                self._context.stop("remote command")
            case _:
                _log.info("worker %r is %s already", self._context.name, self._context.state.value)
