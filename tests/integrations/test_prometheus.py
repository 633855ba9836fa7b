"""Metrics of real loops and contexts, read as a scraper reads them."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from workerctx import JobRegistry, WorkerConfig, WorkerContext, WorkerLoop
from workerctx.errors import Abort, StoreUnavailable, WorkerError
from workerctx.queue import Constant, QueuedJob
from workerctx.runtime import JobLost, LoopBlocked, RunOverran, StoreFailed
from workerctx_prometheus import WorkerMetrics, serve_metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def jobs(url: str) -> AsyncIterator[JobRegistry]:
    """An open registry with a handler for each way in which a run can end."""
    registry = JobRegistry(url)

    @registry.register
    async def fine(number: int = 0) -> None: ...

    @registry.register(retry=Constant(base=3600, jitter=False))
    async def flaky() -> None:
        raise KeyError("lost")

    @registry.register
    async def hopeless() -> None:
        raise Abort("no use")

    async with registry:
        yield registry


def handler(jobs: JobRegistry, name: str) -> Any:
    """Return one of the handlers."""
    return next(each for each in jobs.handlers if each.kind.endswith(name))


class Page:
    """A scrape, taken apart."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def __call__(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of this name with at least these labels; None if there are none."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return sum(len(family.samples) for family in self.families.values())


def fetch(port: int) -> Page:
    """Scrape a port, over HTTP."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return Page(answer.read().decode())


@pytest.fixture
def scraped():
    """Serve metrics on a port and scrape it without blocking the event loop."""
    servers = []

    async def scrape(metrics: WorkerMetrics) -> Page:
        if not servers:
            servers.append(metrics.serve(0, "127.0.0.1"))
        return await anyio.to_thread.run_sync(fetch, servers[0].port)

    yield scrape
    for server in servers:
        server.close()


async def test_outcomes_durations_and_latency_by_kind_and_queue(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any
) -> None:
    """Each run is counted once by kind, queue and outcome, and its length and its wait are observed."""
    await jobs.enqueue_bulk([handler(jobs, "fine").request(number) for number in range(30)])
    await handler(jobs, "flaky").enqueue()
    await handler(jobs, "hopeless").enqueue()
    loop = WorkerLoop(jobs, hurried, name="mill")
    metrics = WorkerMetrics().attach(loop)
    await loop.run(burst=True)
    page = await scraped(metrics)
    kinds = {name: handler(jobs, name).kind for name in ("fine", "flaky", "hopeless")}
    assert page("workerctx_jobs_total", kind=kinds["fine"], queue="default", outcome="succeeded") == 30
    assert page("workerctx_jobs_total", kind=kinds["flaky"], outcome="failed") == 1
    assert page("workerctx_jobs_total", kind=kinds["hopeless"], outcome="dead") == 1
    assert page("workerctx_jobs_total") == 32
    assert page("workerctx_job_duration_seconds_count", kind=kinds["fine"]) == 30
    assert page("workerctx_queue_latency_seconds_count", queue="default") == 32
    assert (page("workerctx_jobs_claimed_total") or 0) >= 32


async def test_what_a_worker_is_and_has_in_hand(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any
) -> None:
    """State, readiness and running jobs are those of the moment of the scrape."""
    gate = anyio.Event()

    @jobs.register
    async def held(number: int) -> None:
        await gate.wait()

    await jobs.enqueue_bulk([held.request(number) for number in range(6)])
    loop = WorkerLoop(jobs, hurried, name="mill")
    metrics = WorkerMetrics().attach(loop)
    page = await scraped(metrics)
    assert page("workerctx_worker_state", worker="mill", state="pending") == 1
    assert page("workerctx_worker_ready", worker="mill") == 0
    async with loop:
        await eventually(lambda: loop.in_flight == 4)
        page = await scraped(metrics)
        assert page("workerctx_jobs_in_progress", worker="mill") == 4
        assert page("workerctx_tasks_in_progress", worker="mill") == 4
        assert page("workerctx_job_slots", worker="mill") == 4
        assert page("workerctx_worker_state", state="running") == 1
        assert page("workerctx_worker_state") == 1
        assert page("workerctx_worker_ready") == page("workerctx_worker_alive") == 1
        loop.context.mark_unready("the disk is full")
        loop.context.pause()
        page = await scraped(metrics)
        assert page("workerctx_worker_state", state="paused") == 1
        assert page("workerctx_worker_ready") == 0
        assert page("workerctx_worker_alive") == 1
        loop.context.resume()
        gate.set()
    page = await scraped(metrics)
    assert page("workerctx_worker_state", state="stopped") == 1
    assert page("workerctx_worker_alive") == 0


async def test_queue_depth_is_asked_now_and_then(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any
) -> None:
    """Jobs by queue and state, and pauses, come from the store at the given interval, not at each scrape."""
    fine = handler(jobs, "fine")
    await jobs.enqueue_bulk([fine.with_options(queue="elsewhere").request(number) for number in range(7)])
    await fine.with_options(delay=3600).enqueue()
    await jobs.storage.jobs.pause_queue("elsewhere")
    loop = WorkerLoop(jobs, hurried)
    metrics = WorkerMetrics(depth_interval=0.05).attach(loop)
    assert (await scraped(metrics))("workerctx_queue_jobs") is None
    async with loop:

        async def counted() -> bool:
            return bool((await scraped(metrics))("workerctx_queue_jobs", queue="elsewhere", state="queued") == 7)

        await eventually(counted)
        page = await scraped(metrics)
        assert page("workerctx_queue_jobs", queue="default", state="scheduled") == 1
        assert page("workerctx_queue_paused", queue="elsewhere") == 1
        assert page("workerctx_queue_paused", queue="default") == 0
        await fine.with_options(queue="elsewhere").enqueue()

        async def counted_again() -> bool:
            return bool((await scraped(metrics))("workerctx_queue_jobs", queue="elsewhere", state="queued") == 8)

        await eventually(counted_again)


async def test_what_shares_a_series_is_paused_if_one_of_it_is(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any
) -> None:
    """Whether something is paused is a yes or a no, also where queues share a series."""
    for name in ("one", "two", "three"):
        await jobs.storage.jobs.pause_queue(name)
    loop = WorkerLoop(jobs, hurried)
    metrics = WorkerMetrics(depth_interval=0.05, max_series=1).attach(loop)

    async def shared() -> bool:
        return (await scraped(metrics))("workerctx_queue_paused", queue="other") is not None

    async with loop:
        await eventually(shared)
        page = await scraped(metrics)
    assert page("workerctx_queue_paused", queue="other") == 1


async def test_figures_of_the_depth_outlive_a_store_that_hesitates(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that fails takes nothing away: the figures hold for three rounds."""
    await handler(jobs, "fine").with_options(delay=3600).enqueue()
    loop = WorkerLoop(jobs, hurried)
    metrics = WorkerMetrics(depth_interval=3600).attach(loop)
    depth: Any = metrics._depth

    async def refuse(_: object) -> Any:
        raise StoreUnavailable("not now")

    async def shown() -> bool:
        return (await scraped(metrics))("workerctx_queue_jobs", state="scheduled") == 1

    async with loop:
        await eventually(shown)
        monkeypatch.setattr(type(jobs.storage.jobs), "queues", refuse)
        depth._next.clear()
        await depth.look(loop, loop.context, None)
        assert await shown()


