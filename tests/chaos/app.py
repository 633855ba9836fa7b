"""The application that chaos is made with; ``WORKERCTX_URL`` says with which store, ``CHAOS_FOLDER`` where logs go."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import anyio

from workerctx import JobCtx, JobRegistry
from workerctx.errors import QueueError
from workerctx.lifecycle import worker_event
from workerctx.queue import Constant, JobState
from workerctx.runtime.events import JobFinished, JobLost, JobOutcome

BACKLOG = 1000


class Log:
    """Lines that survive a kill, because each is one write."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}-{time.monotonic_ns()}.log"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *words: object) -> None:
        os.write(self._file, ("\t".join(map(str, words)) + "\n").encode())


jobs = JobRegistry()
log = Log(Path(os.environ["CHAOS_FOLDER"]))


@jobs.register(max_attempts=1000, retry=Constant(0.0))
async def chaos(ctx: JobCtx, number: int) -> str | None:
    """Say that it runs, take a while, and return the lease under which it ran."""
    log.write("ran", ctx.job_id, ctx.job.lease_id, os.getpid(), ctx.job.worker_id)
    await anyio.sleep(random.choices([0.0, 0.05, 1.5], weights=[50, 48, 2])[0])
    return ctx.job.lease_id


@worker_event.connect
def note_runs_in_vain(_: object, event: object) -> None:
    """Say which leases were lost, before or after the run had ended, and which were given back."""
    if isinstance(event, JobLost):
        log.write("refused" if event.after_run else "lost", event.lease_id)
    elif isinstance(event, JobFinished) and event.outcome is JobOutcome.RELEASED:
        log.write("released", event.job.lease_id)


async def produce(dice: random.Random) -> None:
    """Enqueue, alone and in bulk, until killed."""
    while True:
        try:
            # Enough that every worker always holds leases, and no more than can be finished in the end.
            if (await jobs.storage.jobs.counts())[JobState.QUEUED] < BACKLOG:
                outcomes = await jobs.enqueue_bulk([chaos.request(0)] * dice.choice([1, 50, 200]))
                for outcome in outcomes:
                    log.write("enqueued", outcome.id)
        except QueueError as exc:
            log.write("told", repr(exc))
        await anyio.sleep(dice.uniform(0, 0.05))
