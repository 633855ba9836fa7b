"""The store that a command looks after: which one it is, and a command's life on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import unquote

import anyio
from attrs import frozen
from cyclopts import Parameter

from workerctx.cli.loading import load_registry
from workerctx.cli.output import Output, complain
from workerctx.errors import CommandError, InvalidRequest, RegistryNotOpen, WorkerError
from workerctx.queue import StoreURL, connect
from workerctx.queue.memory import is_shared
from workerctx.queue.migrating import Migrated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workerctx.queue import Storage
    from workerctx.service import JobRegistry

URL_VARIABLE: Final = "WORKERCTX_URL"
APP_VARIABLE: Final = "WORKERCTX_APP"


@Parameter(name="*", group="Store and output")
@frozen
class StoreOptions:
    """The options that every command on a store has."""

    storage: Annotated[
        str | None,
        Parameter(metavar="URL", help="The store, for example sqlite:///jobs.db. [env var: WORKERCTX_URL]"),
    ] = None
    app: Annotated[
        str | None,
        Parameter(
            metavar="MODULE:OBJECT",
            help="A registry, which names the store; imported only if it is needed. [env var: WORKERCTX_APP]",
        ),
    ] = None
    json: Annotated[
        bool, Parameter(negative="", env_var="WORKERCTX_JSON", help="Print one JSON document instead of tables.")
    ] = False

    def registry(self) -> JobRegistry | None:
        """Import the registry that was asked for, or return None where the store is known without one.

        What is written on the command line comes before what the environment says, and a URL before a registry.

        Raises:
            CommandError: There is no such registry.
        """
        if self.app is not None:
            return load_registry(self.app)
        named = os.environ.get(APP_VARIABLE)
        if self.storage is None and not os.environ.get(URL_VARIABLE) and named:
            return load_registry(named)
        return None

    def url(self) -> str:
        """Return the store's URL.

        Raises:
            CommandError: Nothing names a store, or nobody but this process could see it.
            RegistryNotOpen: The registry names none.
        """
        url = self.storage
        if url is None:
            registry = self.registry()
            url = os.environ.get(URL_VARIABLE) if registry is None else registry.url
        if not url:
            raise CommandError(
                f"no store is named: pass --storage URL or --app MODULE:OBJECT, or set {URL_VARIABLE} or {APP_VARIABLE}"
            )
        return visible(url)


def visible(url: str) -> str:
    """Return the URL of a store that others see too.

    Raises:
        CommandError: Nobody but this process could see it.
    """
    store = StoreURL.parse(url)
    if store.scheme == "memory" and not is_shared(store):
        raise CommandError(
            f"{url} would be new, empty, and seen only in this process, with which it ends: "
            "name a store that your workers see"
        )
    return url


def new_place(url: str) -> str | None:
    """Return where opening a store would make its tables; None if they are there, or it has none.

    Raises:
        QueueError: The store cannot be asked.
    """
    storage = connect(url)
    if isinstance(storage, Migrated) and not storage.migrations.version():
        return storage.migrations.place
    return None


def refuse_new(url: str) -> None:
    """Refuse a store without tables: it may be a misspelt one, and would look like one that is empty.

    Raises:
        CommandError: It has none.
        QueueError: It cannot be asked.
    """
    place = new_place(url)
    if place is None:
        return
    store = StoreURL.parse(url)
    if store.scheme == "sqlite" and not Path(unquote(store.path).removeprefix("/")).exists():
        raise CommandError(f"there is no file {place}: check the path, or make it with `workerctx migrate`")
    raise CommandError(f"{place} has no tables of workerctx: check the URL, or make them with `workerctx migrate`")


def on_store(
    options: StoreOptions | None, command: Callable[[Storage, Output], Awaitable[int]], *, creates: bool = False
) -> int:
    """Open the store, run a command on it and return the exit status, with what went wrong said in a sentence.

    Args:
        options: Which store; None leaves it to the environment.
        command: Does the work and returns the exit status.
        creates: Whether tables that are not there are made; see `refuse_new`.
    """
    options = options or StoreOptions()
    out = Output(options.json)

    async def run(url: str) -> int:
        async with connect(url) as storage:
            return await command(storage, out)

    def open_and_run() -> int:
        url = options.url()
        if not creates:
            refuse_new(url)
        new = new_place(url) if creates else None
        status = anyio.run(run, url)
        if new is not None:
            out.note(f"made {new}")
        return status

    return guarded(open_and_run)


def guarded(work: Callable[[], int]) -> int:
    """Return the exit status of `work`: 1 if it failed, 2 if what was asked for makes no sense."""
    try:
        status = work()
        print(end="", flush=True)  # noqa: T201 - a command's output
    except (CommandError, InvalidRequest, RegistryNotOpen) as exc:
        return complain(exc, 2)
    except WorkerError as exc:
        return complain(exc, 1)
    except OSError as exc:
        # What is left of the output must not fail again at the exit. Whoever closed a pipe has seen enough.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if isinstance(exc, BrokenPipeError) else complain(exc, 1)
    return status
