"""`worker_lifespan`: one context for each run of an application."""

import logging
import signal
import threading
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from workerctx import Outcome, Shutdown, WorkerContext
from workerctx.errors import InvalidTransition, WorkerError, WorkerFailed
from workerctx_starlette import combine_lifespans, inject, worker_lifespan


@inject
async def spawn(request, worker: WorkerContext):
    worker.spawn(worker.wait_stopping)
    return PlainTextResponse(str(worker.task_count))


APP = Starlette(routes=[Route("/", spawn)], lifespan=worker_lifespan("web", grace=20))


def test_one_application_runs_twice(client_of):
    """H3: two runs of one module-level application have a new context each."""
    contexts = []
    for _ in range(2):
        with client_of(APP) as client:
            assert client.get("/").text == "1"
            contexts.append(client.app_state["web"])
            assert contexts[-1].is_running
            assert contexts[-1].grace == 20
        assert contexts[-1].outcome is Outcome.CLEAN
    assert contexts[0] is not contexts[1]


async def test_the_state_has_the_context_under_its_name():
    """H3: the lifespan yields the context, running, under its name, and drains it afterwards."""
    drained = anyio.Event()

    async def work(ctx):
        await ctx.wait_stopping()
        drained.set()

    async with worker_lifespan("web", service="shop")() as state:
        ctx = state["web"]
        assert {**state} == {"web": ctx}
        assert (ctx.is_running, ctx.name, ctx.service) == (True, "web", "shop")
        ctx.spawn(work, ctx)
    assert drained.is_set()
    assert (ctx.outcome, ctx.reason) == (Outcome.CLEAN, "the application shuts down")


async def test_a_factory_is_called_at_each_start_up():
    """H3: a factory makes the context of each run, which may be of a class of its own."""

    class Own(WorkerContext):
        pass

    lifespan = worker_lifespan(lambda: Own("mailer"))
    for _ in range(2):
        async with lifespan() as state:
            assert type(state["mailer"]) is Own


async def test_a_context_is_accepted_for_one_run():
    """H3: a context made elsewhere lives once, and a second start-up says so and what to do."""
    ctx = WorkerContext("web")
    lifespan = worker_lifespan(ctx)
    async with lifespan() as state:
        assert state["web"] is ctx
    with pytest.raises(WorkerError, match="second start-up of the application: give a name or a factory"):
        async with lifespan():
            pass


async def test_a_context_that_has_lived_is_refused():
    """H3: a context that ran elsewhere cannot be run again."""
    async with WorkerContext("web") as ctx:
        pass
    with pytest.raises(InvalidTransition, match="make a new one"):
        async with worker_lifespan(ctx)():
            pass


async def test_a_context_that_runs_elsewhere_is_refused_and_goes_on():
    """H3: a context that somebody else has entered is not the lifespan's to run, and is left alone."""
    async with WorkerContext("web") as ctx:
        with pytest.raises(InvalidTransition, match="cannot enter worker 'web' while it is running"):
            async with worker_lifespan(ctx)():
                pass
        assert ctx.is_running


async def test_a_context_that_was_stopped_before_the_start_up_lets_the_server_end():
    """H4: a signal that came before the application was up is no error: the server sees it too and ends."""
    ctx = WorkerContext("web")
    ctx.stop("signal SIGTERM")
    async with worker_lifespan(ctx)() as state:
        assert state["web"].is_stopped
    assert ctx.outcome is Outcome.NEVER_STARTED


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((lambda: WorkerContext(),), {"grace": 3}, TypeError, "takes no grace"),
        ((WorkerContext("web"),), {"grace": 3}, TypeError, "takes no grace"),
        ((3,), {}, TypeError, "a name, a factory or a WorkerContext, not 3"),
        (("web",), {"signals": "all"}, ValueError, "must be 'chain' or None, not 'all'"),
        (("web",), {"grace": -1}, ValueError, "grace must be 0 or more"),
        (("web",), {"colour": "red"}, TypeError, "colour"),
    ],
)
def test_mistakes_are_refused_where_they_are_written(arguments, options, error, says):
    """H3: what cannot work is refused when the lifespan is made, not when the application starts."""
    with pytest.raises(error, match=says):
        worker_lifespan(*arguments, **options)


