"""The queue against a small model: random operations of several workers, time that jumps, and crashes.

Real time flows by milliseconds while the store's clock is moved by minutes, so leases and delays are chosen in
minutes and the model need not know the exact moment of anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from workerctx.errors import LeaseLost
from workerctx.queue import (
    FINAL_STATES,
    Cancelled,
    Completed,
    CompleteLease,
    Constant,
    EnqueueRequest,
    Failed,
    JobState,
    ReleaseLease,
    connect,
)

MINUTE = 60.0
BACKOFF = 10 * MINUTE
KEYS = st.sampled_from([None, None, "red", "blue"])


@attrs.define(eq=False)
class Twin:
    """What the model knows of a job."""

    id: str
    max_attempts: int
    key: str | None
    priority: int
    state: JobState
    due: float
    parents: list[Twin] = attrs.field(factory=list)
    waits_for: set[str] = attrs.field(factory=set)
    runs_anyway: bool = False
    attempt: int = 0
    lease: str | None = None
    expires: float = 0.0
    began: bool = True
    stop: bool = False
    lost: int = 0

    @property
    def ended(self) -> bool:
        return self.state in FINAL_STATES


class QueueMachine(RuleBasedStateMachine):
    """Operations on a store and on its model, side by side."""

    backend = "asyncio"
    durable = False

    leases = Bundle("leases")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.twins: dict[str, Twin] = {}
        self.now = 0.0
        self.events: list[Any] = []
        self.retried: Counter[str] = Counter()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.generation = 0
        self.portal = self.stack.enter_context(start_blocking_portal(self.backend))
        self.session = ExitStack()

    @initialize()
    def open(self) -> None:
        self.storage = self.portal.call(_connect, self.url())
        self.session.enter_context(self.portal.wrap_async_context_manager(self.storage))
        self.stream = self.session.enter_context(
            self.portal.wrap_async_context_manager(self.portal.call(_subscribe, self.storage))
        )

    def url(self) -> str:
        if not self.durable:
            return "memory://"
        # Durability is SQLite's business here: the machine looks at what is in the file, not at the platter.
        return f"sqlite:///{self.folder}/{self.generation}.db?synchronous=off"

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            try:
                self._finish_everything()
            finally:
                self.session.close()
        self.stack.close()

    def do(self, method: Any, *args: Any, **options: Any) -> Any:
        return self.portal.call(_call, method, args, options)

    # Operations ---------------------------------------------------------------

    @rule(
        target=jobs,
        key=KEYS,
        priority=st.integers(-1, 1),
        minutes=st.sampled_from([0, 0, 5]),
        attempts=st.integers(1, 3),
    )
    def enqueue(self, key: str | None, priority: int, minutes: int, attempts: int) -> Twin:
        return self._add(key=key, priority=priority, minutes=minutes, attempts=attempts)

    @rule(target=jobs, parents=st.lists(jobs, min_size=1, max_size=3), runs_anyway=st.booleans())
    def enqueue_after(self, parents: list[Twin], runs_anyway: bool) -> Twin:
        return self._add(parents=list({id(parent): parent for parent in parents}.values()), runs_anyway=runs_anyway)

    def _add(
        self,
        *,
        key: str | None = None,
        priority: int = 0,
        minutes: int = 0,
        attempts: int = 1,
        parents: list[Twin] | None = None,
        runs_anyway: bool = False,
    ) -> Twin:
        parents = parents or []
        request = EnqueueRequest(
            "k",
            unique_key=key,
            priority=priority,
            delay=minutes * MINUTE,
            max_attempts=attempts,
            retry=Constant(BACKOFF, jitter=False),
            depends_on=[parent.id for parent in parents],
            on_parent_failure="run" if runs_anyway else "cancel",
        )
        outcome = self.do(self.storage.jobs.enqueue, request)
        holder = next((twin for twin in self.twins.values() if key and twin.key == key and not twin.ended), None)
        assert outcome.deduped is (holder is not None)
        if holder is not None:
            assert outcome.id == holder.id
            return holder
        due = self.now + minutes * MINUTE
        state = JobState.SCHEDULED if minutes else JobState.QUEUED
        twin = Twin(outcome.id, attempts, key, priority, state, due, parents, runs_anyway=runs_anyway)
        failed = any(parent.ended and parent.state is not JobState.SUCCEEDED for parent in parents)
        if failed and not runs_anyway:
            twin.state = JobState.CANCELLED
        else:
            self._wait_for_parents(twin)
        self.twins[twin.id] = twin
        return twin

    @rule(target=leases, limit=st.integers(1, 3), minutes=st.sampled_from([1, 20]), began=st.booleans())
    def claim(self, limit: int, minutes: int, began: bool) -> Any:
        claimed = self.do(
            self.storage.jobs.claim_many, f"w{limit}", limit=limit, lease_ttl=minutes * MINUTE, began=began
        )
        self._refresh()
        ready = [twin for twin in self.twins.values() if twin.state is JobState.QUEUED]
        poison = [twin for twin in ready if twin.lost >= twin.max_attempts + 3]
        assert len(claimed) == min(limit, len(ready)) or poison
        found = []
        for job, lease in claimed:
            twin = self.twins[job.id]
            assert twin.state is JobState.QUEUED
            assert twin not in poison
            others = [twin.priority for twin in ready if twin.state is JobState.QUEUED and twin not in poison]
            assert twin.priority == max(others)
            twin.state, twin.lease, twin.began = JobState.RUNNING, lease.id, began
            twin.expires = self.now + minutes * MINUTE
            twin.attempt += 1
            twin.lost += 1
            assert job.attempt == twin.attempt <= twin.max_attempts
            found.append(lease.id)
        for twin in poison:
            if self.do(self.storage.jobs.get, twin.id).state is JobState.DEAD:
                self._end(twin, JobState.DEAD)
        return multiple(*found)

    @rule(lease=leases)
    def complete(self, lease: str) -> None:
        twin = self._holder(lease)
        with self._expect_lost(twin):
            self.do(self.storage.jobs.complete, lease, {"from": lease})
        if twin is not None:
            self._end(twin, JobState.SUCCEEDED)

    @rule(lease=leases, retryable=st.booleans())
    def fail(self, lease: str, retryable: bool) -> None:
        twin = self._holder(lease)
        with self._expect_lost(twin):
            self.do(self.storage.jobs.fail, lease, "boom", retryable=retryable)
        if twin is not None:
            self._failed(twin, retryable=retryable)

    @rule(lease=leases)
    def release(self, lease: str) -> None:
        twin = self._holder(lease)
        with self._expect_lost(twin):
            self.do(self.storage.jobs.release, lease)
        if twin is not None:
            self._given_back(twin, self.now)

    @rule(lease=leases)
    def snooze(self, lease: str) -> None:
        twin = self._holder(lease)
        with self._expect_lost(twin):
            self.do(self.storage.jobs.snooze, lease, delay=5 * MINUTE)
        if twin is not None:
            self._given_back(twin, self.now + 5 * MINUTE)

    @rule(chosen=st.lists(leases, min_size=1, max_size=4, unique=True))
    def finish_many(self, chosen: list[str]) -> None:
        twins = [self._holder(lease) for lease in chosen]
        finishes = [CompleteLease(lease) if place % 2 else ReleaseLease(lease) for place, lease in enumerate(chosen)]
        outcomes = self.do(self.storage.jobs.finish_many, finishes)
        # Completions are done before the others, and some of these jobs may wait for each other: no matter here.
        for place, (twin, outcome) in enumerate(zip(twins, outcomes, strict=True)):
            assert isinstance(outcome, LeaseLost) is (twin is None)
            if twin is not None and place % 2:
                self._end(twin, JobState.SUCCEEDED)
            elif twin is not None:
                self._given_back(twin, self.now)

    @rule(chosen=st.lists(leases, min_size=1, max_size=4, unique=True))
    def begin(self, chosen: list[str]) -> None:
        self.do(self.storage.jobs.finish_many, [], began=chosen)
        for lease in chosen:
            twin = self._holder(lease)
            if twin is not None:
                twin.began = True

    @rule(lease=leases)
    def renew(self, lease: str) -> None:
        twin = self._holder(lease)
        alive = twin is not None and twin.expires >= self.now
        with self._expect_lost(twin if alive else None):
            self.do(self.storage.jobs.renew_lease, lease, extend_by=20 * MINUTE)
        if twin is not None and alive:
            twin.expires = self.now + 20 * MINUTE

    @rule(job=jobs)
    def cancel(self, job: Twin) -> None:
        assert self.do(self.storage.jobs.cancel, job.id) is not job.ended
        if job.state is JobState.RUNNING:
            job.stop = True
        elif not job.ended:
            self._end(job, JobState.CANCELLED)

    @rule(job=jobs)
    def retry(self, job: Twin) -> None:
        taken = any(twin.key == job.key and not twin.ended for twin in self.twins.values() if job.key)
        if job.state not in (JobState.DEAD, JobState.CANCELLED) or taken:
            return
        self.do(self.storage.jobs.retry, job.id)
        self.retried[job.id] += 1
        job.attempt = job.lost = 0
        job.due = self.now
        job.state = JobState.QUEUED
        self._wait_for_parents(job)

    @rule(minutes=st.sampled_from([3, 12, 30]))
    def wait(self, minutes: int) -> None:
        self.do(self.storage.advance, minutes * MINUTE)
        self.now += minutes * MINUTE

    @rule()
    def reap(self) -> None:
        self.do(self.storage.jobs.reap_expired_leases)
        for twin in list(self.twins.values()):
            if twin.state is JobState.RUNNING and twin.expires < self.now:
                if twin.began:
                    self._failed(twin, retryable=True, crashed=True)
                elif twin.stop:
                    twin.attempt -= 1
                    self._end(twin, JobState.CANCELLED)
                else:
                    twin.attempt -= 1
                    twin.lease = None
                    twin.state = JobState.QUEUED

    @precondition(lambda self: self.durable)
    @rule()
    def crash(self) -> None:
        """Go on with a copy of the files as they are, as after a kill."""
        self._collect()
        before = self.folder / f"{self.generation}.db"
        self.generation += 1
        for suffix in ("", "-wal"):
            source = before.with_name(before.name + suffix)
            if source.exists():
                shutil.copyfile(source, self.folder / f"{self.generation}.db{suffix}")
        self.session.close()
        self.open()

    # The model ------------------------------------------------------------------

    def _holder(self, lease: str) -> Twin | None:
        return next((t for t in self.twins.values() if t.lease == lease and t.state is JobState.RUNNING), None)

    def _expect_lost(self, twin: Twin | None) -> Any:
        return ExitStack() if twin is not None else pytest.raises(LeaseLost)

    def _refresh(self) -> None:
        for twin in self.twins.values():
            if twin.state is JobState.SCHEDULED and twin.due <= self.now:
                twin.state = JobState.QUEUED

    def _failed(self, twin: Twin, *, retryable: bool, crashed: bool = False) -> None:
        if twin.stop:
            self._end(twin, JobState.CANCELLED)
        elif not retryable or twin.attempt >= twin.max_attempts:
            self._end(twin, JobState.DEAD)
        else:
            twin.lease = None
            twin.state, twin.due = JobState.SCHEDULED, self.now + BACKOFF

    def _given_back(self, twin: Twin, due: float) -> None:
        twin.lease = None
        if twin.stop:
            # A run that was stopped counts as one; a run that never began does not.
            twin.attempt -= not twin.began
            self._end(twin, JobState.CANCELLED)
        else:
            twin.attempt -= 1
            twin.lost -= 1
            twin.due = due
            twin.state = JobState.SCHEDULED if due > self.now else JobState.QUEUED

    def _wait_for_parents(self, twin: Twin) -> None:
        """An end counts once and for all: a parent that is put back later is not waited for again."""
        twin.waits_for = {parent.id for parent in twin.parents if not parent.ended}
        if twin.waits_for:
            twin.state = JobState.BLOCKED

    def _end(self, twin: Twin, state: JobState) -> None:
        twin.state, twin.lease, twin.stop = state, None, False
        for child in self.twins.values():
            if twin.id not in child.waits_for or child.state is not JobState.BLOCKED:
                continue
            child.waits_for.remove(twin.id)
            if state is not JobState.SUCCEEDED and not child.runs_anyway:
                self._end(child, JobState.CANCELLED)
            elif not child.waits_for:
                child.state = JobState.SCHEDULED if child.due > self.now else JobState.QUEUED

    # Agreement ------------------------------------------------------------------

    @invariant()
    def store_and_model_agree(self) -> None:
        if not hasattr(self, "storage"):
            return
        self._refresh()
        held = set()
        jobs, counts = self.portal.call(_look, self.storage, list(self.twins))
        for twin, job in zip(self.twins.values(), jobs, strict=True):
            assert job.state is twin.state, (job, twin)
            assert job.attempt <= job.max_attempts
            assert job.lease_id == twin.lease
            if job.lease_id is not None:
                assert job.lease_id not in held
                held.add(job.lease_id)
            else:
                assert job.attempt == twin.attempt, (job, twin)
        expected = Counter(twin.state for twin in self.twins.values())
        assert {state: count for state, count in counts.items() if count} == dict(expected)

    def _finish_everything(self) -> None:
        """Q2: nothing is lost: from any state, every job comes to exactly one end."""
        self.portal.call(_finish, self.storage)
        self._collect()
        ends = {JobState.SUCCEEDED: Completed, JobState.DEAD: Failed, JobState.CANCELLED: Cancelled}
        told: dict[str, list[Any]] = {}
        for event in self.events:
            if isinstance(event, (Completed, Cancelled)) or (isinstance(event, Failed) and not event.retryable):
                told.setdefault(event.job_id, []).append(event)
        jobs, _ = self.portal.call(_look, self.storage, list(self.twins))
        for twin, job in zip(self.twins.values(), jobs, strict=True):
            final = told[twin.id]
            assert isinstance(final[-1], ends[job.state]), (job, final)
            assert len(final) == 1 + self.retried[twin.id], (job, final)

    def _collect(self) -> None:
        self.events += self.portal.call(_drain, self.stream)


async def _connect(url: str) -> Any:
    return connect(url)


async def _subscribe(storage: Any) -> Any:
    return storage.jobs.subscribe(capacity=100_000)


async def _call(method: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return await method(*args, **options)


async def _look(storage: Any, ids: list[str]) -> tuple[list[Any], dict[JobState, int]]:
    return [await storage.jobs.get(job_id) for job_id in ids], await storage.jobs.counts()


async def _finish(storage: Any) -> None:
    """Complete whatever can be claimed, hour after hour, until nothing is left."""
    for _ in range(60):
        await storage.advance(60 * MINUTE)
        await storage.jobs.reap_expired_leases()
        claimed = await storage.jobs.claim_many("last", limit=1000)
        await storage.jobs.finish_many([CompleteLease(lease.id) for _, lease in claimed])
        counts = await storage.jobs.counts()
        if not any(count for state, count in counts.items() if state not in FINAL_STATES):
            return
    raise AssertionError(f"some job never ends: {counts}")


async def _drain(stream: Any) -> list[Any]:
    found = []
    while True:
        with anyio.move_on_after(0.02):
            found.append(await anext(stream))
            continue
        if not stream._has_news():  # a machine that stands still lets the time pass and nobody read
            return found


class SqliteOnAsyncio(QueueMachine):
    durable = True


class SqliteOnTrio(QueueMachine):
    durable = True
    backend = "trio"


class MemoryOnAsyncio(QueueMachine):
    pass


class MemoryOnTrio(QueueMachine):
    backend = "trio"


@pytest.mark.parametrize("machine", [SqliteOnAsyncio, SqliteOnTrio, MemoryOnAsyncio, MemoryOnTrio])
def test_store_and_model_agree(machine):
    """Q1, Q2, Q3, Q7, Q8, Q11: whatever workers, users, time and crashes do, store and model agree."""
    _run(machine)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_redis_and_model_agree(redis_server, loop):
    """Q1, Q2, Q3, Q7, Q8, Q11: the same on Redis."""

    class RedisMachine(QueueMachine):
        backend = loop

        def url(self) -> str:
            return redis_server.url(prefix=uuid4().hex)

    _run(RedisMachine)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_postgres_and_model_agree(postgres_url, loop):
    """Q1, Q2, Q3, Q7, Q8, Q11: the same on PostgreSQL."""

    class PostgresMachine(QueueMachine):
        backend = loop

        def url(self) -> str:
            return postgres_url(uuid4().hex[:12])

    _run(PostgresMachine, examples=12)


def _run(machine: type[QueueMachine], examples: int = 30) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