async def test_depth_can_be_left_to_others(jobs: JobRegistry, hurried: WorkerConfig, scraped: Any) -> None:
    """Without an interval the store is never asked."""
    await handler(jobs, "fine").enqueue()
    loop = WorkerLoop(jobs, hurried)
    metrics = WorkerMetrics(depth_interval=None).attach(loop)
    await loop.run(burst=True)
    page = await scraped(metrics)
    assert "workerctx_queue_jobs" not in page.families
    assert page("workerctx_jobs_total") == 1


async def test_figures_of_the_depth_do_not_outlive_their_loop(
    jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any
) -> None:
    """A depth that nobody renews disappears, instead of being shown for ever."""
    await handler(jobs, "fine").with_options(delay=3600).enqueue()
    loop = WorkerLoop(jobs, hurried)
    metrics = WorkerMetrics(depth_interval=0.05).attach(loop)

    async def depth() -> float | None:
        page = await scraped(metrics)
        number: float | None = page("workerctx_queue_jobs", state="scheduled")
        return number

    async def shown() -> bool:
        return await depth() == 1

    async def gone() -> bool:
        return await depth() is None

    async with loop:
        await eventually(shown)
    await eventually(gone)


async def test_the_number_of_series_is_bounded(jobs: JobRegistry, hurried: WorkerConfig, scraped: Any) -> None:
    """Kinds and queues beyond the limit are counted together, none of them is lost, and the page stays as long."""
    fine = handler(jobs, "fine")
    queues = [f"tenant-{number}" for number in range(40)]
    metrics = WorkerMetrics(max_series=5)
    sizes = []
    for chunk in (queues[:20], queues[20:]):
        await jobs.enqueue_bulk([fine.with_options(queue=queue).request() for queue in chunk])
        loop = WorkerLoop(jobs, hurried.with_options(queues=chunk), name="mill")
        metrics.attach(loop)
        await loop.run(burst=True)
        sizes.append((await scraped(metrics)).samples)
    page = await scraped(metrics)
    assert page("workerctx_jobs_total", outcome="succeeded") == 40
    assert page("workerctx_jobs_total", kind="other", queue="other", outcome="succeeded") == 35
    assert len({sample.labels["queue"] for sample in page.families["workerctx_queue_latency_seconds"].samples}) == 6
    assert abs(sizes[1] - sizes[0]) < 10


