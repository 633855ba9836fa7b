"""The life of a worker's sessions: one after the other, as the reconnect machine decides."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
from attrs import define, field

from workerctx.errors import RegistrationFailed, RemoteError, SessionLost
from workerctx.lifecycle.groups import collapse
from workerctx.lifecycle.latch import Latch
from workerctx.remote.reconnect import Connect, End, Phase, Reconnect, Wait
from workerctx.remote.serving import Serving
from workerctx.remote.session import register

if TYPE_CHECKING:
    from collections.abc import Callable

    from workerctx.remote.frames import Register, RegisterAck
    from workerctx.remote.hatch import Hatch
    from workerctx.remote.reconnect import ReconnectConfig, Step
    from workerctx.remote.session import Connector, WorkerSession

_log = logging.getLogger("workerctx")


@define(eq=False)
class Link:
    """Keeps a worker connected.

    Args:
        connect: Opens a session.
        introduction: Makes the frame with which the worker registers.
        hatch: Where jobs go and outcomes come from.
        reconnect: How patient to be.
        window: Seconds after which a job that the worker did not take is given back.
        single: Whether the first session is the only one.

    Attributes:
        on_change: Told of each change between connected and not, in the session's thread.
        ack: How the gateway answered the last registration.
        error: How it ended, once it has.
    """

    connect: Connector
    introduction: Callable[[], Register]
    hatch: Hatch
    reconnect: ReconnectConfig
    window: float
    single: bool = False
    on_change: Callable[[str | None], object] = field(default=lambda _: None)
    ack: RegisterAck | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    machine: Reconnect = field(init=False)
    changed: Latch = field(init=False)
    """Holds once there was a registration, or there will be none that matters."""
    ended: Latch = field(init=False)
    """Holds once there is and will be no session."""
    _over: bool = field(default=False, init=False)
    _stopping: bool = field(default=False, init=False)
    _stop: Latch = field(init=False)
    _finishing: bool = field(default=False, init=False)
    _aborted: bool = field(default=False, init=False)
    _abort: Latch = field(init=False)
    _serving: Serving | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.machine = Reconnect(self.reconnect)
        self.changed = Latch(lambda: self.ack is not None or self._over or self._stopping)
        self.ended = Latch(lambda: self._over)
        self._stop = Latch(lambda: self._stopping)
        self._abort = Latch(lambda: self._aborted)

    # From any thread ----------------------------------------------------------

    def stop(self) -> None:
        """Make no new session; one that serves goes on until `finish`.

        Threads: any.
        """
        self._stopping = True
        self._stop.wake()
        self.changed.wake()

    def finish(self) -> None:
        """End once the gateway has acknowledged every outcome.

        Threads: any.
        """
        self._finishing = True
        self.stop()
        serving = self._serving  # which may end meanwhile
        if serving is not None:
            serving.look()

    def abort(self) -> None:
        """End now, whatever was not told.

        Threads: any.
        """
        self._aborted = True
        self._abort.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether no new session is made."""
        return self._stopping

    @property
    def is_over(self) -> bool:
        """Whether there is and will be no session."""
        return self._over

    # In the session's thread --------------------------------------------------

    async def run(self) -> None:
        """Keep connected until the end; `error` says how it came."""
        try:
            with anyio.CancelScope() as scope, self._abort.cancelling(scope):
                await self._keep()
            if self._aborted:
                self.error = self.error or self.untold()
        except Exception as exc:  # noqa: BLE001 - handed to whoever runs the worker
            self.error = collapse(exc)
        finally:
            self._end()

    def give_up(self, error: BaseException | None) -> None:
        """Be over, because the thread of the sessions failed or hangs.

        Threads: any.
        """
        self.error = self.error or error
        self._end()

    def untold(self) -> SessionLost | None:
        """Return what to say of outcomes that are owed at the end; None if there are none.

        Threads: any.
        """
        owes = self.hatch.owes
        if not owes:
            return None
        return SessionLost(f"{owes} outcomes were not acknowledged in time; their jobs will run again")

    def _end(self) -> None:
        self._over = True
        self.hatch.asks.end()
        self.changed.wake()
        self.ended.wake()

    async def _keep(self) -> None:
        step = self.machine.begin()
        while True:
            match step:
                case Connect():
                    step = await self._session()
                case Wait():
                    step = await self._wait(step.seconds)
                case End():
                    self.error = step.error
                    return
                case _:
                    raise AssertionError(step)

    async def _wait(self, seconds: float) -> Step:
        if self._stopping:
            return self.machine.shutdown()
        with anyio.CancelScope() as scope, self._stop.cancelling(scope):
            await anyio.sleep(seconds)
        return self.machine.shutdown() if self._stopping else self.machine.waited()

    async def _session(self) -> Step:
        """Open a session, use it, close it, and say what follows from its end."""
        step: Step | None = None
        opened = False
        with anyio.CancelScope() as scope, ExitStack() as armed:
            # A stop wins over everything that comes before serving.
            armed.enter_context(self._stop.cancelling(scope))
            try:
                async with self.connect() as session:
                    opened = True
                    step = await self._use(session, armed)
            except Exception as exc:  # noqa: BLE001 - users write connectors
                error = collapse(exc)
                if step is not None:
                    _log.debug("a session was not closed in good order: %s", error)
                elif opened:
                    step = self._torn(error)
                else:  # a session that cannot be opened may be another time
                    _log.warning("no session with the gateway: %s", error)
                    step = self.machine.connect_failed(_as_remote(error))
        return self.machine.shutdown() if step is None else step

    def _torn(self, error: BaseException) -> Step | None:
        """Say what follows when a session was torn down from outside, by its connection or a stop; None after a stop.

        Raises:
            BaseException: The error, if it does not come from a session.
        """
        if not isinstance(error, RemoteError):
            raise error from error.__cause__
        if self.machine.phase is Phase.SERVING:
            return self._lost(error)
        if self._stopping:
            _log.debug("a session was not closed in good order: %s", error)
            return None
        if self.machine.phase is Phase.REPLAYING:
            return self._lost(error)
        _log.warning("no session with the gateway: %s", error)
        return self.machine.connect_failed(error)

    async def _use(self, session: WorkerSession, armed: ExitStack) -> Step:
        machine, hatch, patience = self.machine, self.hatch, self.reconnect.max_backoff
        try:
            ack, early = await register(session, self.introduction(), patience)
            self._check_namespace(ack)
        except RemoteError as exc:
            _log.warning("no session with the gateway: %s", exc)
            return machine.connect_failed(exc)
        machine.registered(anyio.current_time())
        self.ack = ack
        hatch.unacked.namespace = ack.namespace
        self.changed.wake()
        _log.info("registered with the gateway as %s in namespace %s", ack.worker_id, ack.namespace)
        serving = Serving(session, ack, hatch, machine, patience, self.window, lambda: self._finishing)
        try:
            goes_on = await serving.replay()
        except RemoteError as exc:
            return self._lost(exc)
        if not goes_on:
            return self._lost(None)
        armed.close()
        if self._stopping:
            return machine.shutdown()
        machine.replayed()
        self.on_change(None)
        self._serving = serving
        try:
            error = await serving.run(early)
        finally:
            self._serving = None
        return self._lost(error)

    def _check_namespace(self, ack: RegisterAck) -> None:
        """Refuse to go on in another namespace: what is held and owed, and what handlers ask, belongs to the first one.

        Raises:
            RegistrationFailed: It is another one.
        """
        known = self.hatch.unacked.namespace
        if known in (None, ack.namespace):
            return
        if self.ack is not None:
            raise RegistrationFailed(
                f"the gateway grants namespace {ack.namespace!r}, and this worker has begun in {known!r}:"
                " let each gateway serve it, or start the worker again"
            )
        raise RegistrationFailed(
            f"the gateway grants namespace {ack.namespace!r}, and the outcomes in this worker's journal belong to"
            f" {known!r}: let the gateway serve that, or give the worker another journal"
        )

    def _lost(self, error: RemoteError | None) -> Step:
        """Say what follows from the end of a session that was registered."""
        now, stopping = anyio.current_time(), self._stopping  # read once: a stop may come at any moment
        # Runs that go on after a stop have no outcome yet, and will have one that nobody hears.
        untold = self.hatch.owes if self._finishing else len(self.hatch.holding)
        said = "it was closed" if error is None else str(error)
        self.on_change(f"the session with the gateway is over: {said}")
        if self.single:
            return End(error)
        if untold or not stopping:
            _log.warning("the session with the gateway is over: %s", said)
        if not stopping:
            return self.machine.lost(error, now)
        self.machine.shutdown()
        if not untold:
            return self.machine.finished()
        return self.machine.lost(error or SessionLost(f"{untold} outcomes were not acknowledged: {said}"), now)


def _as_remote(error: BaseException) -> RemoteError:
    if isinstance(error, RemoteError):
        return error
    lost = SessionLost(f"no session could be opened: {type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost
