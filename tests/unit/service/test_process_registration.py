"""Which functions can be handlers in processes of their own."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Annotated

import pytest

from workerctx.errors import InvalidHandler, InvalidRequest
from workerctx.lifecycle import WorkerContext
from workerctx.service import From, JobCtx, JobRegistry, ProcessCtx, injected
from workerctx.service.target import Target

elsewhere = JobRegistry("memory://")


def plain(path: str, width: int = 256) -> str:
    return f"{path}{width}"


def with_ctx(ctx: ProcessCtx, path: str) -> str:
    ctx.progress(1, 2)
    ctx.cancel.check()
    return f"{ctx.job_id} {ctx.attempt} {path}"


async def in_the_loop() -> None: ...


def with_job(ctx: JobCtx) -> None: ...


def with_worker(ctx: WorkerContext) -> None: ...


def with_injection(*, number: Annotated[int, From(lambda: 3)] = injected()) -> None: ...


def with_late_ctx(path: str, ctx: ProcessCtx) -> None: ...


def test_a_handler_is_known_by_its_import_path(jobs):
    """Module and name are all that another process needs."""
    handler = jobs.register(executor="process")(plain)
    target = handler.contract.target
    assert (target.module, target.qualname) == (__name__, "plain")
    assert target.find() is plain
    assert jobs.register(with_job).contract.target is None


def test_a_function_that_is_gone_is_named():
    """A module or a name that cannot be imported any more is a sentence that says which."""
    for target in (Target("no_such_module", "work"), Target("os", "no.such.name")):
        with pytest.raises(InvalidHandler, match=r"cannot be imported.*keep a handler where it was registered"):
            target.find()


def test_the_function_can_be_called_as_it_is(jobs):
    """A test makes the context by itself; what it reports goes nowhere."""
    handler = jobs.register(executor="process")(with_ctx)
    assert handler(ProcessCtx("job-1"), "cat.jpg") == "job-1 1 cat.jpg"
    assert handler.request("cat.jpg").payload == {"path": "cat.jpg"}


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (in_the_loop, "make it a sync function"),
        (with_job, "begin with a ProcessCtx"),
        (with_worker, "begin with a ProcessCtx"),
        (with_injection, "carry plain data"),
        (with_late_ctx, "it comes first, and alone"),
        (lambda: None, "define it at the top of a module"),
    ],
)
def test_what_cannot_run_in_a_process_is_refused(jobs, function, remedy):
    """Each refusal says what to write instead, and leaves no handler behind."""
    with pytest.raises(InvalidHandler, match=remedy):
        jobs.register(executor="process", name="it")(function)
    assert jobs.kinds == ()


def test_a_local_function_is_refused(jobs):
    """No other process could import it."""

    def local() -> None: ...

    with pytest.raises(InvalidHandler, match="is local"):
        jobs.register(executor="process")(local)


def test_a_function_of_the_program_itself_is_refused(jobs):
    """To import it, its process would have to run the program again."""

    def function() -> None: ...

    function.__module__, function.__qualname__ = "__main__", "function"
    with pytest.raises(InvalidHandler, match="workerctx worker MODULE:OBJECT"):
        jobs.register(executor="process")(function)


@pytest.mark.parametrize("name", ["made_by_hand", "made_by_hand.inside"])
def test_a_module_that_cannot_be_found_again_is_refused(jobs, name, monkeypatch):
    """It was loaded from somewhere that `import` does not look at."""

    def function() -> None: ...

    function.__module__, function.__qualname__ = name, "function"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(InvalidHandler, match="on no import path"):
        jobs.register(executor="process")(function)


def test_a_system_without_process_groups_is_refused(jobs, monkeypatch):
    """On Windows the sentence says to use a thread."""
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(InvalidHandler, match="the handler runs in a thread"):
        jobs.register(executor="process")(plain)


def test_a_process_ctx_needs_a_process(jobs):
    """In a thread or on the event loop there is a JobCtx."""
    with pytest.raises(InvalidHandler, match='executor="process"'):
        jobs.register(with_ctx)


def test_an_unknown_executor_is_refused(jobs):
    """Nothing is guessed."""
    with pytest.raises(InvalidRequest, match="executor is None or 'process'"):
        jobs.register(executor="thread")(plain)