async def test_a_factory_must_make_a_context():
    """H3: a factory that returns something else is refused at start-up."""
    with pytest.raises(TypeError, match="returned 'web' and not a WorkerContext"):
        async with worker_lifespan(lambda: "web")():
            pass


async def test_lifespans_nest():
    """H3: a lifespan of the application's own can enter ours and add to the state."""

    @asynccontextmanager
    async def lifespan(app):
        async with worker_lifespan("web")(app) as web, worker_lifespan("mailer")(app) as mailer:
            yield {**web, **mailer, "database": "open"}
            assert web["web"].is_running
            assert mailer["mailer"].is_running

    async with lifespan(None) as state:
        assert sorted(state) == ["database", "mailer", "web"]
    assert state["web"].outcome is state["mailer"].outcome is Outcome.CLEAN


async def test_lifespans_combine_in_order():
    """H3: combined lifespans start in order and stop in reverse, and those without a state are welcome."""
    log = []

    @asynccontextmanager
    async def database(app):
        log.append("database opened")
        yield
        log.append("database closed")

    def named(name):
        def make():
            ctx = WorkerContext(name)
            ctx.listen(lambda ctx, event: log.append(f"{ctx.name} {type(event).__name__}"))
            return ctx

        return make

    async with combine_lifespans(database, worker_lifespan(named("web")), worker_lifespan(named("mailer")))(None) as it:
        assert sorted(it) == ["mailer", "web"]
        log.append("served")
    assert log == [
        "database opened",
        "web Start",
        "mailer Start",
        "served",
        "mailer Stop",
        "mailer Exit",
        "web Stop",
        "web Exit",
        "database closed",
    ]


async def test_two_contexts_of_one_name_are_refused():
    """H3: lifespans that put something under the same name are a mistake, and say so."""
    with pytest.raises(WorkerError, match="two lifespans put 'web' into the state"):
        async with combine_lifespans(worker_lifespan("web"), worker_lifespan("web"))(None):
            pass


async def test_a_failure_of_the_context_surfaces(caplog):
    """H3: a context that fails is logged at once, does not tear the application down, and raises at its end."""
    async with anyio.create_task_group():
        with pytest.raises(WorkerFailed, match="worker 'web' failed") as raised:
            async with worker_lifespan("web")() as state:
                ctx = state["web"]

                async def essential():
                    raise ConnectionError("the broker is gone")

                ctx.spawn(essential, essential=True)
                await ctx.wait_stopping()
                with pytest.raises(WorkerFailed):
                    await ctx
                assert "worker 'web' of the application failed" in caplog.messages
        assert isinstance(raised.value.__cause__, ConnectionError)


def test_a_failure_reaches_whoever_runs_the_application(client_of):
    """H3: the shutdown of an application whose context failed fails."""
    with pytest.raises(WorkerFailed, match="the disk is full"):
        with client_of(APP) as client:
            client.app_state["web"].fail(OSError("the disk is full"))


async def test_an_error_inside_leaves_bare():
    """H3: an exception of what runs inside the lifespan leaves it as it is, and the context has failed with it."""
    with pytest.raises(KeyError, match="settings") as raised:
        async with worker_lifespan("web")() as state:
            raise KeyError("settings")
    assert state["web"].failure is raised.value


async def test_cancelling_the_lifespan_cancels_the_work():
    """H3: a server that cancels the lifespan cancels what the context owns, and the context ends."""
    with anyio.CancelScope() as scope:
        async with worker_lifespan("web", grace=3600)() as state:
            state["web"].spawn(anyio.sleep_forever)
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert state["web"].outcome is Outcome.CANCELLED


