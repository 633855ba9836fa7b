"""Handlers that run by the clock, as declared."""

from __future__ import annotations

from typing import Any

import pytest

from workerctx.errors import InvalidArguments, InvalidHandler, InvalidRequest
from workerctx.queue import Misfire
from workerctx.service import JobRegistry


def test_a_schedule_takes_kind_queue_and_arguments_from_its_handler() -> None:
    """A declared schedule enqueues what the handler itself would."""
    jobs = JobRegistry()

    @jobs.schedule("*/5 * * * *", tz="Europe/Berlin", misfire=Misfire.ALL, args=("/tmp",), kwargs={"days": 3})
    @jobs.register(queue="chores", max_attempts=2)
    async def sweep(folder: str, days: int = 7) -> None: ...

    (schedule,) = jobs.schedules
    assert (schedule.name, schedule.cron, schedule.timezone) == (sweep.kind, "*/5 * * * *", "Europe/Berlin")
    assert schedule.misfire is Misfire.ALL
    assert schedule.request.queue == "chores"
    assert schedule.request.max_attempts == 2
    assert schedule.request.payload == {"folder": "/tmp", "days": 3}


def test_an_included_schedule_follows_its_handler() -> None:
    """The prefix of an including registry shows in the schedule's name and kind."""
    inner, outer = JobRegistry(), JobRegistry("memory://")

    @inner.schedule(every=30)
    @inner.register(name="sweep")
    async def sweep() -> None: ...

    outer.include(inner, prefix="chores.")
    (schedule,) = outer.schedules
    assert (schedule.name, schedule.request.kind, schedule.every) == ("chores.sweep", "chores.sweep", 30.0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cron": "61 * * * *"}, InvalidRequest),
        ({"cron": "* * * * *", "tz": "Mars/Olympus"}, InvalidRequest),
        ({}, InvalidRequest),
        ({"cron": "* * * * *", "every": 5}, InvalidRequest),
        ({"every": 0}, InvalidRequest),
        ({"every": 5, "args": ("too", "many")}, InvalidArguments),
    ],
    ids=["cron", "zone", "neither", "both", "zero", "arguments"],
)
def test_a_wrong_schedule_is_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    """Q13: a schedule that cannot work is refused at import time, with nothing declared."""
    jobs = JobRegistry()

    @jobs.register
    async def sweep() -> None: ...

    with pytest.raises(error):
        jobs.schedule(**options)(sweep)
    assert jobs.schedules == ()


def test_a_name_is_taken_once_and_only_handlers_are_scheduled() -> None:
    """A second schedule needs a name of its own; a plain function is told where the decorator belongs."""
    jobs = JobRegistry()

    @jobs.schedule(every=5)
    @jobs.register
    async def sweep() -> None: ...

    with pytest.raises(InvalidRequest, match="name="):
        jobs.schedule(every=6)(sweep)
    jobs.schedule(every=6, name="sweep slowly")(sweep)
    assert len(jobs.schedules) == 2
    plain: Any = len
    with pytest.raises(InvalidHandler, match=r"above @jobs\.register"):
        jobs.schedule(every=5)(plain)
