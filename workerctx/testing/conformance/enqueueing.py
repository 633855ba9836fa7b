"""Adding jobs: one, many, and at most one for a key."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue.model import EnqueueOutcome, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.retry import Constant, Exponential, Linear
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    add,
    claim_all,
    ids,
    payloads,
    state_of,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage
    from workerctx.queue.retry import RetryPolicy


@pytest.mark.anyio
class TestEnqueue:
    """One job at a time."""

    async def test_a_job_is_stored_as_requested(self, storage: Storage) -> None:
        """Every field of a request is found in the job."""
        before = await storage.now()
        job_id = await add(
            storage,
            "resize",
            {"path": "a.jpg", "sizes": [1, 2.5, None, True]},
            queue="images",
            priority=7,
            delay=60,
            expires_at=before + 3600,
            timeout=timedelta(seconds=30),
            max_attempts=9,
            unique_key="a.jpg",
            workflow_id="wf",
            required_labels=("gpu",),
            tenant_id="acme",
            headers={"traceparent": "00-1"},
        )
        job = await storage.jobs.get(job_id)
        assert (job.id, job.kind, job.queue, job.priority) == (job_id, "resize", "images", 7)
        assert job.payload == {"path": "a.jpg", "sizes": [1, 2.5, None, True]}
        assert (job.state, job.attempt, job.max_attempts) == (JobState.SCHEDULED, 0, 9)
        assert (job.timeout, job.unique_key, job.workflow_id) == (30.0, "a.jpg", "wf")
        assert (job.required_labels, job.tenant_id) == (("gpu",), "acme")
        assert job.headers == {"traceparent": "00-1"}
        assert job.run_at == pytest.approx(before + 60, abs=5)
        assert job.expires_at == pytest.approx(before + 3600, abs=0.001)
        assert job.created_at == pytest.approx(before, abs=5)
        assert (job.claimed_at, job.finished_at, job.error, job.result) == (None, None, None, None)

    async def test_defaults(self, storage: Storage) -> None:
        """A plain request is queued at once in the default queue."""
        job = await storage.jobs.get(await add(storage))
        assert (job.queue, job.state, job.priority, job.max_attempts) == ("default", JobState.QUEUED, 0, 5)
        assert (job.payload, job.retry, job.timeout, job.depends_on) == (None, None, None, ())

    @pytest.mark.parametrize(
        "policy",
        [Constant(1.5, jitter=False), Linear(2, 10), Exponential(3, 99, jitter=False), None],
        ids=["constant", "linear", "exponential", "none"],
    )
    async def test_a_retry_policy_is_kept(self, storage: Storage, policy: RetryPolicy | None) -> None:
        """A job's own backoff comes back as it was given."""
        job_id = await add(storage, retry=policy)
        assert (await storage.jobs.get(job_id)).retry == policy

    @pytest.mark.parametrize(
        "payload",
        [None, True, 0, -1.5, "", "ünïcödé \u0000 \U0001f600", [], {}, {"a": [{"b": [None, 2**53]}]}],
    )
    async def test_any_json_value_is_a_payload(self, storage: Storage, payload: Any) -> None:
        """Q16: what goes in as JSON comes out equal, also to the worker."""
        job_id = await add(storage, payload=payload)
        assert (await storage.jobs.get(job_id)).payload == payload
        assert (await take(storage))[0].payload == payload

    async def test_stored_bytes_are_readable(self, storage: Storage) -> None:
        """Q16: the stored payload and result are plain JSON."""
        job_id = await add(storage, payload={"path": "a.jpg"})
        lease = await take_lease(storage)
        await storage.jobs.complete(lease.id, {"size": 3})
        job = await storage.jobs.get(job_id)
        assert job.payload_json.replace(b" ", b"") == b'{"path":"a.jpg"}'
        assert job.result_json is not None
        assert job.result_json.replace(b" ", b"") == b'{"size":3}'

    async def test_a_caller_cannot_change_a_stored_job(self, storage: Storage) -> None:
        """What a caller does to the mappings that he passed or got changes nothing in the store."""
        headers = {"a": "1"}
        job_id = await add(storage, headers=headers)
        plain_id = await add(storage)
        headers["a"] = "2"
        for each in (job_id, plain_id):
            (await storage.jobs.get(each)).headers["b"] = "3"
        (await take(storage))[0].headers["c"] = "4"
        assert (await storage.jobs.get(job_id)).headers == {"a": "1"}
        assert (await storage.jobs.get(plain_id)).headers == {}

    async def test_ids_are_ordered_by_time(self, storage: Storage) -> None:
        """Ids that the store makes grow."""
        made = [await add(storage) for _ in range(50)]
        assert made == sorted(set(made))

    async def test_a_delayed_job_waits(self, storage: Storage) -> None:
        """Q5: a delayed job is invisible until it is due."""
        job_id = await add(storage, delay=60)
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 59 - 30)
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 31)
        assert (await take(storage))[0].id == job_id

    async def test_run_at_is_a_moment(self, storage: Storage) -> None:
        """A job may name its time, as a number or as an aware datetime; one in the past is due at once."""
        now = await storage.now()
        later = await add(storage, run_at=datetime.fromtimestamp(now + 100, UTC))
        past = await add(storage, run_at=now - 100)
        assert await state_of(storage, later) is JobState.SCHEDULED
        assert (await take(storage))[0].id == past
        await advance(storage, 101)
        assert (await take(storage))[0].id == later

    async def test_extremes(self, storage: Storage) -> None:
        """The largest numbers and longest names that are allowed are stored as they are."""
        name = "ü" * 255
        high = await add(storage, name, queue=name, priority=2**31 - 1, run_at=0.0, unique_key=name)
        low = await add(storage, queue=name, priority=-(2**31) + 1, max_attempts=2**31 - 1)
        future = await add(storage, run_at=253_402_300_799.0, expires_at=253_402_300_799.5)
        claimed = await claim_all(storage, queues=[name])
        assert [job.id for job, _ in claimed] == [high, low]
        assert (claimed[0][0].kind, claimed[0][0].priority, claimed[0][0].run_at) == (name, 2**31 - 1, 0.0)
        assert (await storage.jobs.get(future)).run_at == 253_402_300_799.0

    async def test_an_id_of_the_callers_choice(self, storage: Storage) -> None:
        """A caller may choose the id, but not one that is taken, whatever became of its job."""
        assert await add(storage, job_id="mine") == "mine"
        with pytest.raises(InvalidRequest, match="mine"):
            await add(storage, job_id="mine")
        await storage.jobs.cancel("mine")
        with pytest.raises(InvalidRequest, match="mine"):
            await add(storage, job_id="mine")
        assert (await storage.jobs.counts())[JobState.CANCELLED] == 1

    async def test_a_taken_id_whose_key_is_held(self, storage: Storage) -> None:
        """Q8: a key that is held does not make an id free; a free id of the same request stays free."""
        await add(storage, job_id="other")
        holder = await add(storage, job_id="holder", unique_key="k")
        for taken in ("other", "holder"):
            with pytest.raises(InvalidRequest, match=taken):
                await add(storage, job_id=taken, unique_key="k")
        outcome = await storage.jobs.enqueue(EnqueueRequest("work", job_id="free", unique_key="k"))
        assert outcome == EnqueueOutcome(holder, deduped=True)
        with pytest.raises(InvalidRequest, match="free"):
            await add(storage, depends_on=["free"])
        assert await add(storage, job_id="free") == "free"

    async def test_a_foreign_connection_is_refused(self, storage: Storage) -> None:
        """Q12: a connection that this store cannot use is refused by name, and nothing is written."""
        with pytest.raises(InvalidRequest, match="Nonsense"):
            await storage.jobs.enqueue(EnqueueRequest("work"), connection=_Nonsense())
        assert sum((await storage.jobs.counts()).values()) == 0


