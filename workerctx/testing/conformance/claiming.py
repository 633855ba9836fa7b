"""Taking jobs: to one holder at a time, and only to those who can run them."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from workerctx.errors import LeaseLost
from workerctx.queue.finish import ClaimRequest, CompleteLease
from workerctx.queue.model import Claimed, JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.testing.clock import advance
from workerctx.testing.conformance.support import (
    NO_WAIT,
    PATIENCE,
    StorageFactory,
    add,
    claim_all,
    kinds,
    payloads,
    refused,
    take,
    take_lease,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestClaim:
    """One holder at a time."""

    async def test_an_empty_queue(self, storage: Storage) -> None:
        """A claim finds nothing where nothing is."""
        assert await storage.jobs.claim("worker-1") is None
        assert list(await storage.jobs.claim_many("worker-1", queues=["a", "b"])) == []

    async def test_the_job_and_its_lease(self, storage: Storage) -> None:
        """A claimed job is running, in its first attempt, held by a lease that names worker and time."""
        job_id = await add(storage, payload={"x": 1})
        now = await storage.now()
        job, lease = await take(storage, "worker-7", lease_ttl=12.5)
        assert (job.id, job.state, job.attempt, job.payload) == (job_id, JobState.RUNNING, 1, {"x": 1})
        assert (lease.job_id, lease.worker_id, lease.ttl) == (job_id, "worker-7", 12.5)
        assert lease.granted_at == pytest.approx(now, abs=5)
        assert lease.expires_at == pytest.approx(lease.granted_at + 12.5, abs=0.001)
        stored = await storage.jobs.get(job_id)
        assert (stored.state, stored.worker_id, stored.lease_id) == (JobState.RUNNING, "worker-7", lease.id)
        assert stored.claimed_at == pytest.approx(lease.granted_at, abs=0.001)

    async def test_a_job_is_handed_out_once(self, storage: Storage) -> None:
        """Q1: a claimed job is nobody else's, whatever its holder does meanwhile."""
        await add(storage)
        await take(storage)
        for worker in ("worker-1", "worker-2"):
            assert await storage.jobs.claim(worker) is None

    async def test_every_claim_makes_a_new_lease(self, storage: Storage) -> None:
        """Q1: the lease of the next claim of a job is another one."""
        await add(storage)
        leases: set[str] = set()
        for _ in range(3):
            lease = await take_lease(storage)
            leases.add(lease.id)
            await storage.jobs.release(lease.id)
        assert len(leases) == 3

    async def test_racing_workers(self, storage_factory: StorageFactory) -> None:
        """Q1: many workers, each with its own Storage, get every job exactly once."""
        claimed: list[Claimed] = []

        async def work(name: str) -> None:
            async with storage_factory() as own:
                while found := await own.jobs.claim_many(name, limit=3):
                    claimed.extend(found)
                    await own.jobs.finish_many([CompleteLease(lease.id) for _, lease in found])

        async with storage_factory() as storage:
            await storage.jobs.enqueue_bulk(EnqueueRequest("work", n) for n in range(100))
            async with anyio.create_task_group() as tasks:
                for n in range(4):
                    tasks.start_soon(work, f"worker-{n}")
            assert sorted(payloads(claimed)) == list(range(100))
            assert (await storage.jobs.counts())[JobState.SUCCEEDED] == 100

    async def test_racing_single_claims(self, storage: Storage) -> None:
        """Q1: single claims made at the same time share nothing either."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", n) for n in range(30))
        claimed: list[Claimed] = []

        async def work(name: str) -> None:
            while found := await storage.jobs.claim(name):
                claimed.append(found)

        async with anyio.create_task_group() as tasks:
            for n in range(8):
                tasks.start_soon(work, f"worker-{n}")
        assert sorted(payloads(claimed)) == list(range(30))
        assert len({lease.id for _, lease in claimed}) == 30

    async def test_a_claim_takes_no_more_than_its_limit(self, storage: Storage) -> None:
        """A claim for n jobs takes n at most and leaves the others."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(10))
        assert len(await storage.jobs.claim_many("worker-1", limit=4)) == 4
        counts = await storage.jobs.counts()
        assert (counts[JobState.RUNNING], counts[JobState.QUEUED]) == (4, 6)

    async def test_a_cancelled_claim_keeps_nothing(self, storage: Storage) -> None:
        """A claim whose caller is cancelled at whatever moment has taken nothing, or gives it back unspent."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work") for _ in range(60))
        kept: list[Claimed] = []

        async def claim(patience: int) -> None:
            async with anyio.create_task_group() as tasks:

                async def give_up() -> None:
                    for _ in range(patience):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(give_up)
                kept.extend(await storage.jobs.claim_many("worker-1", limit=3))

        async with anyio.create_task_group() as claims:
            for patience in range(20):
                claims.start_soon(claim, patience)
        with anyio.fail_after(PATIENCE):
            while (await storage.jobs.counts())[JobState.RUNNING] > len(kept):
                await anyio.lowlevel.checkpoint()
        page = await storage.jobs.list(state=JobState.QUEUED)
        assert len(page.jobs) == 60 - len(kept)
        assert {(job.attempt, job.deliveries) for job in page.jobs} <= {(0, 0)}

    async def test_unusual_claims(self, storage: Storage) -> None:
        """A claim may name a queue or kind twice, very many queues, and a limit beyond what is there."""
        for queue in ("a", "q49"):
            await storage.jobs.enqueue_bulk(EnqueueRequest("work", queue=queue) for _ in range(3))
        queues = ["a", "a", *(f"q{n}" for n in range(50))]
        claimed = await storage.jobs.claim_many("worker-1", queues=queues, kinds=["work", "work", "other"], limit=10**6)
        assert len({job.id for job, _ in claimed}) == len(claimed) == 6

    async def test_finish_and_claim_are_one_step(self, storage: Storage) -> None:
        """Finishing and claiming go together, and a lost lease does not keep new jobs away."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", n) for n in range(4))
        first, second = await storage.jobs.claim_many("worker-1", limit=2)
        await storage.jobs.complete(second[1].id)
        outcomes, claimed = await storage.jobs.finish_and_claim(
            [CompleteLease.of(first[1].id, "done"), CompleteLease.of(second[1].id)],
            ClaimRequest(worker_id="worker-1", limit=10),
        )
        assert refused(outcomes) == [None, LeaseLost]
        assert payloads(claimed) == [2, 3]
        assert (await storage.jobs.get(first[0].id)).result == "done"


