"""Handlers in processes of their own, served by real loops over SQLite."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from workerctx import WorkerConfig, WorkerLoop
from workerctx.errors import HandlerFailed, JobFailed
from workerctx.queue import JobState, QueuedJob
from workerctx.service import JobCtx, Site, process
from workerctx.testing import wait_until

PATIENCE = 30.0
HERE = Path(__file__).parent


@pytest.fixture
def hands(monkeypatch):
    """The module of the handlers, where their processes find it too."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("process_handlers")


@pytest.fixture
async def jobs(hands, tmp_path):
    """Their registry, open over a store of this test."""
    with hands.jobs.override(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal"):
        async with hands.jobs as jobs:
            yield jobs


@pytest.fixture
def serving(jobs):
    """Serve the registry in the background."""

    @asynccontextmanager
    async def serving(**settings):
        with anyio.fail_after(PATIENCE):
            async with WorkerLoop(jobs, WorkerConfig(**({"concurrency": 1, "poll_interval": 60.0} | settings))) as loop:
                yield loop

    return serving


@pytest.fixture
def notes(tmp_path):
    """A file for a handler to write the ids of processes to."""
    return tmp_path / "notes"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def pids_in(notes: Path) -> list[int]:
    return [int(word) for word in notes.read_text().split()] if notes.exists() else []


async def read_pids(notes: Path) -> list[int]:
    await wait_until(lambda: pids_in(notes), PATIENCE)
    return pids_in(notes)


async def wait_until_gone(pids: list[int]) -> None:
    await wait_until(lambda: not any(map(is_alive, pids)), PATIENCE)


async def error_of(handle):
    """Wait until a job is dead and return what is stored of its failure."""
    with pytest.raises(JobFailed):
        await handle.result(PATIENCE)
    return (await handle.get()).error_history[-1].error


async def test_a_handler_runs_in_a_process_that_the_next_job_uses_again(hands, serving):
    """The process is another one than the worker's, and it ends with the worker."""
    async with serving():
        first, second = [await (await hands.whoami.enqueue()).result(PATIENCE) for _ in range(2)]
        assert first == second != os.getpid()
        assert is_alive(first)
    await wait_until_gone([first])


async def test_the_slots_bound_how_many_run_at_once(hands, serving):
    """Twenty jobs at concurrency 4 need four processes at most."""
    async with serving(concurrency=4):
        handles = [await hands.work.enqueue(number) for number in range(20)]
        results = [await handle.result(PATIENCE) for handle in handles]
    assert [square for square, _ in results] == [number * number for number in range(20)]
    assert len({pid for _, pid in results}) <= 4


async def test_idle_processes_end_after_a_while(hands, serving, monkeypatch):
    """The worker goes on without them, and starts another one for the next job."""
    monkeypatch.setattr(process, "IDLE_SECONDS", 0.05)
    async with serving():
        first = await (await hands.whoami.enqueue()).result(PATIENCE)
        await wait_until_gone([first])
        assert await (await hands.whoami.enqueue()).result(PATIENCE) != first


async def test_an_idle_process_that_is_killed_costs_no_job(hands, serving):
    """The next job gets a new process, and its attempt is not used up."""
    async with serving():
        first = await (await hands.whoami.enqueue()).result(PATIENCE)
        os.kill(first, signal.SIGKILL)
        assert await (await hands.whoami.enqueue()).result(PATIENCE) != first


async def test_a_timeout_kills_the_process_and_what_it_started(hands, serving, notes):
    """W2: a handler that computes for ever ends with its timeout, with its own children, and the loop goes on."""
    async with serving():
        handle = await hands.hang.with_options(timeout=3.0).enqueue(str(notes))
        pids = await read_pids(notes)
        assert len(pids) == 2
        error = await error_of(handle)
        await wait_until_gone(pids)
        assert error.kind == "TimeoutError"
        assert await (await hands.whoami.enqueue()).result(PATIENCE) not in pids


async def test_a_cancelled_handler_can_give_up(hands, serving, notes):
    """W7: the word reaches the process, whose `cancel.check()` ends the run."""
    async with serving():
        handle = await hands.obey.enqueue(str(notes))
        pids = await read_pids(notes)
        await handle.cancel()
        await wait_until(lambda: is_in(handle, JobState.CANCELLED), PATIENCE)
        await wait_until_gone(pids)


async def test_a_cancelled_handler_that_does_not_listen_is_killed(hands, serving, notes):
    """Q7: a job that is cancelled while it runs ends wherever it runs."""
    async with serving():
        handle = await hands.hang.enqueue(str(notes))
        pids = await read_pids(notes)
        await handle.cancel()
        await wait_until(lambda: is_in(handle, JobState.CANCELLED), PATIENCE)
        await wait_until_gone(pids)


async def test_a_handler_may_finish_after_the_word(hands, serving, notes):
    """Q7: success beats cancel, and the slot goes on with the next job in another process."""
    async with serving():
        handle = await hands.hurry.enqueue(str(notes))
        (pid,) = await read_pids(notes)
        await handle.cancel()
        assert await handle.result(PATIENCE) == "user"
        assert await (await hands.whoami.enqueue()).result(PATIENCE) != pid
        await wait_until_gone([pid])


async def test_a_lost_lease_ends_the_run(hands, jobs, serving, notes):
    """W7: a job that belongs to somebody else by now is not worked on; nobody is told of it."""
    async with serving(heartbeat=0.1):
        handle = await hands.hang.enqueue(str(notes))
        pids = await read_pids(notes)
        await jobs.storage.advance(3600)
        await jobs.storage.jobs.reap_expired_leases()
        await wait_until_gone(pids)
        assert (await error_of(handle)).kind == "lease expired"


async def test_a_shutdown_gives_the_job_back(hands, serving, notes):
    """W3: a handler hears of the stop at once, is killed after the grace, and its attempt is not used up."""
    async with serving(grace=0.5) as loop:
        handle = await hands.told.enqueue(str(notes))
        await read_pids(notes)
        loop.shutdown("deploy")
        pids = await read_pids(notes.with_suffix(".told"))
    await wait_until_gone(pids)
    job = await handle.get()
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)