class _Nonsense:
    """Not a connection."""


@pytest.mark.anyio
class TestBulk:
    """Many jobs in one transaction."""

    async def test_outcomes_are_in_the_order_of_the_requests(self, storage: Storage) -> None:
        """Q9: one outcome for each request, in order, and jobs of one batch run in its order."""
        outcomes = await storage.jobs.enqueue_bulk(EnqueueRequest("work", n) for n in range(250))
        assert len({outcome.id for outcome in outcomes}) == 250
        assert payloads(await claim_all(storage)) == list(range(250))
        for n in (0, 100, 249):
            assert (await storage.jobs.get(outcomes[n].id)).payload == n

    async def test_an_empty_batch(self, storage: Storage) -> None:
        """Q9: no requests, no outcomes."""
        assert list(await storage.jobs.enqueue_bulk([])) == []

    async def test_all_or_none(self, storage: Storage) -> None:
        """Q9: one request that cannot be stored keeps the whole batch out."""
        requests = [EnqueueRequest("work", unique_key=f"k{n}") for n in range(10)]
        with pytest.raises(InvalidRequest):
            await storage.jobs.enqueue_bulk([*requests, EnqueueRequest("work", depends_on=["nobody"])])
        assert sum((await storage.jobs.counts()).values()) == 0
        outcomes = await storage.jobs.enqueue_bulk(requests)
        assert not any(outcome.deduped for outcome in outcomes)

    async def test_a_taken_id_keeps_the_batch_out(self, storage: Storage) -> None:
        """Q9: an id that is taken, in the store or within the batch, keeps everything out."""
        await add(storage, job_id="a")
        for clash in (["b", "a"], ["c", "c"]):
            for key in (None, "k"):
                with pytest.raises(InvalidRequest):
                    await storage.jobs.enqueue_bulk(
                        EnqueueRequest("work", job_id=job_id, unique_key=key) for job_id in clash
                    )
        assert ids((await storage.jobs.list()).jobs) == ["a"]

    async def test_equal_keys_in_a_batch(self, storage: Storage) -> None:
        """Q9: of equal unique keys within a batch the first one counts."""
        a, b, again = await storage.jobs.enqueue_bulk(
            [
                EnqueueRequest("work", 1, unique_key="k"),
                EnqueueRequest("work", 2),
                EnqueueRequest("work", 3, unique_key="k"),
            ]
        )
        assert (a.deduped, b.deduped) == (False, False)
        assert again == EnqueueOutcome(a.id, deduped=True)
        assert payloads(await claim_all(storage)) == [1, 2]


