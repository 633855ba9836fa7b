"""Trace: what is said about each run."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress

import anyio
import pytest

from workerctx.queue import QueuedJob
from workerctx.service import JobCtx, Request
from workerctx.service.layers import Retry, Trace


async def test_begin_and_end_are_logged_with_id_and_attempt(jobs, run, caplog):
    """Item 32: records have kind, job id and attempt, at DEBUG unless another level is asked for."""

    @jobs.register(name="job", layers=[Trace()])
    async def job() -> str:
        return "done"

    @jobs.register(name="loud", layers=[Trace(logging.INFO)])
    async def loud() -> None: ...

    with caplog.at_level(logging.DEBUG, "workerctx.trace"):
        assert await run(job) == "done"
        await run(loud)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2 + [logging.INFO] * 2
    begin, end = caplog.records[:2]
    assert begin.getMessage() == "job job job-1 (run 1) begins"
    assert end.getMessage().startswith("job job job-1 (run 1) done in 0.")
    assert (end.kind, end.job_id, end.attempt) == ("job", "job-1", 1)
    assert end.seconds >= 0


async def test_a_failure_is_an_error(jobs, run, caplog):
    """Item 32: a failed run is logged at ERROR with the exception, which comes through."""

    @jobs.register(name="job", layers=[Trace()])
    async def job() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run(job)
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert "left after 0." in record.getMessage()
    assert "ValueError('mine')" in record.getMessage()
    assert record.error == "ValueError"


@pytest.mark.usefixtures("virtual_time")
async def test_inside_of_a_retry_each_try_is_logged(jobs, run, caplog):
    """Section 1.5: with the retry outside, each try has a record with its number."""

    @jobs.register(name="job", layers=[Retry(1), Trace()])
    async def job() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await run(job)
    assert [getattr(record, "try") for record in caplog.records] == [1, 2]
    assert caplog.records[1].getMessage().startswith("job job job-1 (run 1, try 2) left after")


async def test_a_cancellation_is_no_error(caplog):
    """A run that is cancelled is said to have left, at the usual level."""
    with caplog.at_level(logging.DEBUG, "workerctx.trace"), anyio.CancelScope() as scope:
        scope.cancel()
        await Trace()(Request("job"), lambda request: anyio.sleep_forever())
    assert caplog.records[-1].levelno == logging.DEBUG
    assert caplog.records[0].getMessage() == "job job None (run None) begins"


async def test_a_span_can_continue_a_trace_from_the_jobs_headers(jobs, site, caplog):
    """Item 32: `make_span` is entered around the run and finds the trace headers; records carry them too."""
    seen: list[str] = []

    @contextmanager
    def make_span(request: Request):
        seen.append(request.data.require(JobCtx).job.headers["traceparent"])
        try:
            yield
        finally:
            seen.append("left")

    @jobs.register(name="job", layers=[Trace(make_span=make_span)])
    async def job() -> None:
        seen.append("handler")

    headers = {"traceparent": "00-a-b-01", "other": "x"}
    with caplog.at_level(logging.DEBUG, "workerctx.trace"):
        await job.run(JobCtx(QueuedJob(id="1", kind="job", payload_json=b"{}", headers=headers), site))
    assert seen == ["00-a-b-01", "handler", "left"]
    assert caplog.records[0].traceparent == "00-a-b-01"
    assert not hasattr(caplog.records[0], "other")


async def test_a_span_cannot_turn_a_failure_into_a_success():
    """A span that swallows the exception does not make a failed job look like a success."""

    @contextmanager
    def make_span(request: Request):
        with suppress(ValueError):
            yield

    async def endpoint(request: Request):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await Trace(make_span=make_span)(Request("job"), endpoint)
