"""Doing the same to several things, and asking before much is lost."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import anyio
from cyclopts import Parameter

from workerctx.cli.output import complain, number_of
from workerctx.errors import CommandError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from workerctx.cli.output import Output

_AT_ONCE: Final = 100
"""How many calls run side by side, for the store to commit together."""

_NAMED: Final = 10
"""How many of the things that will be touched are named before asking."""

Yes: TypeAlias = Annotated[
    bool, Parameter(name=["--yes", "-y"], negative="", env_var="WORKERCTX_YES", help="Do it without asking.")
]


async def do_each(out: Output, done: str, names: Sequence[str], do: Callable[[str], Awaitable[str | None]]) -> int:
    """Do something to each of the names; one that fails does not keep the others from it.

    Args:
        out: Where the result goes.
        done: What was done, such as ``cancelled``.
        names: What to do it to.
        do: Does it; a `WorkerError` is a failure of that name alone, a text says what was done instead.

    Returns:
        The exit status: 0, or 1 if any of them failed.
    """
    succeeded: dict[str, str] = {}
    failed: dict[str, str] = {}

    async def attempt(name: str) -> None:
        try:
            succeeded[name] = await do(name) or done
        except WorkerError as exc:
            failed[name] = str(exc)

    names = list(dict.fromkeys(names))
    for start in range(0, len(names), _AT_ONCE):
        async with anyio.create_task_group() as tasks:
            for name in names[start : start + _AT_ONCE]:
                tasks.start_soon(attempt, name)
    if out.as_json:
        out.document(
            {
                "done": [name for name in names if name in succeeded],
                "failed": {name: failed[name] for name in names if name in failed},
            }
        )
    for name in names:
        if name in failed:
            complain(failed[name], 1)
        elif not out.as_json:
            out.line(f"{succeeded[name]} {name}")
    return 1 if failed else 0


def confirm(out: Output, verb: str, names: Sequence[str], *, yes: bool, noun: str = "job") -> None:
    """Say which things will be touched and go on only if that is wanted; a single one needs no asking.

    Raises:
        CommandError: Nobody can be asked, and `yes` is not set.
        WorkerError: The answer was no.
    """
    if len(names) > 1:
        named = ", ".join(names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        confirm_text(out, f"this will {verb} {number_of(len(names), noun)}: {named}{more}", yes=yes)


def confirm_text(out: Output, what: str, *, yes: bool) -> None:
    """Say what will happen and go on only if that is wanted.

    Raises:
        CommandError: Nobody can be asked, and `yes` is not set.
        WorkerError: The answer was no.
    """
    out.note(what)
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison] - None if it was closed
        raise CommandError("nothing was done, as nobody can be asked here: pass --yes to do it")
    if _answer(out).strip().lower() not in {"y", "yes"}:
        raise WorkerError("nothing was done")


def _answer(out: Output) -> str:
    before = signal.getsignal(signal.SIGINT)
    if callable(before):  # the event loop's would only note Ctrl-C, and the line would be waited for
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        out.note("Go on? [y/N]")
        return sys.stdin.readline()
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
