"""The registry's life: opening, sharing, including, overriding."""

from __future__ import annotations

import anyio
import pytest

from workerctx.errors import (
    InvalidHandler,
    InvalidRequest,
    RegistryInUse,
    RegistryNotOpen,
    StoreClosed,
    UnknownBackend,
)
from workerctx.queue import EnqueueRequest, JobState
from workerctx.service import DefaultRouter, JobRegistry, KindPrefixRouter


async def test_enqueue_before_open_names_the_remedy(jobs):
    """Decision 17: without an open store, every form says what to write."""

    @jobs.register(name="job")
    async def job() -> None: ...

    with pytest.raises(RegistryNotOpen, match="not open here: put `async with jobs:` around this"):
        await job.enqueue()
    with pytest.raises(RegistryNotOpen, match="not open here"):
        await jobs.enqueue_bulk([job.request()])
    with pytest.raises(RegistryNotOpen, match="not open here"):
        jobs.handle("1")


async def test_nested_opens_share_one_store(jobs):
    """Decision 17: opening is counted; the store is the same inside, and closed after the last."""
    async with jobs:
        storage = jobs.storage
        async with jobs as same:
            assert same is jobs
            assert jobs.storage is storage
        assert jobs.storage is storage
        await storage.jobs.counts()
    with pytest.raises(RegistryNotOpen):
        _ = jobs.storage
    with pytest.raises(StoreClosed):
        await storage.jobs.counts()
    async with jobs:
        assert jobs.storage is not storage


async def test_tasks_that_open_at_once_share_one_store(jobs):
    """Whoever comes second waits until the first has opened the store; the last to leave closes it."""
    seen: list[object] = []

    async def use() -> None:
        async with jobs:
            seen.append(jobs.storage)
            await anyio.lowlevel.checkpoint()
            assert jobs.storage is seen[0]

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(use)
    assert len(seen) == 5
    assert len(set(map(id, seen))) == 1
    assert not jobs.branch.store.in_use


async def test_a_cancelled_owner_still_closes_the_store(jobs):
    """Leaving by cancellation closes the store like any other way of leaving."""
    storage = None
    with anyio.CancelScope() as scope:
        async with jobs:
            storage = jobs.storage
            scope.cancel()
            await anyio.sleep_forever()
    assert storage is not None
    assert not jobs.branch.store.in_use
    with pytest.raises(StoreClosed):
        await storage.jobs.counts()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (None, RegistryNotOpen, r"has no store: give it one, .* or set WORKERCTX_URL"),
        ("nosuch://x", UnknownBackend, "nosuch"),
        ("jobs.db", InvalidRequest, "is not a store URL"),
    ],
)
async def test_a_store_that_cannot_be_opened_leaves_nothing_open(monkeypatch, url, error, message):
    """Q13: a missing or wrong URL is a sentence, and the registry is as closed as before."""
    monkeypatch.delenv("WORKERCTX_URL", raising=False)
    jobs = JobRegistry(url)
    with pytest.raises(error, match=message):
        await jobs.__aenter__()
    assert not jobs.branch.store.in_use
    with jobs.override("memory://"):
        async with jobs:
            assert jobs.storage


async def test_the_url_is_read_from_the_environment_when_it_opens(monkeypatch):
    """Decision 17: without a URL, WORKERCTX_URL counts, as it is at that moment."""
    jobs = JobRegistry()
    monkeypatch.setenv("WORKERCTX_URL", "memory://")
    assert jobs.url == "memory://"
    async with jobs:
        assert jobs.storage.url == "memory://"


async def test_override_uses_another_store_inside_the_block(jobs):
    """Decision 17: tests put a memory store in place, and nothing remains of it afterwards."""
    real = JobRegistry("sqlite:///never-touched.db")
    with real.override("memory://") as same:
        assert same is real
        async with real:
            assert real.storage.url == "memory://"
            with pytest.raises(RegistryInUse, match="outside of `async with jobs:`"), real.override("memory://"):
                pass
        with real.override("memory://?namespace=b"):
            assert real.url.endswith("b")
        assert real.url == "memory://"
    assert real.url == "sqlite:///never-touched.db"


async def test_event_loops_do_not_share_a_store(jobs):
    """L34: each event loop opens its own store, and one that did not is told that another did."""
    stores: list[object] = []
    errors: list[str] = []

    async def other() -> None:
        try:
            _ = jobs.storage
        except RegistryNotOpen as exc:
            errors.append(str(exc))
        async with jobs:
            stores.append(jobs.storage)

    async with jobs:
        await anyio.to_thread.run_sync(lambda: anyio.run(other))
        assert stores[0] is not jobs.storage
    assert "it is open on another event loop only" in errors[0]


async def test_bulk_is_one_transaction_with_outcomes_in_order(jobs):
    """Q9: many requests, one transaction, the outcomes in their order."""

    @jobs.register(name="job")
    async def job(n: int) -> None: ...

    requests = [job.request(n).with_options(unique_key=str(n % 2)) for n in range(3)]
    async with jobs:
        outcomes = await jobs.enqueue_bulk(requests)
        assert [outcome.deduped for outcome in outcomes] == [False, False, True]
        assert outcomes[2].id == outcomes[0].id
        single = await jobs.enqueue(EnqueueRequest("by hand", {"any": "json"}))
        assert await jobs.handle(single.id).status() is JobState.QUEUED