async def test_a_handler_may_finish_within_the_grace(hands, serving, notes):
    """W3: what a handler returns after it was told of the stop is its result."""
    async with serving() as loop:
        handle = await hands.hurry.enqueue(str(notes))
        await read_pids(notes)
        loop.shutdown("deploy")
    assert await handle.result(PATIENCE) == "shutdown"


async def test_a_cancellation_around_the_worker_leaves_no_process(hands, jobs, notes):
    """W3: the job is given back, and nothing of its process stays."""
    with anyio.fail_after(PATIENCE):
        handle = await hands.hang.enqueue(str(notes))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(WorkerLoop(jobs, WorkerConfig(concurrency=1)).run)
            pids = await read_pids(notes)
            tasks.cancel_scope.cancel()
    await wait_until_gone(pids)
    assert ((await handle.get()).state, (await handle.get()).attempt) == (JobState.QUEUED, 0)


async def test_a_killed_process_is_its_jobs_failure(hands, serving, notes):
    """W2: the sentence names the signal, what the process started dies too, and the loop goes on."""
    async with serving():
        error = await error_of(await hands.shoot.enqueue(str(notes)))
        assert error.kind == "HandlerCrashed"
        assert "killed by SIGKILL" in error.message
        await wait_until_gone(await read_pids(notes))
        assert await (await hands.echo.enqueue("on")).result(PATIENCE) == "on"


@pytest.mark.parametrize("status", [0, 9])
async def test_a_process_that_leaves_is_its_jobs_failure(hands, serving, status):
    """W2: `os._exit` fails the job, whatever the status, and the sentence names it."""
    async with serving():
        error = await error_of(await hands.leave.enqueue(status))
        assert f"ended with status {status}" in error.message


@pytest.mark.parametrize(("name", "sentence"), [("exits", "called sys.exit(3)"), ("interrupts", "KeyboardInterrupt")])
async def test_what_is_no_exception_fails_the_job_alone(hands, serving, name, sentence):
    """W2: `sys.exit` and its like are the job's failure; not even the process ends."""
    async with serving():
        before = await (await hands.whoami.enqueue()).result(PATIENCE)
        assert sentence in (await error_of(await getattr(hands, name).enqueue())).message
        assert await (await hands.whoami.enqueue()).result(PATIENCE) == before


async def test_an_exception_is_stored_as_it_was_raised(hands, serving):
    """Its class, its message, and the traceback of the process."""
    async with serving():
        error = await error_of(await hands.fail.enqueue("bad luck"))
    assert (error.kind, error.message) == ("ValueError", "bad luck")
    assert "in fail" in error.traceback


@pytest.mark.parametrize(
    ("word", "state", "attempt"),
    [
        ("abort", JobState.DEAD, 1),
        ("snooze", JobState.SCHEDULED, 0),
        ("retry", JobState.SCHEDULED, 1),
        ("throttled", JobState.SCHEDULED, 0),
    ],
)
async def test_verdicts_reach_the_store(hands, serving, word, state, attempt):
    """Q4: what a handler raises or returns to say how its job goes on has its meaning from a process too."""
    async with serving():
        handle = await hands.verdict.enqueue(word)
        await wait_until(lambda: is_in(handle, state), PATIENCE)
    assert (await handle.get()).attempt == attempt