async def test_the_deadline_does_not_end_the_lifespan():
    """H4: a context that has drained, or was cut off, leaves the application up until the server ends it."""
    async with worker_lifespan("web", grace=0)() as state:
        task = state["web"].spawn(anyio.sleep_forever)
        state["web"].stop("maintenance")
        await state["web"]
        assert task.done
        await anyio.lowlevel.checkpoint()
    assert state["web"].outcome is Outcome.CANCELLED


async def test_a_shutdown_token_reaches_the_context():
    """L38: a context of the lifespan may hold a token that stops several."""
    token = Shutdown()
    async with worker_lifespan("web", shutdown=token)() as state:
        token.set("maintenance")
        assert state["web"].is_stopped


def test_without_being_asked_no_handler_is_installed(client_of):
    """H4: signals are left alone unless they are asked for."""
    before = signal.getsignal(signal.SIGTERM)
    with client_of(APP):
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def handler():
    """A handler of the server's for SIGTERM, and what it has got."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    yield got
    signal.signal(signal.SIGTERM, before)


async def test_a_chained_signal_stops_the_context_and_then_reaches_the_server(handler):
    """H4: with chained signals the context hears first, then the handler that was there, which is back afterwards."""
    servers = signal.getsignal(signal.SIGTERM)
    async with worker_lifespan("web", signals="chain")() as web:
        async with worker_lifespan("mailer", signals="chain")() as mailer:
            signal.raise_signal(signal.SIGTERM)
            assert (web["web"].is_stopped, mailer["mailer"].is_stopped, handler) == (True, True, [signal.SIGTERM])
            assert web["web"].reason == "signal SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is servers


async def test_a_second_chained_signal_ends_the_grace(handler):
    """H4: a second signal cancels what the context owns, and reaches the server as well."""
    async with worker_lifespan("web", signals="chain", grace=3600)() as state:
        state["web"].spawn(anyio.sleep_forever)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        await state["web"]
    assert state["web"].outcome is Outcome.CANCELLED
    assert handler == [signal.SIGTERM] * 2


async def test_ignored_signals_stay_ignored():
    """H4: a signal that the process ignores does not stop the context."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        async with worker_lifespan("web", signals="chain")() as state:
            signal.raise_signal(signal.SIGTERM)
            assert state["web"].is_running
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_a_default_signal_after_the_drain_ends_the_process_as_ever():
    """H4: when the context has finished already, a signal that nobody else handles acts at once."""
    async with worker_lifespan("web", signals="chain")() as state:
        state["web"].stop()
        await state["web"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_chaining_says_that_it_cannot(client_of, caplog):
    """H4: a test client runs the application in a thread: it works, and the log says that no signal arrives."""
    caplog.set_level(logging.WARNING, "workerctx")
    before = signal.getsignal(signal.SIGTERM)
    assert threading.current_thread() is threading.main_thread()
    with client_of(Starlette(lifespan=worker_lifespan("web", signals="chain"))):
        assert signal.getsignal(signal.SIGTERM) is before
    assert caplog.messages == [
        "worker 'web' will not hear of signals, because its lifespan runs outside the main thread"
    ]


def test_without_starlette_the_import_says_what_to_install(program):
    """H2: importing the integration without its extra is one sentence with the remedy."""
    hide = "import importlib.util as u; find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *rest: None if name == 'starlette' else find(name, *rest)\n"
    done = program(hide + "import workerctx_starlette")
    assert done.stderr.strip().endswith(
        "ImportError: workerctx_starlette needs the 'starlette' extra: pip install 'workerctx[starlette]'"
    )


def test_fastapi_is_not_needed(program):
    """H2: Starlette alone is enough for everything but FastAPI's own endpoints."""
    hide = "sys.modules['fastapi'] = sys.modules['fastapi.params'] = None\n"
    done = program(hide + "from workerctx_starlette import *; print(Named('mailer').name, CurrentWorker.__metadata__)")
    assert done.stdout.startswith("mailer (")
    assert done.returncode == 0
