"""How a worker fares, from its context and the pulse of its event loop."""

import anyio
import pytest

from workerctx.cli.health import Pulse, health_of
from workerctx.lifecycle import WorkerContext


async def test_the_three_answers_through_a_life():
    """L35: alive, ready and started follow the context, with its reasons."""

    def answers():
        found = health_of(worker, Pulse(), 1.0)
        return found.livez.ok, found.readyz.ok, found.startupz.ok

    worker = WorkerContext("mailer")
    assert answers() == (True, False, False)
    async with worker:
        assert answers() == (True, True, True)
        worker.pause("lunch")
        assert answers() == (True, False, True)
        assert health_of(worker, Pulse(), 1.0).readyz.reason == "paused: lunch"
        worker.stop()
        assert answers() == (True, False, True)
    assert answers() == (False, False, True)


async def test_a_worker_that_never_started():
    """L6: a worker that was stopped before it started has not started, and says so."""
    worker = WorkerContext("mailer")
    worker.stop()
    await worker
    assert health_of(worker, Pulse(), 1.0).startupz.reason == "stopped before it started"


async def test_a_silent_event_loop_is_not_alive():
    """W5: a loop that was not seen at work for too long is not alive; one that does not run has no pulse."""
    now = [100.0]
    pulse = Pulse(lambda: now[0])
    async with WorkerContext("mailer") as worker:
        now[0] += 1000
        assert health_of(worker, pulse, 5.0).livez.ok
        async with pulse.beating():
            await anyio.wait_all_tasks_blocked()
            now[0] += 4
            assert health_of(worker, pulse, 5.0).livez.ok
            now[0] += 4
            found = health_of(worker, pulse, 5.0)
            assert found.livez.reason == "the event loop has been blocked for 8 seconds"
            assert found.readyz.ok
        assert pulse.silence == 0


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
async def test_what_is_raised_while_the_pulse_is_felt_leaves_as_it_is(error):
    """L30: an exception is not wrapped into a group."""
    with pytest.raises(error):
        async with Pulse().beating():
            raise error