async def test_trouble_is_counted(jobs: JobRegistry, hurried: WorkerConfig, scraped: Any, eventually: Any) -> None:
    """Lost leases, failures of the store, a blocked event loop, its lag and stuck threads have their own metrics."""
    loop = WorkerLoop(jobs, hurried.with_options(block_warning=0.05))
    metrics = WorkerMetrics().attach(loop)
    async with loop:
        loop.context.emit(JobLost(lease_id="1", after_run=False))
        loop.context.emit(JobLost(lease_id="2", after_run=True))
        loop.context.emit(JobLost(lease_id="3", after_run=True))
        loop.context.emit(StoreFailed(error=OSError("gone"), failures=1))
        loop.context.emit(LoopBlocked(seconds=2.0, stack="here"))
        loop.context.emit(RunOverran(job=QueuedJob(id="1", kind="work"), seconds=9.0, stack="here"))

        async def lag_is_known() -> bool:
            return bool((await scraped(metrics))("workerctx_event_loop_lag_seconds_count"))

        await eventually(lag_is_known)
    page = await scraped(metrics)
    assert page("workerctx_lease_losses_total", during="run") == 1
    assert page("workerctx_lease_losses_total", during="finish") == 2
    assert page("workerctx_store_failures_total") == 1
    assert page("workerctx_event_loop_blocks_total") == 1
    assert page("workerctx_run_overruns_total") == 1


async def test_a_context_of_its_own(scraped: Any) -> None:
    """A context without jobs has its state, and its tasks by outcome."""
    metrics = WorkerMetrics()

    async def fine() -> None: ...

    async def bad() -> None:
        raise KeyError("lost")

    async with WorkerContext("mailer") as ctx:
        metrics.attach(ctx)
        for _ in range(3):
            await ctx.track(fine())
        with pytest.raises(KeyError):
            await ctx.track(bad())
        page = await scraped(metrics)
    assert page("workerctx_task_duration_seconds_count", worker="mailer", outcome="succeeded") == 3
    assert page("workerctx_task_duration_seconds_count", worker="mailer", outcome="failed") == 1
    assert page("workerctx_worker_state", worker="mailer", state="running") == 1
    assert page("workerctx_job_slots", worker="mailer") is None


async def test_a_worker_is_attached_once_and_its_successor_takes_its_place() -> None:
    """Two living workers of one name are refused; a restarted one continues the series."""
    metrics = WorkerMetrics()
    async with WorkerContext("mailer") as ctx:
        metrics.attach(ctx)
        with pytest.raises(WorkerError, match="'mailer' is attached"):
            metrics.attach(ctx)
        with pytest.raises(WorkerError, match="'mailer' is attached"):
            metrics.attach(WorkerContext("mailer"))
        ctx.stop()
    metrics.attach(WorkerContext("mailer"))
    assert metrics.registry.get_sample_value("workerctx_worker_state", {"worker": "mailer", "state": "pending"}) == 1


def test_a_registry_of_its_own_and_one_that_is_given(program: Any) -> None:
    """The global registry is left alone; a registry that has these metrics already refuses others."""
    metrics = WorkerMetrics()
    assert metrics.registry.get_sample_value("process_resident_memory_bytes")
    given = CollectorRegistry()
    assert WorkerMetrics(given).registry is given
    assert given.get_sample_value("process_resident_memory_bytes") is None
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        WorkerMetrics(given)
    code = (
        "import workerctx_prometheus as p; p.WorkerMetrics(); import prometheus_client as c; print(c.generate_latest())"
    )
    printed = program(code)
    assert printed.returncode == 0, printed.stderr
    assert "workerctx" not in printed.stdout


@pytest.mark.parametrize("wrong", [{"max_series": 0}, {"depth_interval": 0}, {"depth_interval": float("nan")}])
def test_bad_settings_are_refused(wrong: Any) -> None:
    """Limits and intervals that make no sense are refused."""
    with pytest.raises(ValueError, match="must be"):
        WorkerMetrics(**wrong)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_route_for_starlette(backend: Any) -> None:
    """H1: the route answers scrapes in the format that is asked for, and nothing but reading is possible."""
    metrics = WorkerMetrics().attach(WorkerContext("web"))
    with TestClient(Starlette(routes=[metrics.route()]), backend=backend) as client:
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert Page(answer.text)("workerctx_worker_state", worker="web", state="pending") == 1
        assert client.post("/metrics").status_code == 405
        modern = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert modern.headers["Content-Type"].startswith("application/openmetrics-text")


async def test_the_port_answers_while_the_event_loop_is_blocked(jobs: JobRegistry, hurried: WorkerConfig) -> None:
    """W5: the server has a thread of its own, and closes its port at the end of the block."""
    loop = WorkerLoop(jobs, hurried, name="mill")
    with serve_metrics(loop, 0) as server:
        assert fetch(server.port)("workerctx_worker_state", worker="mill", state="pending") == 1
    with pytest.raises(OSError, match="refused"):
        fetch(server.port)


def test_a_port_that_is_taken() -> None:
    """A port that cannot be opened is one sentence that names it."""
    metrics = WorkerMetrics()
    with metrics.serve(0) as server, pytest.raises(WorkerError, match=f"port {server.port}.*choose another port"):
        metrics.serve(server.port)


def test_the_extra_is_named(program: Any) -> None:
    """Without prometheus_client the import says what to install."""
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'prometheus_client' else real(name, *a)\n"
        "import workerctx_prometheus"
    )
    failed = program(code)
    last = failed.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: workerctx_prometheus needs the 'prometheus' extra: pip install 'workerctx[prometheus]'"
    )
