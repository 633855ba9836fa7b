"""Plain sync code: scripts, threads, sync handlers."""

from __future__ import annotations

import threading

import pytest

from workerctx.errors import InvalidArguments, RegistryNotOpen
from workerctx.queue import JobState
from workerctx.service import JobRegistry


def register(jobs: JobRegistry):
    @jobs.register(name="job")
    async def job(path: str) -> str: ...

    return job


def test_a_script_enqueues_inside_a_with_block(jobs):
    """Decision 17: `with jobs.sync:` opens the store for sync code; nested blocks share it."""
    job = register(jobs)
    with jobs.sync as sync, jobs.sync:
        handle = job.enqueue_sync("cat.jpg")
        assert not handle.deduped
        assert handle.status() is JobState.QUEUED
        assert handle.get().payload == {"path": "cat.jpg"}
        assert sync.handle(handle.id).id == handle.id
        outcome = sync.enqueue(job.request("a"))
        outcomes = sync.enqueue_bulk([job.request("b"), job.request("c")])
        assert len({handle.id, outcome.id, *(each.id for each in outcomes)}) == 4
        assert handle.cancel()
        with pytest.raises(TimeoutError, match="`workerctx jobs explain "):
            sync.handle(outcome.id).result(timeout=0.001)
        with pytest.raises(InvalidArguments):
            job.enqueue_sync(1)
    assert not jobs.branch.store.in_use


def test_a_result_is_typed_in_sync_code(jobs):
    """`SyncJobHandle.result` gives back what the handler returned."""

    @jobs.register(name="numbers")
    async def numbers() -> tuple[int, int]: ...

    async def complete() -> None:
        claimed = await jobs.storage.jobs.claim("worker")
        assert claimed is not None
        await jobs.storage.jobs.complete(claimed[1].id, [1, 2])

    with jobs.sync as sync:
        handle = numbers.enqueue_sync()
        sync.run(complete)
        assert handle.result(timeout=10) == (1, 2)


def test_without_a_block_the_remedy_is_named(jobs):
    """Enqueueing before the store is open is one sentence with the remedy."""
    job = register(jobs)
    with pytest.raises(RegistryNotOpen, match=r"put `with jobs\.sync:` around"):
        job.enqueue_sync("cat.jpg")
    with pytest.raises(RegistryNotOpen, match="no event loop in this thread: use `handler"):
        _ = jobs.storage


def test_a_failing_open_leaves_nothing_behind(monkeypatch):
    """A store that cannot be opened stops the thread that was to serve it."""
    monkeypatch.delenv("WORKERCTX_URL", raising=False)
    jobs = JobRegistry()
    before = threading.active_count()
    for _ in range(2):
        with pytest.raises(RegistryNotOpen, match="has no store"), jobs.sync:
            pass
    assert threading.active_count() == before


async def test_an_event_loop_is_never_blocked(jobs):
    """Called where an event loop runs, the blocking form refuses and names the async one."""
    job = register(jobs)
    async with jobs:
        with pytest.raises(RegistryNotOpen, match="use the async form"):
            job.enqueue_sync("cat.jpg")
        with pytest.raises(RegistryNotOpen, match="use the async form"), jobs.sync:
            pass


async def test_a_sync_handler_enqueues_through_its_loop(jobs, run):
    """In a thread of the event loop that opened the registry, no block is needed."""
    job = register(jobs)

    @jobs.register(name="parent")
    def parent(path: str) -> str:
        return job.enqueue_sync(path).id

    async with jobs:
        job_id = await run(parent, "cat.jpg")
        assert (await jobs.handle(job_id).get()).payload == {"path": "cat.jpg"}


def test_threads_share_the_block(jobs):
    """Any thread may enqueue while the block is open."""
    job = register(jobs)
    ids: list[str] = []
    with jobs.sync:
        threads = [threading.Thread(target=lambda: ids.append(job.enqueue_sync("a").id)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids)) == 8