@pytest.mark.anyio
class TestSuitability:
    """Labels and kinds."""

    @pytest.mark.parametrize(
        ("required", "offered", "fits"),
        [
            ((), (), True),
            ((), ("gpu",), True),
            (("gpu",), ("gpu",), True),
            (("gpu",), ("gpu", "eu"), True),
            (("gpu", "eu"), ("eu", "gpu", "big"), True),
            (("gpu",), (), False),
            (("gpu",), ("eu",), False),
            (("gpu", "eu"), ("gpu",), False),
        ],
    )
    async def test_labels(
        self, storage: Storage, required: tuple[str, ...], offered: tuple[str, ...], fits: bool
    ) -> None:
        """Q6: a worker needs every label that a job requires, and may have more."""
        await add(storage, required_labels=required)
        assert (await storage.jobs.claim("worker-1", labels=offered) is not None) is fits

    async def test_required_labels_stay_with_the_job(self, storage: Storage) -> None:
        """Q6: a job that is tried again requires the same labels."""
        await add(storage, required_labels=["gpu"], retry=NO_WAIT)
        lease = await take_lease(storage, labels=["gpu"])
        await storage.jobs.fail(lease.id, "boom")
        assert await storage.jobs.claim("worker-1") is None
        assert (await take(storage, labels=["gpu"]))[0].required_labels == ("gpu",)

    async def test_unknown_kinds_are_left(self, storage: Storage) -> None:
        """Q6: a job of a kind that a worker does not know waits for another worker, unharmed."""
        job_id = await add(storage, "new")
        await add(storage, "old")
        assert kinds(await claim_all(storage, kinds=["old", "older"])) == ["old"]
        job = await storage.jobs.get(job_id)
        assert (job.state, job.deliveries, job.attempt) == (JobState.QUEUED, 0, 0)
        assert await storage.jobs.claim("worker-1", kinds=[]) is None
        assert kinds(await claim_all(storage, kinds=["new"])) == ["new"]

    async def test_a_limited_kind(self, storage: Storage) -> None:
        """W1: of a limited kind a claim takes no more than its worker can run; the others come in their order."""
        for n in range(6):
            await add(storage, "slow", f"slow {n}", priority=9, required_labels=["gpu"] if n % 2 else [])
            await add(storage, "fast", f"fast {n}")
        first = await storage.jobs.claim_many("worker-1", labels=["gpu"], kind_limits={"slow": 2, "x": 0}, limit=5)
        assert payloads(first) == ["slow 0", "slow 1", "fast 0", "fast 1", "fast 2"]
        second = await storage.jobs.claim_many("worker-1", labels=["gpu"], kind_limits={"slow": 0}, limit=9)
        assert payloads(second) == ["fast 3", "fast 4", "fast 5"]
        assert await storage.jobs.claim_many("worker-1", labels=["gpu"], kind_limits={"slow": 0}) == []
        job = (await storage.jobs.list(state=JobState.QUEUED)).jobs[0]
        assert (job.kind, job.attempt, job.deliveries) == ("slow", 0, 0)
        assert len(await claim_all(storage, labels=["gpu"], kind_limits={"fast": 0})) == 4

    async def test_a_limited_kind_alone(self, storage: Storage) -> None:
        """W1: a limited kind is limited also where there is nothing else to take."""
        for _ in range(5):
            await add(storage, "slow")
        assert len(await storage.jobs.claim_many("worker-1", kind_limits={"slow": 2}, limit=9)) == 2
        assert len(await storage.jobs.claim_many("worker-1", kind_limits={"slow": 9}, limit=2)) == 2

    async def test_a_limited_kind_in_several_queues(self, storage: Storage) -> None:
        """W1: the limit of a kind counts over all the queues of a claim, together with what a finish gives back."""
        for n in range(8):
            await add(storage, "slow", queue="ab"[n % 2])
        await add(storage, "fast", queue="b")
        lease = await take_lease(storage, queues=["a"])
        outcomes, claimed = await storage.jobs.finish_and_claim(
            [CompleteLease.of(lease.id)],
            ClaimRequest(worker_id="worker-1", queues=["a", "b"], kind_limits={"slow": 3}, limit=9),
        )
        assert outcomes == [None]
        assert sorted(kinds(claimed)) == ["fast", "slow", "slow", "slow"]

    async def test_what_does_not_fit_blocks_nobody(self, storage: Storage) -> None:
        """Q18: a crowd of unknown kinds and labels at the head of a queue does not hide the job behind it."""
        await storage.jobs.enqueue_bulk(
            [
                *(EnqueueRequest("unknown", priority=9) for _ in range(1500)),
                *(EnqueueRequest("work", priority=9, required_labels=["gpu"]) for _ in range(1500)),
                *(EnqueueRequest("unknown", priority=9, delay=1) for _ in range(1500)),
                EnqueueRequest("work", "wanted"),
            ]
        )
        await advance(storage, 2)
        assert payloads(await claim_all(storage, kinds=["work"], limit=5)) == ["wanted"]

    async def test_a_crowd_of_due_jobs(self, storage: Storage) -> None:
        """Q18: thousands of jobs that become due at the same moment are all handed out, each once."""
        await storage.jobs.enqueue_bulk(EnqueueRequest("work", n, delay=5) for n in range(3000))
        assert await storage.jobs.claim("worker-1") is None
        await advance(storage, 6)
        assert sorted(payloads(await claim_all(storage, limit=250))) == list(range(3000))