async def test_progress_is_stored(hands, serving, notes):
    """The newest of many reports arrives while the handler runs, also in a tight loop, beside its last heartbeat."""
    async with serving(grace=0):
        handle = await hands.steps.enqueue(50_000, str(notes))
        await read_pids(notes)

        async def complete():
            return (await handle.get()).progress == {
                "done": 50_000,
                "total": 50_000,
                "detail": {"step": "counts"},
            }

        await wait_until(complete, PATIENCE)


async def test_reports_that_cannot_be_stored(hands, serving):
    """Q13: progress that is no finite number and a detail that is no JSON are refused where they are reported."""
    async with serving():
        assert "detail" in (await error_of(await hands.nonsense_heartbeat.enqueue())).message
        assert "finite" in (await error_of(await hands.nonsense_progress.enqueue())).message


async def test_output_goes_to_stderr(hands, serving, capfd):
    """Nothing that a handler prints, or has others print, meets the protocol or the worker's stdout."""
    async with serving():
        assert await (await hands.chatter.enqueue()).result(PATIENCE) == ""
    out, err = capfd.readouterr()
    assert out == ""
    assert {"printed", "written", "echoed", "complained"} <= set(err.split())


@pytest.mark.parametrize(("name", "sentence"), [("garble", "something else than an answer"), ("close_all", "closed")])
async def test_a_broken_pipe_to_the_worker_fails_the_job_alone(hands, serving, name, sentence):
    """W2: a handler that writes to or closes descriptors that it did not open is killed, and the loop goes on."""
    async with serving():
        before = await (await hands.whoami.enqueue()).result(PATIENCE)
        error = await error_of(await getattr(hands, name).enqueue())
        assert sentence in error.message
        assert await (await hands.whoami.enqueue()).result(PATIENCE) != before
        await wait_until_gone([before])


async def test_large_payloads_and_results_pass(hands, serving):
    """Up to the limit of the store, there and back; line breaks are no trouble."""
    text = "ä\n" * 260_000
    async with serving():
        assert await (await hands.echo.enqueue(text)).result(PATIENCE) == text
        assert "the limit is" in (await error_of(await hands.inflate.enqueue(2_000_000))).message
        assert (await error_of(await hands.unwritable.enqueue())).kind == "InvalidRequest"


async def test_a_payload_that_does_not_fit_is_dead(hands, jobs, serving):
    """Q14: it fails in the process as it would in the worker: at once, with the reason."""
    request = hands.verdict.request("abort")
    object.__setattr__(request, "payload_json", b'{\n"word":\n3}')
    async with serving():
        outcome = await jobs.enqueue(request)
        error = await error_of(jobs.handle(outcome.id))
    assert "does not fit verdict" in error.message
    assert (await jobs.handle(outcome.id).get()).attempt == 1


async def test_layers_run_in_the_worker(hands, serving, notes):
    """What they make of a request reaches the handler, and what it raised reaches them."""
    async with serving():
        assert await (await hands.mapped.enqueue(1)).result(PATIENCE) == [2, os.getpid()]
        assert await (await hands.stubborn.enqueue(str(notes))).result(PATIENCE) == 3
        assert (await error_of(await hands.bounded.enqueue())).kind == "HandlerTimeout"


async def test_a_name_that_leads_to_another_handler_is_refused(jobs, serving):
    """A process would run what stands there now, which is not the handler."""
    async with serving():
        handle = await jobs.find("covered").enqueue()
        assert "is not the handler" in (await error_of(handle)).message


async def test_without_a_worker_a_run_has_a_process_to_itself(hands, jobs):
    """What the handler raised comes alone, and the process is gone."""

    def ctx(handler, payload):
        job = QueuedJob(id="job-1", kind=handler.kind, payload_json=payload, attempt=1, max_attempts=1)
        return JobCtx(job, Site(jobs.storage))

    with pytest.raises(HandlerFailed, match="ValueError: bad luck"):
        await hands.fail.run(ctx(hands.fail, b'{"message": "bad luck"}'))
    pid = await hands.whoami.run(ctx(hands.whoami, b"{}"))
    await wait_until_gone([pid])


async def test_processes_do_not_outlive_a_killed_worker(hands, jobs, notes):
    """A worker that dies takes its processes with it, and those that they have started."""
    await hands.hang.enqueue(str(notes))
    program = "import anyio, process_handlers as p; from workerctx import *; anyio.run(WorkerLoop(p.jobs).run)"
    env = {**os.environ, "WORKERCTX_URL": jobs.url, "PYTHONPATH": str(HERE)}
    async with await anyio.open_process([sys.executable, "-c", program], env=env, stdin=None, stdout=None) as worker:
        try:
            pids = await read_pids(notes)
            assert all(map(is_alive, pids))
        finally:
            worker.kill()
    await wait_until_gone(pids)


async def is_in(handle, state: JobState) -> bool:
    return await handle.status() is state
