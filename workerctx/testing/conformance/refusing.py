"""What cannot be meant is refused, and nothing is changed."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from workerctx.errors import InvalidRequest, LeaseLost, QueueError, StoreUnavailable
from workerctx.queue.finish import CompleteLease, FailLease, ThrottleLease
from workerctx.queue.limits import Granted
from workerctx.queue.model import JobError, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.workers import WorkerInfo
from workerctx.testing.conformance.support import (
    add,
    refused,
    state_of,
    take_lease,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestBadInput:
    """What cannot be meant is refused before anything is written."""

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"kind": ""}, id="no kind"),
            pytest.param({"kind": "work", "queue": ""}, id="no queue"),
            pytest.param({"kind": "work", "queue": "a\nb"}, id="line break"),
            pytest.param({"kind": "work", "delay": -1}, id="negative delay"),
            pytest.param({"kind": "work", "delay": math.nan}, id="delay nan"),
            pytest.param({"kind": "work", "delay": math.inf}, id="endless delay"),
            pytest.param({"kind": "work", "delay": 1e15}, id="distant delay"),
            pytest.param({"kind": "work", "run_at": math.inf}, id="endless run_at"),
            pytest.param({"kind": "work", "run_at": -1e15}, id="distant run_at"),
            pytest.param({"kind": "work", "expires_at": 1e15}, id="distant expires_at"),
            pytest.param({"kind": "work", "run_at": datetime(2030, 1, 1)}, id="naive run_at"),  # noqa: DTZ001 - the point of it
            pytest.param({"kind": "work", "delay": 1, "run_at": 5.0}, id="delay and run_at"),
            pytest.param({"kind": "work", "max_attempts": 0}, id="no attempts"),
            pytest.param({"kind": "work", "timeout": 0}, id="no timeout"),
            pytest.param({"kind": "work", "priority": 2**40}, id="large priority"),
            pytest.param({"kind": "work", "unique_key": ""}, id="empty key"),
            pytest.param({"kind": "work", "required_labels": "gpu"}, id="labels as text"),
            pytest.param({"kind": "work", "depends_on": "abc"}, id="parents as text"),
            pytest.param({"kind": "work", "payload": object()}, id="no JSON"),
            pytest.param({"kind": "work", "payload": {"x": math.nan}}, id="nan in JSON"),
            pytest.param({"kind": "work", "payload": "x" * (1024 * 1024 + 1)}, id="large payload"),
            pytest.param({"kind": "work", "retry": 3}, id="a number of retries"),
            pytest.param({"kind": "work", "priority": 1.5}, id="half a priority"),
            pytest.param({"kind": "work", "max_attempts": 3.0}, id="attempts as float"),
            pytest.param({"kind": "work", "max_attempts": True}, id="attempts as bool"),
            pytest.param({"kind": "work", "priority": True}, id="priority as bool"),
            pytest.param({"kind": "work", "timeout": True}, id="timeout as bool"),
            pytest.param({"kind": "work", "headers": {"a": 1}}, id="headers of numbers"),
            pytest.param({"kind": "work", "headers": {"a": "\udcff"}}, id="headers beyond Unicode"),
        ],
    )
    async def test_requests(self, storage: Storage, options: dict[str, Any]) -> None:
        """Q13: a request that is not valid never reaches the store."""
        with pytest.raises(InvalidRequest):
            await storage.jobs.enqueue(EnqueueRequest(**options))
        assert sum((await storage.jobs.counts()).values()) == 0

    async def test_outputs(self, storage: Storage) -> None:
        """Q13: a result that is not JSON is refused and the lease is as it was."""
        await add(storage)
        lease = await take_lease(storage)
        for outputs in (object(), math.inf, "x" * (1024 * 1024 + 1)):
            with pytest.raises(InvalidRequest):
                await storage.jobs.complete(lease.id, outputs)
        await storage.jobs.complete(lease.id, "good")

    async def test_error_details(self, storage: Storage) -> None:
        """Q13: an error whose details are not JSON is refused alone, and its lease is as it was."""
        job_id, other = await add(storage), await add(storage)
        first, second = await take_lease(storage), await take_lease(storage)
        outcomes = await storage.jobs.finish_many(
            [
                FailLease(first.id, JobError("Error", "boom", details=object()), retryable=False),
                FailLease(second.id, JobError("Error", "boom", details=[1]), retryable=False),
            ]
        )
        assert refused(outcomes) == [InvalidRequest, None]
        assert await state_of(storage, job_id) is JobState.RUNNING
        assert await state_of(storage, other) is JobState.DEAD

    async def test_the_texts_of_an_error(self, storage: Storage) -> None:
        """Q13: what is no text is refused alone; a long one is stored with whatever else there is."""
        for _ in range(5):
            await add(storage)
        leases = [lease for _, lease in await storage.jobs.claim_many("worker-1", limit=5)]
        first, second, third, fourth, fifth = leases
        long = JobError("Error", "m", details="x" * (1024 * 1024 - 10))
        outcomes = await storage.jobs.finish_many(
            [
                FailLease(first.id, JobError("Error", "bad \udc80 name"), retryable=False),
                FailLease(second.id, long, retryable=False),
                FailLease(third.id, JobError("Error", cast("str", 5)), retryable=False),
                FailLease(fourth.id, JobError(cast("str", None), "m"), retryable=False),
                CompleteLease(fifth.id),
            ]
        )
        assert refused(outcomes) == [InvalidRequest, None, InvalidRequest, InvalidRequest, None]
        assert (await storage.jobs.get(second.job_id)).error == long
        assert await state_of(storage, first.job_id) is JobState.RUNNING

    async def test_values_that_are_too_deep(self, storage: Storage) -> None:
        """Q13: lists and objects inside each other are bounded, or whoever has less stack could not read them."""
        deep = json.loads("[" * 201 + "]" * 201)
        fits = json.loads('{"a":' * 100 + "[" * 100 + '"[[{{"' + "]" * 100 + "}" * 100)
        job_id = await add(storage, payload=fits)
        for wrong in (deep, {"a": deep}):
            with pytest.raises(InvalidRequest, match="inside each other"):
                await add(storage, payload=wrong)
        lease = await take_lease(storage)
        with pytest.raises(InvalidRequest, match="inside each other"):
            await storage.jobs.progress(lease.id, deep)
        await storage.jobs.progress(lease.id, fits)
        error = FailLease(lease.id, JobError("Error", "deep", details=deep))
        assert refused(await storage.jobs.finish_many([error])) == [InvalidRequest]
        with pytest.raises(InvalidRequest, match="inside each other"):
            await storage.jobs.complete(lease.id, deep)
        await storage.jobs.complete(lease.id, fits)
        job = await storage.jobs.get(job_id)
        assert (job.payload, job.progress, job.result) == (fits, fits, fits)

    async def test_waits(self, storage: Storage) -> None:
        """Q13: a wait that is negative, endless or longer than stores can keep is refused; the lease is as it was."""
        job_id = await add(storage)
        lease = await take_lease(storage)
        for wait in (-1.0, math.nan, math.inf, 1e15):
            with pytest.raises(InvalidRequest):
                await storage.jobs.fail(lease.id, "boom", delay=wait)
            with pytest.raises(InvalidRequest):
                await storage.jobs.snooze(lease.id, delay=wait)
        assert refused(await storage.jobs.finish_many([ThrottleLease(lease.id, 1.0, "\udcff")])) == [InvalidRequest]
        assert await state_of(storage, job_id) is JobState.RUNNING

    async def test_names_that_are_none(self, storage: Storage) -> None:
        """Q13: what no text can be is refused alone; calls that are on their way with it are done."""
        found: list[int] = []

        async def count() -> None:
            found.append(sum((await storage.jobs.counts()).values()))

        await add(storage)
        for name in ("a\0b", "\ud800"):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(count)
                with pytest.raises(QueueError):
                    await storage.jobs.get(name)
                tasks.start_soon(count)
        assert found == [1] * 8

    async def test_rate_limits(self, storage: Storage) -> None:
        """Q13: a limit of half a call, or of more seconds than any store can keep, or fewer than it can tell apart."""
        wrong = [(1.5, 1.0), (0, 1.0), (True, 1.0), (2**63, 1.0), (1, math.nan), (1, 1e15), (1, True), (1, 5e-324)]
        for capacity, per in wrong:
            with pytest.raises(InvalidRequest):
                await storage.rate_limits.configure("api", capacity=cast("int", capacity), per=per)

    async def test_claims(self, storage: Storage) -> None:
        """Q13: a claim without queues, room or time is refused."""
        await add(storage)
        wrong: list[dict[str, Any]] = [
            {"queues": ()},
            {"queues": "default"},
            {"limit": 0},
            {"limit": True},
            {"limit": 1.5},
            {"weights": {"default": True}},
            {"kind_limits": {"work": True}},
            {"lease_ttl": 0},
            {"lease_ttl": math.nan},
            {"lease_ttl": 1e15},
            {"weights": {"default": 0}},
            {"weights": {"elsewhere": 1}},
            {"kind_limits": {"work": -1}},
        ]
        for options in wrong:
            with pytest.raises(InvalidRequest):
                await storage.jobs.claim_many("worker-1", **options)
        assert (await storage.jobs.counts())[JobState.QUEUED] == 1

    async def test_the_largest_payload(self, storage: Storage) -> None:
        """Q13: a payload just below the limit is stored whole."""
        text = "x" * (1024 * 1024 - 2)
        job_id = await add(storage, payload=text)
        assert (await storage.jobs.get(job_id)).payload == text


@pytest.mark.anyio
class TestNeighbours:
    """Calls of many tasks share transactions; one that asks for what cannot be fails alone."""

    async def test_a_lease_that_is_none(self, storage: Storage) -> None:
        """Q13: it was never granted; the finishes on their way with it count."""
        for _ in range(12):
            await add(storage)
        lost: list[str] = []

        async def complete(lease_id: str) -> None:
            try:
                await storage.jobs.complete(lease_id)
            except LeaseLost:
                lost.append(lease_id)

        leases = [lease.id for _, lease in await storage.jobs.claim_many("worker-1", limit=12)]
        wrong = ["x\0.7", "\ud800.7", f"x.{2**70}", f"{leases[0]}{10**30}"]
        async with anyio.create_task_group() as tasks:
            for lease_id in (*leases[:6], *wrong, *leases[6:]):
                tasks.start_soon(complete, lease_id)
        assert sorted(lost) == sorted(wrong)
        assert set((await storage.jobs.renew_leases(wrong)).lost) == set(wrong)
        assert (await storage.jobs.counts())[JobState.SUCCEEDED] == 12

    async def test_a_scope_that_is_none(self, storage: Storage) -> None:
        """Q13: nobody configured it; and no limit gives a number of calls that no store can count."""
        await storage.rate_limits.configure("api", capacity=100, per=1e6)
        errors: list[type[Exception]] = []
        granted: list[object] = []

        async def acquire(scope: str, amount: int) -> None:
            try:
                granted.append(await storage.rate_limits.acquire(scope, amount=amount))
            except QueueError as exc:
                errors.append(type(exc))

        async with anyio.create_task_group() as tasks:
            for scope, amount in (("api", 1), ("a\0b", 1), ("\ud800", 1), ("api", 2**70), ("none", 2**70)) * 4:
                tasks.start_soon(acquire, scope, amount)
            for strange in (True, 1.5) * 4:
                tasks.start_soon(acquire, "api", cast("int", strange))
        assert granted == [Granted("api")] * 4
        assert sorted(kind.__name__ for kind in errors) == ["InvalidRequest"] * 16 + ["UnknownScope"] * 8

    @pytest.mark.parametrize("wrong", [True, 1.5, b"x", 10**30], ids=str)
    async def test_a_value_of_another_type(self, storage: Storage, wrong: Any) -> None:
        """Q13: whatever becomes of the call, those beside it are done, and no worker takes it for an outage."""
        job_id = await add(storage)
        await storage.workers.register(WorkerInfo(id="worker-1"))
        jobs, workers = storage.jobs, storage.workers
        harmed: list[Exception] = []

        async def strange(call: Callable[..., Awaitable[object]], *values: Any, **options: Any) -> None:
            try:
                await call(*values, **options)
            except StoreUnavailable as exc:
                harmed.append(exc)
            except Exception:  # noqa: BLE001, S110 - types are what checkers are for
                pass

        async def plain(call: Callable[..., Awaitable[object]], *values: Any) -> None:
            try:
                await call(*values)
            except Exception as exc:  # noqa: BLE001 - all are compared
                harmed.append(exc)

        async with anyio.create_task_group() as tasks:
            for call in (jobs.get, jobs.cancel, jobs.retry, jobs.delete, jobs.is_cancelled, jobs.cancel_workflow):
                tasks.start_soon(plain, jobs.counts)
                tasks.start_soon(strange, call, wrong)
                tasks.start_soon(plain, jobs.get, job_id)
                tasks.start_soon(plain, jobs.enqueue, EnqueueRequest("beside"))
            for other in (workers.heartbeat, workers.deregister, storage.schedules.get, storage.schedules.delete):
                tasks.start_soon(strange, other, wrong)
                tasks.start_soon(plain, workers.list)
            tasks.start_soon(partial(strange, workers.heartbeat, "worker-1", in_flight=wrong))
            tasks.start_soon(partial(strange, jobs.list, limit=wrong))
            tasks.start_soon(partial(strange, jobs.list, cursor=wrong))
            tasks.start_soon(plain, jobs.enqueue, EnqueueRequest("beside"))
        assert not harmed
        assert (await jobs.counts())[JobState.QUEUED] == 8

    async def test_a_worker_that_is_none(self, storage: Storage) -> None:
        """Q13: whoever claims beside it gets jobs."""
        for _ in range(6):
            await add(storage)
        got: list[str] = []

        async def claim(worker_id: str) -> None:
            with suppress(QueueError):
                claimed = await storage.jobs.claim(worker_id)
                assert claimed is not None
                got.append(worker_id)

        async with anyio.create_task_group() as tasks:
            for worker_id in ("worker-1", "w\ud800", "worker-2", "worker-3"):
                tasks.start_soon(claim, worker_id)
        assert {"worker-1", "worker-2", "worker-3"} <= set(got)
