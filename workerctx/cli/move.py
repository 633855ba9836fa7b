"""``workerctx move``: what one store holds goes to another one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from workerctx.cli.output import Output, complain, duration, number_of, without_password
from workerctx.cli.store import guarded, refuse_new, visible
from workerctx.cli.values import Duration  # noqa: TC001 - cyclopts reads the annotations
from workerctx.errors import CommandError
from workerctx.queue import JobState, connect
from workerctx.queue.cargo import HISTORY, moving_of
from workerctx.queue.moving import give_back as put_back
from workerctx.queue.moving import move

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from workerctx.queue.moving import MoveReport

MINUTE: Final = 60.0

_COLUMNS: Final = ("STATE", "MOVED", "SOURCE BEFORE", "AFTER", "TARGET BEFORE", "AFTER")


def move_store(
    *,
    from_: Annotated[
        str,
        Parameter(name="--from", metavar="URL", env_var="WORKERCTX_FROM", help="The store that is left."),
    ],
    to: Annotated[
        str | None, Parameter(metavar="URL", env_var="WORKERCTX_TO", help="The store that is entered.")
    ] = None,
    history: Annotated[
        bool,
        Parameter(negative="", env_var="WORKERCTX_HISTORY", help="Move succeeded and cancelled jobs too."),
    ] = False,
    timeout: Annotated[
        Duration,
        Parameter(
            env_var="WORKERCTX_MOVE_TIMEOUT",
            show_default=False,
            help="How long to wait for running jobs when nothing else is left; 1m if not given.",
        ),
    ] = MINUTE,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Say what the source has, and change nothing; the target is not opened.")
    ] = False,
    give_back: Annotated[
        bool,
        Parameter(
            name="--give-back",
            negative="",
            help="Put what is on its way back into the source, because the store to which it went is gone for good.",
        ),
    ] = False,
    json: Annotated[
        bool, Parameter(negative="", env_var="WORKERCTX_JSON", help="Print one JSON document instead of a table.")
    ] = False,
) -> int:
    """Move jobs, schedules, rate limits and pauses to another store, while workers go on at both.

    Jobs that are running stay until they have ended or wait again. The same command once more goes on where one that
    was killed had stopped. The exit status is 0 if everything has moved, and 1 if something is left.
    """
    out = Output(json)

    def run() -> int:
        if dry_run and give_back:
            raise CommandError("--dry-run and --give-back exclude each other: pass one of them")
        source = visible(from_)
        refuse_new(source)
        if give_back:
            return anyio.run(_give_back, source, out)
        if dry_run:
            return anyio.run(_foresee, source, history, out)
        if to is None:
            raise CommandError("no target is named: pass --to URL, or --dry-run to see what would move")
        try:
            return anyio.run(_move, source, visible(to), history, timeout, out)
        except KeyboardInterrupt:
            return complain("stopped: the same command goes on where this one was", 1)

    return guarded(run)


async def _give_back(url: str, out: Output) -> int:
    """Have the source take back what has not arrived."""
    async with connect(url) as storage:
        count = await put_back(storage)
    if out.as_json:
        out.document({"given_back": count})
    else:
        out.line(f"{number_of(count, 'job')} given back")
    return 0


async def _foresee(url: str, history: bool, out: Output) -> int:
    """Say what would move."""
    async with connect(url) as storage:
        counts = _going(await storage.jobs.counts(), history=history)
        schedules = [schedule.name for schedule in await storage.schedules.list()]
        settings = await moving_of(storage).settings()
        batch = await moving_of(storage).outbox()
    leaving = 0 if batch is None else len(batch.jobs)
    limits = [each.limit.scope for each in settings.limits]
    if out.as_json:
        jobs = {state.value: count for state, count in counts.items()}
        document = {"jobs": jobs, "on_the_way": leaving, "schedules": schedules, "limits": limits}
        out.document({**document, "pauses": sorted(settings.pauses), "workflows": sorted(settings.workflows)})
        return 0
    out.table(("STATE", "JOBS"), [(state.value, str(count)) for state, count in counts.items()])
    if leaving:
        out.note(f"{number_of(leaving, 'job')} on the way: an earlier move has not ended")
    out.note(f"{number_of(len(schedules), 'schedule')}, {number_of(len(limits), 'rate limit')}; nothing was moved")
    return 0


async def _move(source_url: str, target_url: str, history: bool, timeout: float, out: Output) -> int:
    async with connect(source_url) as source, connect(target_url) as target:
        total = sum(_going(await source.jobs.counts(), history=history).values())
        with _progress(total, out) as tell:
            report = await move(source, target, history=history, patience=timeout, tell=tell)
    if out.as_json:
        out.document(_document(report))
    else:
        out.table(_COLUMNS, _rows(report))
        _tell_more(report, target_url, out)
    if report.is_complete:
        return 0
    left = ", ".join(f"{count} {state.value}" for state, count in report.left.items())
    return complain(
        f"{left} could not move within {duration(timeout)}: run the same command again when what is running has ended",
        1,
    )


def _going(counts: Mapping[JobState, int], *, history: bool) -> dict[JobState, int]:
    """Return how many jobs there are of those that should move."""
    return {state: count for state, count in counts.items() if history or state not in HISTORY}


def _progress(total: int, out: Output) -> AbstractContextManager[Callable[[MoveReport], object] | None]:
    """Show how far it is, to people who look on."""
    console = Console(stderr=True)
    if out.as_json or not console.is_terminal:
        return nullcontext(None)
    return _Bar(total, console)


class _Bar:
    """A line that grows."""

    def __init__(self, total: int, console: Console) -> None:
        columns = (TextColumn("moving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
        self._task = self._progress.add_task("jobs", total=total)
        self._total = total

    def __enter__(self) -> Callable[[MoveReport], object]:
        self._progress.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _tell(self, report: MoveReport) -> None:
        done = report.jobs.total()
        self._progress.update(self._task, completed=done, total=max(done, self._total))


def _rows(report: MoveReport) -> list[tuple[str, ...]]:
    after = ((report.source_before, report.source_after), (report.target_before, report.target_after))
    return [
        (
            state.value,
            str(report.jobs[state]),
            *(str((counts or {}).get(state, 0)) for pair in after for counts in pair),
        )
        for state in JobState
    ]


def _tell_more(report: MoveReport, target_url: str, out: Output) -> None:
    for job_id, reason in report.cancelled.items():
        out.note(f"job {job_id} arrived cancelled: {reason}")
    settings = report.settings
    parts = (
        number_of(report.jobs.total(), "job"),
        number_of(report.schedules, "schedule"),
    )
    out.note(f"{' and '.join(parts)} moved to {without_password(target_url)}")
    if settings.limits or settings.pauses or settings.workflows:
        out.note(
            f"{number_of(len(settings.limits), 'rate limit')}, {number_of(len(settings.pauses), 'pause')} and "
            f"{number_of(len(settings.workflows), 'cancelled workflow')} hold there too"
        )


def _document(report: MoveReport) -> dict[str, Any]:
    return {
        "complete": report.is_complete,
        "moved": report.jobs,
        "schedules": report.schedules,
        "cancelled": report.cancelled,
        "left": report.left,
        "source": {"before": report.source_before, "after": report.source_after},
        "target": {"before": report.target_before, "after": report.target_after},
        "limits": [each.limit.scope for each in report.settings.limits],
        "pauses": sorted(report.settings.pauses),
        "workflows": sorted(report.settings.workflows),
    }
