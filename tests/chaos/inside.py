"""Chaos in one process, for a store in memory: its calls fail, hang and lose their answers, and loops are cancelled."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import anyio
import attrs
from accounting import finish
from app import produce
from fleet import LEASE, WORKERS

from workerctx import WorkerConfig, WorkerLoop
from workerctx.testing import Faults

if TYPE_CHECKING:
    import random

    from workerctx import JobRegistry
    from workerctx.queue import QueuedJob


@attrs.define
class Inside:
    """Worker loops of one process on a store in memory, and what is done to them."""

    jobs: JobRegistry
    dice: random.Random
    faults: Faults = attrs.field(factory=Faults)
    places: dict[str, anyio.CancelScope] = attrs.field(factory=dict)
    """The scopes of the running loops, by worker id."""
    killed: set[str] = attrs.field(factory=set)
    """Worker ids of the loops that were cancelled, perhaps while the store did not answer."""
    deeds: Counter[str] = attrs.field(factory=Counter)

    async def play(self, seconds: float) -> list[QueuedJob]:
        """Do it, and return every job at its end."""
        async with self.jobs:
            with self.faults.inject(self.jobs):
                async with anyio.create_task_group() as group:
                    for _ in range(WORKERS):
                        group.start_soon(self._serve)
                    group.start_soon(produce, self.dice)
                    with anyio.move_on_after(seconds):
                        while True:
                            await self._torment()
                    group.cancel_scope.cancel()
            return await finish(self.jobs)

    async def _serve(self) -> None:
        while True:
            loop = WorkerLoop(self.jobs, WorkerConfig.from_env(hard_limit=0.5))
            with anyio.CancelScope() as self.places[loop.worker_id]:
                await loop.run()

    async def _torment(self) -> None:
        await anyio.sleep(self.dice.uniform(0.05, 0.5))
        deed = self.dice.choice(["cancels", "failures", "answers lost", "hung calls", "hung renewals"])
        self.deeds[deed] += 1
        match deed:
            case "cancels":
                worker_id = self.dice.choice(list(self.places))
                self.places.pop(worker_id).cancel()
                self.killed.add(worker_id)
                return
            case "failures":
                fault, seconds = self.faults.fail("jobs.*", "renewer.*", "workers.*"), 0.5
            case "answers lost":
                fault, seconds = self.faults.fail("jobs.finish*", answer_lost=True), 0.2
            case "hung calls":
                fault, seconds = self.faults.hang("jobs.finish*"), LEASE * 2
            case _:
                fault, seconds = self.faults.hang("renewer.renew"), LEASE * 2
        with fault:
            await anyio.sleep(seconds)
