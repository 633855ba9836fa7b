"""Injection: the plan that a signature is compiled to."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self

import anyio
import attrs
import pytest

from workerctx.errors import InvalidHandler, MissingData
from workerctx.lifecycle import WorkerContext
from workerctx.queue import Storage
from workerctx.service import DataMap, From, JobCtx, Request, Site, injected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from workerctx.service import FromRequest

calls: list[str] = []


@pytest.fixture(autouse=True)
def _forget_calls():
    calls.clear()


class Settings:
    pass


class Database:
    def __init__(self) -> None:
        self.settings: Settings | None = None


def get_settings() -> Settings:
    calls.append("settings")
    return Settings()


async def get_database(settings: Annotated[Settings, From(get_settings)]) -> Database:
    calls.append("database")
    database = Database()
    database.settings = settings
    return database


@asynccontextmanager
async def session(ctx: JobCtx) -> AsyncIterator[str]:
    calls.append("open")
    try:
        yield f"session of {ctx.job_id}"
    except BaseException as exc:
        calls.append(f"rolled back: {type(exc).__name__}")
        raise
    else:
        calls.append("committed")
    finally:
        calls.append("closed")


@contextmanager
def lock() -> Iterator[str]:
    calls.append("locked")
    try:
        yield "lock"
    finally:
        calls.append("unlocked")


class Tenant:
    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_request(cls, request: Request, /) -> Self:
        return cls(f"tenant of {request.kind}")


class Slow:
    @classmethod
    async def from_request(cls, request: Request, /) -> Self:
        await anyio.lowlevel.checkpoint()
        assert request.kind
        return cls()


async def test_sync_and_async_providers_are_called_once_per_request(jobs, run):
    """A provider that several parameters need is called once, and its own parameters are filled first."""

    @jobs.register(name="job")
    async def job(
        *,
        database: Annotated[Database, From(get_database)] = injected(),
        again: Annotated[Database, From(get_database)] = injected(),
        settings: Annotated[Settings, From(get_settings)] = injected(),
    ) -> bool:
        return database is again and database.settings is settings

    assert await run(job) is True
    assert calls == ["settings", "database"]
    assert await run(job) is True
    assert calls == ["settings", "database"] * 2


async def test_a_context_manager_is_left_after_the_handler(jobs, run):
    """An async context manager is entered before the handler and left after it, the newest first."""

    @jobs.register(name="job")
    async def job(
        *, held: Annotated[str, From(lock)] = injected(), db: Annotated[str, From(session)] = injected()
    ) -> str:
        calls.append("handler")
        return f"{held}, {db}"

    assert await run(job) == "lock, session of job-1"
    assert calls == ["locked", "open", "handler", "committed", "closed", "unlocked"]


async def test_a_context_manager_sees_the_failure_of_the_handler(jobs, run):
    """A session can roll back, because the handler's exception passes through it."""

    @jobs.register(name="job")
    async def job(*, db: Annotated[str, From(session)] = injected()) -> None:
        raise ValueError(db)

    with pytest.raises(ValueError, match="session of job-1"):
        await run(job)
    assert calls == ["open", "rolled back: ValueError", "closed"]


async def test_what_was_entered_is_left_when_a_later_provider_fails(jobs, run):
    """A failing provider is the job's failure: the handler is not called, and nothing stays open."""

    def broken(db: Annotated[str, From(session)]) -> str:
        raise LookupError(db)

    @jobs.register(name="job")
    async def job(*, value: Annotated[str, From(broken)] = injected()) -> None:
        calls.append(f"handler {value}")

    with pytest.raises(LookupError):
        await run(job)
    assert calls == ["open", "rolled back: LookupError", "closed"]


async def test_a_provider_cannot_turn_a_failure_into_a_success(jobs, run):
    """A context manager that swallows the handler's exception does not make the job succeed."""

    @jobs.register(name="job")
    async def job(*, value: Annotated[str, From(swallowing)] = injected()) -> str:
        raise ValueError(value)

    with pytest.raises(ValueError, match="quiet"):
        await run(job)


@contextmanager
def swallowing() -> Iterator[str]:
    try:
        yield "quiet"
    except ValueError:
        calls.append("swallowed")


class Connection:
    async def __aenter__(self) -> Self:
        calls.append("connected")
        return self

    async def __aexit__(self, *_: object) -> None:
        calls.append("disconnected")


async def test_a_class_can_be_the_provider_and_is_entered_if_it_can_be(jobs, run):
    """`From(Connection)` makes one per run, and enters and leaves it."""

    @jobs.register(name="job")
    async def job(*, connection: Annotated[Connection, From(Connection)] = injected()) -> str:
        calls.append("handler")
        return type(connection).__name__

    assert await run(job) == "Connection"
    assert calls == ["connected", "handler", "disconnected"]


async def test_what_a_function_returns_is_not_entered(jobs, run):
    """A provider that returns a context manager keeps it: only what is written as one is entered."""
    connection = Connection()

    def get() -> Connection:
        return connection

    @jobs.register(name="job")
    async def job(*, value: Annotated[Any, From(partial(get))] = injected()) -> bool:
        return value is connection

    assert await run(job) is True
    assert not calls


async def test_types_make_themselves_from_the_request(jobs, run):
    """A type with `from_request`, sync or async, needs no provider."""

    @jobs.register(name="job")
    async def job(*, tenant: Tenant = injected(), slow: Slow = injected(), request: Request = injected()) -> str:
        assert isinstance(slow, Slow)
        return f"{tenant.name}, {request.kind}"

    assert await run(job) == "tenant of job, job"


