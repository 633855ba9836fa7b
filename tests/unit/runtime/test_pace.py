"""W1: how many jobs are claimed before a slot is free."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import TYPE_CHECKING

import anyio
import pytest

from workerctx import JobCtx, JobRegistry, WorkerConfig, WorkerLoop
from workerctx.runtime import JobsClaimed
from workerctx.runtime.pace import Pace
from workerctx.testing import Faults, virtual_clock

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 0.05


def pace_of(*seconds: float) -> Pace:
    """A pace that has seen runs of these lengths, one after the other."""
    pace = Pace()
    for each in seconds:
        pace.note(each)
    return pace


class TestPace:
    def test_nothing_is_known_at_first(self) -> None:
        """W1: before any run has ended nothing is claimed ahead."""
        assert Pace().due([0.0], 1.0, WINDOW) == (0, math.inf)

    def test_steady_runs_tell_when_the_next_one_ends(self) -> None:
        """W1: of runs that take equally long those count that end soon, and the time until the next one does."""
        pace = pace_of(*[1.0] * 100)
        soon, seconds = pace.due([0.0, 0.01, 0.2, 0.5], 0.99, WINDOW)
        assert (soon, seconds) == (2, pytest.approx(0.185))

    def test_a_straggler_is_not_expected_soon(self) -> None:
        """W1: a run that takes longer than all others is no reason to claim a job for its slot."""
        pace = pace_of(*[1.0] * 100)
        assert pace.due([0.0], 1.02, WINDOW)[0] == 1
        assert pace.due([0.0], 1.5, WINDOW)[0] == 0

    def test_of_runs_that_differ_only_the_number_counts(self) -> None:
        """W1: where nobody can tell who ends next, as many are claimed as usually end in that time."""
        generator = random.Random(1)
        pace = Pace()
        for _ in range(200):
            for _ in range(2):
                pace.note(generator.expovariate(1))
            pace.note_work(0.02)
        began = [generator.uniform(-2, 0) for _ in range(100)]
        assert pace.due(sorted(began), 0.0, WINDOW)[0] <= 3

    def test_short_runs_fill_half_a_window(self) -> None:
        """W1: of short jobs as many are claimed as end in half of the window, until there were too many."""
        pace = Pace()
        for _ in range(100):
            for _ in range(50):
                pace.note(0.001)
            pace.note_work(0.01)
        assert pace.due([], 0.0, WINDOW)[0] == pytest.approx(125, abs=2)
        for _ in range(50):
            pace.note(0.001)
        pace.brake()
        assert pace.due([], 0.0, WINDOW)[0] == 0
        pace.note_work(0.05)  # what had ended before the brake is no reason to claim as much again
        assert pace.due([], 0.0, WINDOW)[0] == 0


@pytest.mark.parametrize(
    ("draw", "least", "in_vain"),
    [
        pytest.param(lambda _: 0.05, 0.97, 0, id="steady"),
        pytest.param(lambda _: 0.01, 0.9, 0, id="short"),
        pytest.param(lambda numbers: numbers.gauss(0.05, 0.005), 0.97, 50, id="nearly steady"),
        pytest.param(lambda numbers: numbers.uniform(0.5, 1.5), 0.99, 200, id="varied"),
    ],
)
def test_slots_do_not_wait_for_the_store(
    anyio_backend_name: str, draw: Callable[[random.Random], float], least: float, in_vain: int
) -> None:
    """W1: with a store that takes 2 ms for a round slots are hardly ever idle, and little is claimed in vain."""
    jobs, numbers = JobRegistry("memory://"), random.Random(1)
    slots, claims = defaultdict[str, list[float]](list), list[int]()

    @jobs.register
    async def nap(ctx: JobCtx, seconds: float) -> None:
        slots[ctx.process_id].append(anyio.current_time())
        await anyio.sleep(seconds)
        slots[ctx.process_id].append(anyio.current_time())

    async def main() -> None:
        with Faults().inject(jobs) as faults:
            async with jobs:
                await jobs.enqueue_bulk([nap.request(draw(numbers)) for _ in range(1000)])
                faults.delay("jobs.finish_many", "jobs.finish_and_claim", seconds=0.002)
                loop = WorkerLoop(jobs, WorkerConfig(concurrency=50, lease_ttl=86400))
                loop.context.listen(lambda _, event: claims.append(event.number), JobsClaimed)
                await loop.run(burst=True)

    anyio.run(main, backend=anyio_backend_name, backend_options=virtual_clock(anyio_backend_name))
    busy = sum(end - begin for times in slots.values() for begin, end in zip(times[::2], times[1::2], strict=True))
    assert busy / sum(times[-1] - times[0] for times in slots.values()) >= least
    assert sum(claims) - 1000 <= in_vain