def test_routers_choose_a_queue_for_handlers_that_name_none():
    """W7: a handler's own queue wins, then the router; the default is `default`."""
    jobs = JobRegistry(router=KindPrefixRouter({"gh_": "gh", "gh_pr_": "pulls"}, default="rest"))
    by_function = JobRegistry(router=lambda kind: f"q-{kind}")

    async def job() -> None: ...

    def queue_of(registry: JobRegistry, name: str, **options: str) -> str:
        return registry.register(name=name, **options)(job).request().queue

    assert queue_of(jobs, "gh_issue") == "gh"
    assert queue_of(jobs, "gh_pr_merge") == "pulls"
    assert queue_of(jobs, "slack") == "rest"
    assert queue_of(jobs, "gh_x", queue="own") == "own"
    assert queue_of(by_function, "a") == "q-a"
    assert queue_of(JobRegistry(), "a") == "default"
    assert isinstance(JobRegistry().router, DefaultRouter)


def registry_with(*names: str, **options) -> JobRegistry:
    jobs = JobRegistry(**options)
    for name in names:

        @jobs.register(name=name, aliases=[f"old-{name}"])
        async def job(path: str = "") -> None: ...

    return jobs


async def test_included_handlers_use_the_store_of_the_registry_around_them(jobs):
    """Decision 17: an included registry's jobs go where the including one's go, under its prefix."""
    mail, inner = registry_with("send"), registry_with("bounce")
    send, bounce = mail.find("send"), inner.find("bounce")
    mail.include(inner, "in.")
    jobs.include(mail, prefix="mail.")
    assert jobs.kinds == ("mail.send", "mail.old-send", "mail.in.bounce", "mail.in.old-bounce")
    assert mail.kinds == jobs.kinds
    assert jobs.find("mail.in.old-bounce") is bounce
    assert jobs.find("send") is None
    assert bounce.request().kind == "mail.in.bounce"
    async with mail:
        handle = await send.enqueue(path="a")
        assert (await jobs.handle(handle.id).get()).kind == "mail.send"


def test_handlers_registered_after_the_inclusion_are_included(jobs):
    """A registry may be filled later: its new handlers are found from the top, and duplicates are refused there."""
    mail, inner = registry_with("send"), registry_with("bounce")
    mail.include(inner)
    jobs.include(mail, "m.")

    @inner.register(name="late")
    async def late() -> None: ...

    assert jobs.find("m.late") is mail.find("m.late") is inner.find("m.late") is late
    with pytest.raises(InvalidHandler, match=r"'m\.send'"):
        inner.register(name="send")(late.__wrapped__)
    assert inner.find("m.send") is None


def test_what_cannot_be_included_is_refused_and_nothing_changes(jobs):
    """An inclusion that makes no sense is refused with the remedy, before anything moved."""
    taken = registry_with("send")
    jobs.include(taken)
    with pytest.raises(RegistryInUse, match="build a registry per application"):
        registry_with("x").include(taken)
    with pytest.raises(RegistryInUse, match="build a registry per application"):
        jobs.include(jobs)
    with pytest.raises(RegistryInUse, match="build a registry per application"):
        taken.include(jobs)
    with pytest.raises(RegistryInUse, match=r"own store 'sqlite:///x\.db', which its jobs would never reach"):
        jobs.include(JobRegistry("sqlite:///x.db"))
    clash = registry_with("other", "send")
    with pytest.raises(InvalidHandler, match="include its registry with a prefix"):
        jobs.include(clash)
    assert clash.kinds == ("other", "old-other", "send", "old-send")
    jobs.include(clash, "b.")
    assert jobs.kinds == ("send", "old-send", "b.other", "b.old-other", "b.send", "b.old-send")


async def test_an_open_registry_cannot_be_included(jobs, monkeypatch):
    """Its jobs would go to two stores at once."""
    monkeypatch.setenv("WORKERCTX_URL", "memory://")
    mail = registry_with("send")
    async with mail:
        with pytest.raises(RegistryInUse, match="include it before opening it"):
            jobs.include(mail)


def test_an_included_registry_keeps_its_own_router(jobs):
    """The nearest router decides."""
    own, none = registry_with("a", router=lambda kind: "own"), registry_with("b")
    around = JobRegistry(router=lambda kind: "around")
    around.include(own)
    around.include(none)
    assert around.find("a").request().queue == "own"
    assert around.find("b").request().queue == "around"
    assert own.router is not none.router


async def test_layers_go_from_the_outermost_registry_to_the_handler(run):
    """Item 23: the first layer is outermost; those of a registry are around those of the ones it includes."""
    order: list[str] = []

    def layer(name: str):
        async def layer(request, call_next):
            order.append(f"{name} in")
            try:
                return await call_next(request)
            finally:
                order.append(f"{name} out")

        return layer

    jobs, inner = JobRegistry("memory://", layers=[layer("1"), layer("2")]), JobRegistry(layers=[layer("3")])

    @inner.register(name="job", layers=[layer("4"), layer("5")])
    async def job() -> None:
        order.append("handler")

    jobs.include(inner)
    await run(job)
    assert order == [f"{n} in" for n in "12345"] + ["handler"] + [f"{n} out" for n in "54321"]


async def test_a_layer_may_change_the_request_and_the_output(jobs, run):
    """What a layer passes on is what the handler gets; what it returns is the output of the job."""

    async def shout(request, call_next):
        request.args = tuple(arg.upper() for arg in request.args)
        request.data.insert(str, "from a layer")
        return (await call_next(request)) + "!"

    @jobs.register(name="job", layers=[shout])
    async def job(path: str) -> str:
        return path

    assert await run(job, "cat") == "CAT!"


def test_a_registry_says_what_it_is():
    """`repr` tells the store and the number of handlers."""
    assert repr(registry_with("a", "b")) == "<JobRegistry WORKERCTX_URL with 2 handlers>"
    assert repr(JobRegistry("memory://")) == "<JobRegistry memory:// with 0 handlers>"
