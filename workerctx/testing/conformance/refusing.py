"""What cannot be meant is refused, and nothing is changed."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from workerctx.errors import InvalidRequest, QueueError
from workerctx.queue.finish import FailLease, ThrottleLease
from workerctx.queue.model import JobError, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.conformance.support import (
    add,
    refused,
    state_of,
    take_lease,
)

if TYPE_CHECKING:
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
        """Q13: a limit of half a call, or of more seconds than any store can keep, is refused."""
        for capacity, per in ((1.5, 1.0), (0, 1.0), (1, math.nan), (1, 1e15)):
            with pytest.raises(InvalidRequest):
                await storage.rate_limits.configure("api", capacity=cast("int", capacity), per=per)

    async def test_claims(self, storage: Storage) -> None:
        """Q13: a claim without queues, room or time is refused."""
        await add(storage)
        wrong: list[dict[str, Any]] = [
            {"queues": ()},
            {"queues": "default"},
            {"limit": 0},
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
