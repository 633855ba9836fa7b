"""What an orchestrator hears from the probes."""

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from workerctx import WorkerContext
from workerctx_starlette import combine_lifespans, probes, worker_lifespan


@pytest.fixture
def client(client_of):
    """A client of an application with two contexts, and probes of all and of one."""
    routes = [*probes(), Mount("/mailer", routes=probes("mailer")), Mount("/other", routes=probes("other"))]
    with client_of(
        Starlette(routes=routes, lifespan=combine_lifespans(*map(worker_lifespan, ("web", "mailer"))))
    ) as it:
        yield it


def verdict(client, path):
    answer = client.get(path)
    assert answer.json()["ok"] is (answer.status_code == 200)
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, {name: worker["reason"] for name, worker in answer.json()["workers"].items()}


def test_a_running_application_is_well(client):
    """L35: running contexts are alive, ready and started, and the probes say so of each."""
    assert verdict(client, "/livez") == (200, {"web": "running", "mailer": "running"})
    assert verdict(client, "/readyz") == (200, {"web": "running", "mailer": "running"})
    assert verdict(client, "/startupz") == (200, {"web": "started", "mailer": "started"})


def test_one_context_that_is_not_ready_makes_the_application_unready(client):
    """L35: the probes of all contexts are as bad as the worst, those of one context speak of that one."""
    client.app_state["web"].pause("maintenance")
    assert verdict(client, "/readyz") == (503, {"web": "paused: maintenance", "mailer": "running"})
    assert verdict(client, "/mailer/readyz") == (200, {"mailer": "running"})
    assert verdict(client, "/livez")[0] == 200


def test_a_context_can_be_unready_while_it_runs(client):
    """L35: what a context says of itself is what the probe says."""
    client.app_state["web"].mark_unready("the database is away")
    assert verdict(client, "/readyz") == (503, {"web": "the database is away", "mailer": "running"})


def test_a_failed_context_is_not_alive(client_of):
    """L35: after a failure only a restart helps, so the liveness probe fails and says why."""
    with pytest.raises(Exception, match="worker 'web' failed"):
        with client_of(Starlette(routes=probes(), lifespan=worker_lifespan("web"))) as client:
            client.app_state["web"].fail(RuntimeError("the disk is full"))
            assert verdict(client, "/livez") == (503, {"web": "failed: RuntimeError('the disk is full')"})


def test_probes_of_an_unknown_context_fail(client):
    """L35: a probe of a context that does not exist is not well."""
    status, reasons = verdict(client, "/other/livez")
    assert status == 503
    assert "no such worker" in reasons["other"]


def test_probes_answer_before_there_is_a_context(client_of):
    """L35: an application whose lifespan has not run is not started."""
    assert verdict(client_of(Starlette(routes=probes())), "/startupz")[0] == 503


async def test_a_context_counts_as_started_once_it_was(exchange):
    """L35: pending is not started; stopped after a start is; stopped before one never will be."""
    startup = next(route.app for route in probes() if route.path == "/startupz")

    async def status(ctx):
        return (await exchange(startup, {"web": ctx}))[0]["status"]

    ctx = WorkerContext("web")
    assert await status(ctx) == 503
    async with ctx:
        assert await status(ctx) == 200
    assert await status(ctx) == 200
    ctx = WorkerContext("web")
    ctx.stop()
    assert await status(ctx) == 503


def test_probes_take_only_reading_methods(client):
    """L35: nothing can be changed through a probe."""
    assert client.head("/livez").status_code == 200
    assert client.post("/livez").status_code == 405