async def test_a_marker_can_make_the_value():
    """Anything in Annotated that has a `from_request` is a marker."""
    from workerctx.service.extract import compile_plan

    plan = compile_plan("job", {"text": Annotated[str, Header("traceparent")]})
    assert plan is not None
    assert await plan.fill(Request("job")) == {"text": "traceparent of job"}


@attrs.frozen
class Header:
    name: str

    def from_request(self, request: Request) -> str:
        return f"{self.name} of {request.kind}"


async def test_other_types_come_from_the_data(jobs, run, storage):
    """The worker's data, its store, its context and the job's context are found by type."""
    database = Database()

    @jobs.register(name="job")
    async def job(
        *,
        db: Database = injected(),
        store: Storage = injected(),
        ctx: JobCtx = injected(),
        worker: WorkerContext = injected(),
    ) -> bool:
        return db is database and store is storage and ctx.job_id == "job-1" and worker.name == "mailer"

    worker = WorkerContext("mailer")
    worker.start()
    try:
        assert await run(job, at=Site(storage, worker, data=DataMap({Database: database}))) is True
    finally:
        worker.stop()
        await worker


async def test_missing_data_fail_the_job_before_the_handler(jobs, run):
    """Item 15: what is missing is a MissingData error, and the handler is not called."""

    @jobs.register(name="job")
    async def job(*, db: Database = injected()) -> None:
        calls.append(f"handler {db}")

    with pytest.raises(MissingData, match="no Database"):
        await run(job)
    assert not calls


async def test_nothing_is_inspected_when_a_job_runs(jobs, run, monkeypatch):
    """The plan is compiled at decoration: a run reads no signature."""

    @jobs.register(name="job")
    async def job(*, db: Annotated[Database, From(get_database)] = injected()) -> bool:
        return isinstance(db, Database)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("inspected at run time")

    monkeypatch.setattr(inspect, "signature", refuse)
    assert await run(job) is True


def _circle_a(b: Annotated[int, From(_circle_b)]) -> int:
    return b


def _circle_b(a: Annotated[int, From(_circle_a)]) -> int:
    return a


async def bare_generator() -> AsyncIterator[int]:
    yield 1


def unannotated(what) -> int:
    return what


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[int, From(_circle_a)], r"need each other: _circle_a -> _circle_b -> _circle_a"),
        (Annotated[int, From(bare_generator)], r"bare generator; decorate it with @asynccontextmanager"),
        (Annotated[int, From(unannotated)], r"unannotated\(what\) does not say where its value comes from"),
        (list[int], r"job\(value\) does not say where its value comes from: annotate it with a class"),
        (Any, r"does not say where"),
        (object, r"does not say where"),
    ],
)
def test_a_plan_that_cannot_be_filled_is_refused_at_decoration(jobs, annotation, message):
    """What could only fail at run time fails when the handler is defined."""

    async def job(*, value=injected()) -> None: ...

    job.__annotations__["value"] = annotation
    with pytest.raises(InvalidHandler, match=message):
        jobs.register(name="job")(job)


async def test_a_providers_own_default_is_left_alone():
    """A provider's parameter that has a default of its own keeps it; one marked with injected() is filled."""
    from workerctx.service.extract import compile_plan

    plan = compile_plan("job", {"value": Annotated[str, From(with_defaults)]})
    assert plan is not None
    assert plan.names == {"value"}
    assert await plan.fill(Request("job")) == {"value": "3 job Settings"}


def with_defaults(
    request: Request,
    /,
    number: int = 3,
    *_: int,
    settings: Annotated[Settings, From(get_settings)] = injected(),
    **__: int,
) -> str:
    return f"{number} {request.kind} {type(settings).__name__}"


def test_the_protocol_fits_what_it_describes():
    """`FromRequest` is a plain protocol: a class fulfils it by having the method."""
    types: list[type[FromRequest]] = [Tenant, Slow, WorkerContext]
    assert all(callable(each.from_request) for each in types)


class Guard:
    def __enter__(self) -> Self:
        calls.append("entered")
        return self

    def __exit__(self, *_: object) -> None:
        calls.append("left")


async def test_sync_context_manager_classes_and_notes_in_annotated(jobs, run):
    """A class with `__enter__` is entered; what else stands in Annotated does not matter."""

    @jobs.register(name="job")
    async def job(
        *, guard: Annotated[Guard, From(Guard)] = injected(), tenant: Annotated[Tenant, "a note"] = injected()
    ) -> str:
        calls.append("handler")
        return f"{type(guard).__name__} {tenant.name}"

    assert await run(job) == "Guard tenant of job"
    assert calls == ["entered", "handler", "left"]


def test_a_provider_without_a_signature_is_refused(jobs):
    """Nobody can tell what a built-in without a signature needs."""
    with pytest.raises(InvalidHandler, match=r"cannot read the signature of dict: .* wrap it in a function"):

        @jobs.register(name="job")
        async def job(*, value: Annotated[Any, From(dict)] = injected()) -> None: ...


def test_the_mark_shows_itself():
    """A signature with an injected parameter reads as it was written."""
    assert repr(injected()) == "injected()"


class CallableProvider:
    async def __call__(self) -> str:
        return "called"


async def test_callable_objects_and_partials_are_providers(jobs, run):
    """An async callable object, also inside a partial, is awaited."""
    from workerctx.service.extract import compile_plan

    for provider in (CallableProvider(), partial(CallableProvider())):
        plan = compile_plan("job", {"value": Annotated[str, From(provider)]})
        assert plan is not None
        assert await plan.fill(Request("job")) == {"value": "called"}