@pytest.mark.anyio
class TestUniqueKey:
    """At most one active job for a key."""

    async def test_the_first_one_wins(self, storage: Storage) -> None:
        """Q8: a second request gets the id of the first job, which stays as it is."""
        first = await storage.jobs.enqueue(EnqueueRequest("work", 1, unique_key="k"))
        second = await storage.jobs.enqueue(
            EnqueueRequest("other", 2, queue="elsewhere", priority=9, delay=60, unique_key="k")
        )
        assert first.deduped is False
        assert second == EnqueueOutcome(first.id, deduped=True)
        job = await storage.jobs.get(first.id)
        assert (job.kind, job.payload, job.queue, job.priority) == ("work", 1, "default", 0)
        assert sum((await storage.jobs.counts()).values()) == 1

    async def test_active_means_not_finished(self, storage: Storage) -> None:
        """Q8: a job is active while it is scheduled, blocked, queued, running or waits for a retry."""
        jobs = storage.jobs
        parent = await add(storage, queue="elsewhere")
        job_id = await add(storage, unique_key="k", delay=60, retry=Constant(60, jitter=False))
        blocked = await add(storage, unique_key="b", depends_on=[parent])

        async def is_taken(key: str, by: str) -> bool:
            return await jobs.enqueue(EnqueueRequest("work", unique_key=key)) == EnqueueOutcome(by, deduped=True)

        assert await is_taken("k", job_id)
        assert await is_taken("b", blocked)
        await advance(storage, 61)
        assert await is_taken("k", job_id)
        lease = await take_lease(storage)
        assert await is_taken("k", job_id)
        await jobs.fail(lease.id, "boom", delay=60)
        assert await state_of(storage, job_id) is JobState.SCHEDULED
        assert await is_taken("k", job_id)
        await advance(storage, 61)
        await jobs.snooze((await take_lease(storage)).id, delay=60)
        assert await is_taken("k", job_id)

    @pytest.mark.parametrize("end", ["succeeded", "dead", "cancelled", "deleted"])
    async def test_the_key_is_free_afterwards(self, storage: Storage, end: str) -> None:
        """Q8: a job that has ended in whatever way frees its key."""
        job_id = await add(storage, unique_key="k")
        if end == "cancelled":
            await storage.jobs.cancel(job_id)
        elif end == "deleted":
            await storage.jobs.delete(job_id)
        else:
            lease = await take_lease(storage)
            if end == "dead":
                await storage.jobs.fail(lease.id, "boom", retryable=False)
            else:
                await storage.jobs.complete(lease.id)
        again = await storage.jobs.enqueue(EnqueueRequest("work", unique_key="k"))
        assert not again.deduped
        assert again.id != job_id

    async def test_a_race_makes_one_job(self, storage: Storage) -> None:
        """Q8: of many who ask at the same time one makes the job and all get its id."""
        outcomes: list[EnqueueOutcome] = []

        async def ask(n: int) -> None:
            outcomes.append(await storage.jobs.enqueue(EnqueueRequest("work", n, unique_key="k")))

        async with anyio.create_task_group() as tasks:
            for n in range(30):
                tasks.start_soon(ask, n)
        assert len({outcome.id for outcome in outcomes}) == 1
        assert [outcome.deduped for outcome in outcomes].count(False) == 1
