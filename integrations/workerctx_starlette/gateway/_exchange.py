"""The exchange with the store of one namespace: outcomes of all its workers go there, jobs for them come back.

A round takes whatever has piled up while the last one was under way: one transaction for the outcomes of every worker
and for a claim of as many jobs as all workers of a kind can take. Workers with the same labels, queues and kinds are
served by one claim, and the jobs dealt out to those that have most room.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
from attrs import Factory, define, field

from workerctx.errors import LeaseLost, QueueError, StoreClosed
from workerctx.lifecycle.latch import Latch
from workerctx.queue import ClaimRequest, ReleaseLease
from workerctx.remote.outcomes import is_recorded
from workerctx.runtime.ahead import ClaimAhead
from workerctx.runtime.persist import backoff, keep_on, pause
from workerctx_starlette.gateway._line import Line, Profile
from workerctx_starlette.gateway._outage import Outage
from workerctx_starlette.gateway._stored import Stored

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable, Sequence

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import Claimed, Finish, JobQueue
    from workerctx.runtime.ahead import Ready
    from workerctx_starlette.gateway._config import GatewayConfig
    from workerctx_starlette.gateway._leases import Leases
    from workerctx_starlette.gateway._session import Session

_log = logging.getLogger("workerctx")

_LISTEN_AGAIN: Final = 1.0
"""Seconds after which to try again to hear wake-ups; until then, each try is a poll."""
_BEGINNING: Final = 0.05
"""Seconds after which the store hears that a run has begun."""
_AT_ONCE: Final = 100
"""How many jobs are looked up side by side."""


@define(eq=False)
class Report:
    """An outcome on its way to the store, of which job if that is known, and who waits to hear that it arrived."""

    finish: Finish
    job_id: str
    audience: list[Session]


@define(eq=False)
class Claim:
    """What is asked for a line, and what came."""

    ready: Ready
    jobs: Sequence[Claimed] = ()


@define(eq=False)
class Exchange:
    """Feeds the workers of one namespace, and tells its store what became of their jobs."""

    _jobs: JobQueue
    _leases: Leases
    _config: GatewayConfig
    _context: WorkerContext
    _namespace: str
    _gateway_id: str
    _lines: dict[Profile, Line] = field(factory=dict[Profile, Line], init=False)
    _reports: dict[str, Report] = field(factory=dict[str, Report], init=False)
    """What is to be told, by lease."""
    _telling: dict[str, Report] = field(factory=dict[str, Report], init=False)
    """What is being told in the round under way."""
    _began: dict[str, float] = field(factory=dict[str, float], init=False)
    """Leases whose run has begun, and when that has to be told unless the run ends before."""
    _stored: Stored = field(factory=Stored, init=False)
    _outage: Outage = field(
        default=Factory(lambda self: Outage(self._context, self._namespace), takes_self=True), init=False
    )
    _waiting: anyio.Event | None = field(default=None, init=False)
    _ending: bool = field(default=False, init=False)
    _end_begun: Latch = field(default=Factory(lambda self: Latch(lambda: self._ending), takes_self=True), init=False)

    # Workers

    def join(self, session: Session) -> Line | None:
        """Serve a worker; returns its line if that is new and has to be watched."""
        known = self._lines.get(session.profile)
        line = self._lines[session.profile] = known or Line(session.profile, ClaimAhead(self._jobs))
        line.sessions[session] = None
        return None if known else line

    def leave(self, session: Session) -> None:
        """Serve a worker no more."""
        line = self._lines[session.profile]
        line.sessions.pop(session, None)
        line.hungry.pop(session, None)
        if not line.sessions:
            del self._lines[session.profile]
            line.scope.cancel()
            line.ahead.drop()

    def feed(self, session: Session) -> None:
        """Claim for a worker, as much as it wants, at the next opportunity."""
        line = self._lines[session.profile]
        line.queue(session)
        line.look |= line.narrow
        self._nudge()

    async def watch(self, line: Line) -> None:
        """Look for jobs at each wake-up, and at the latest after the poll interval, as long as there is the line."""
        again = min(self._config.poll_interval, _LISTEN_AGAIN)

        async def listen() -> None:
            self._look(line)  # also when wake-ups fail, which makes this a poll
            async with self._jobs.wakeups(line.profile.queues) as wakeups:
                while True:
                    self._look(line)
                    # Before it waits it asks when the next job is due, which must not hold up the claim.
                    await line.all_seen()
                    if self._is_open and line.has_room():
                        line.ahead.prepare(self._request(line), wakeups)
                    await wakeups.wait(self._config.poll_interval)

        with line.scope:
            await keep_on(self._context.name, "hear wake-ups", again, listen)

    # Outcomes

    def report(self, session: Session | None, finish: Finish, job_id: str = "") -> None:
        """Tell the store what became of a run, once, and the worker that it was stored."""
        lease_id = finish.lease_id
        known = self._telling.get(lease_id) or self._reports.get(lease_id)
        if known is not None:
            if session is not None and session not in known.audience:
                known.audience.append(session)
                session.telling += 1
            return
        if lease_id in self._stored:
            if session is not None:
                session.outbox.accept(lease_id)
            return
        holding = self._leases.get(lease_id)
        if holding is not None:
            holding.reported = True
        self._began.pop(lease_id, None)
        self._reports[lease_id] = Report(finish, job_id, [] if session is None else [session])
        if session is not None:
            session.telling += 1
        self._nudge()

    def begin(self, leases: Iterable[str]) -> None:
        """Tell the store that runs have begun, soon: most end before that, and are told once."""
        due = anyio.current_time() + _BEGINNING
        for lease_id in leases:
            self._began.setdefault(lease_id, due)  # in the order of what is due
        self._nudge()

    def is_stored(self, lease_id: str) -> bool:
        """Tell whether the outcome of a lease is stored or on its way."""
        return lease_id in self._reports or lease_id in self._telling or lease_id in self._stored

    @property
    def owes(self) -> bool:
        """Whether the store has not heard of runs that ended, because it fails."""
        return self._outage.failures > 0 and bool(self._reports)

    def note_store(self, error: Exception | None) -> None:
        """Take note of how the store has answered others, unless it is about to be asked here anyway."""
        if self._has_business():
            return
        if error is None:
            self._outage.answered()
        else:
            self._outage.failed(error)

    # Rounds

    async def run(self) -> None:
        """Exchange until `end` was called and everything is told; a store that fails is asked again, at growing pauses.

        Raises:
            StoreClosed: The store does not come back.
        """
        try:
            while not self._ending or self._reports:
                if not self._has_business():
                    self._waiting = anyio.Event()
                    if self._began:
                        with anyio.move_on_at(next(iter(self._began.values()))):
                            await self._waiting.wait()
                    else:
                        await self._waiting.wait()
                    self._waiting = None
                await self._round()
        finally:
            for line in self._lines.values():
                line.ahead.drop()

    def end(self) -> None:
        """Let `run` return once everything is told."""
        self._ending = True
        self._end_begun.wake()
        self._nudge()

    def look(self) -> None:
        """Claim for everybody at the next opportunity."""
        for line in self._lines.values():
            line.look = True
        self._nudge()

    def _look(self, line: Line) -> None:
        line.look = True
        self._nudge()

    def _nudge(self) -> None:
        if self._waiting is not None:
            self._waiting.set()

    def _has_business(self) -> bool:
        return bool(self._reports or self._wanted())

    @property
    def _is_open(self) -> bool:
        return self._context.is_running and not self._ending

    def _wanted(self) -> list[Line]:
        if not self._is_open:
            return []
        return [line for line in self._lines.values() if line.look and line.has_room()]

    async def _round(self) -> None:
        wanted = self._wanted()
        for line in set(self._lines.values()).difference(wanted):
            if line.look:
                line.ahead.drop()
        self._telling, self._reports = self._reports, {}
        began = self._due_beginnings()
        calls: list[Coroutine[object, object, None]] = []
        if began or self._telling:
            calls.append(self._tell_and_claim(began, wanted.pop(0) if wanted else None))
        calls += [self._claim(line) for line in wanted]
        if not calls:
            return
        errors: list[Exception] = []
        if len(calls) == 1:
            await self._attempt(errors, calls[0])
        else:
            async with anyio.create_task_group() as asking:  # side by side, so that the store does them together
                for call in calls:
                    asking.start_soon(self._attempt, errors, call)
        if errors:
            await self._back_off(errors[0])
        else:
            self._outage.answered()

    def _due_beginnings(self) -> list[str]:
        now, due = anyio.current_time(), list[str]()
        for lease_id, at in self._began.items():
            if at > now:
                break
            due.append(lease_id)
        for lease_id in due:
            del self._began[lease_id]
        return due

    async def _attempt(self, errors: list[Exception], call: Coroutine[object, object, None]) -> None:
        try:
            await call
        except StoreClosed:
            raise
        except Exception as exc:  # noqa: BLE001 - shown by is_ready, logged and tried again
            errors.append(exc)

    async def _tell_and_claim(self, began: list[str], line: Line | None) -> None:
        finishes = [report.finish for report in self._telling.values()]
        try:
            if line is None:
                refused = await self._jobs.finish_many(finishes, began=began)
            else:
                line.ahead.drop()
                with self._claiming(line) as claim:
                    refused, claim.jobs = await self._jobs.finish_and_claim(finishes, claim.ready.request, began=began)
        except BaseException:
            self._reports, self._telling = self._telling | self._reports, {}
            self._began = dict.fromkeys(began, 0.0) | self._began
            raise
        told, self._telling = self._telling, {}
        doubtful: list[Report] = []
        for report, error in zip(told.values(), refused, strict=True):
            if isinstance(error, LeaseLost) and report.job_id:
                doubtful.append(report)
            else:
                self._told(report, error)
        for start in range(0, len(doubtful), _AT_ONCE):
            async with anyio.create_task_group() as looking:  # side by side, so that the store answers them together
                for report in doubtful[start : start + _AT_ONCE]:
                    looking.start_soon(self._look_up, report)

    async def _look_up(self, report: Report) -> None:
        """Find out whether an outcome whose lease is gone was stored before, by a gateway that has not said so."""
        try:
            job = await self._jobs.get(report.job_id)
        except QueueError as exc:
            _log.debug("whether the outcome of job %r was stored is unknown: %s", report.job_id, exc)
            job = None
        stored = job is not None and is_recorded(job, report.finish)
        self._told(report, None if stored else LeaseLost(report.finish.lease_id))

    async def _claim(self, line: Line) -> None:
        with self._claiming(line) as claim:
            if claim.ready.claim is not None:
                claim.jobs = await claim.ready.claim.result()
            else:
                _, claim.jobs = await self._jobs.finish_and_claim((), claim.ready.request)

    @contextmanager
    def _claiming(self, line: Line) -> Generator[Claim]:
        """Ask for as much as a line can take, and hand out what comes."""
        claim = Claim(line.ahead.take(self._request(line)))
        request = claim.ready.request
        line.look, line.narrow = False, bool(request.kind_limits)  # a wake-up during the claim sets it again
        try:
            yield claim
        except BaseException:
            line.look = True
            raise
        rest = line.deal(claim.jobs) if self._is_open else claim.jobs
        line.looked(again=bool(rest) or len(claim.jobs) >= request.limit)
        if rest:  # their workers have left, or they or the gateway were paused, meanwhile
            for _, lease in rest:
                self.report(None, ReleaseLease(lease.id))

    def _request(self, line: Line) -> ClaimRequest:
        profile = line.profile
        only = next(iter(line.hungry)) if len(line.hungry) == 1 else None
        return ClaimRequest(
            worker_id=self._gateway_id if only is None else only.worker_id,
            labels=profile.labels,
            lease_ttl=self._config.lease_ttl,
            queues=profile.queues,
            weights=dict(profile.weights),
            kinds=profile.kinds,
            kind_limits=line.kind_limits(),
            limit=max(1, line.room()),
            began=False,
        )

    def _told(self, report: Report, error: QueueError | None) -> None:
        lease_id = report.finish.lease_id
        for session in report.audience:
            session.telling -= 1
        if error is None:
            self._leases.drop(lease_id)
            self._stored.add(lease_id)
            for session in report.audience:
                session.outbox.accept(lease_id)
        elif isinstance(error, LeaseLost):
            self._leases.drop(lease_id)
            for session in report.audience:
                session.outbox.lose(lease_id)
        else:
            holding = self._leases.get(lease_id)
            if holding is not None:
                holding.reported = False
            _log.warning("gateway %r could not store the outcome of a job: %s", self._context.name, error)
            for session in report.audience:
                session.outbox.refuse(lease_id, str(error))

    async def _back_off(self, error: Exception) -> None:
        seconds = backoff(self._outage.failures)
        self._outage.failed(error)
        await pause(seconds, self._end_begun)
