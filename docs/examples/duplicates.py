"""Find duplicate files: ``python duplicates.py FOLDER``.

One job per file hashes it in a thread; jobs and results live in ``duplicates.db`` in the working directory. Ctrl-C
drains and says what is left. Run it again and it goes on where it stopped, also after ``kill -9``: a hashed file
is not hashed again unless it has changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import anyio
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from workerctx import JobRegistry, WorkerConfig, WorkerLoop, stop_on_signals
from workerctx.errors import Abort
from workerctx.queue import JobState, QueuedJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

jobs = JobRegistry("sqlite:///duplicates.db")
console = Console(highlight=False, soft_wrap=True)


class Fingerprint(TypedDict):
    """What a job says about its file."""

    size: int
    digest: str


@jobs.register(max_attempts=3)
def fingerprint(path: str) -> Fingerprint:
    """Hash one file; a plain function, so it runs in a thread."""
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"size": file.tell(), "digest": digest}
    except OSError as exc:
        raise Abort(f"{path}: {exc.strerror}") from exc  # trying again would not help


def files_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield every regular file below a folder with a key that changes when the file does."""
    for directory, _, names in os.walk(folder, onerror=lambda exc: complain("cannot list", exc)):
        for name in names:
            path = f"{directory}{os.sep}{name}"
            try:
                path.encode()
                info = os.lstat(path)
            except (OSError, UnicodeError) as exc:
                complain("cannot look at", exc)
            else:
                if stat.S_ISREG(info.st_mode):
                    yield path, f"{path}:{info.st_mtime_ns}:{info.st_size}"


def complain(what: str, error: Exception) -> None:
    """Say that a file or folder is left out."""
    console.print(f"[red]{what}[/]", escape(str(error).encode(errors="backslashreplace").decode()))


async def known(folder: Path) -> AsyncIterator[QueuedJob]:
    """Yield every job of a folder that the store knows."""
    cursor = None
    while True:
        page = await jobs.storage.jobs.list(workflow_id=str(folder), limit=1000, cursor=cursor)
        for job in page.jobs:
            yield job
        cursor = page.next_cursor
        if cursor is None:
            return


async def enqueue_all(folder: Path) -> set[str]:
    """Enqueue a job for every file that has none yet; return the keys of all files there are."""
    done = {job.unique_key async for job in known(folder)}
    keys: set[str] = set()
    files = files_in(folder)
    with console.status("looking for files ..."):
        while batch := list(islice(files, 5000)):
            keys.update(key for _, key in batch)
            await jobs.enqueue_bulk(
                fingerprint.request(path).with_options(unique_key=key, workflow_id=str(folder))
                for path, key in batch
                if key not in done
            )
    return keys


async def left() -> int:
    """Count the jobs that are still to be done."""
    counts = await jobs.storage.jobs.counts()
    return sum(number for state, number in counts.items() if not state.is_final)


async def work() -> int:
    """Hash until nothing is left, with a progress bar, or until a signal comes; return how many were done."""
    loop = WorkerLoop(jobs, WorkerConfig(concurrency=32, lease_ttl=5))
    bar = Progress(
        TextColumn("hashing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} files/s"),
        TimeRemainingColumn(),
        console=console,
    )
    to_do, began = await left(), time.monotonic()
    with bar, stop_on_signals(loop.context):
        task = bar.add_task("hashing", total=to_do, rate=0.0)
        async with loop:
            while remaining := await left():
                done = to_do - remaining
                bar.update(task, completed=done, rate=done / (time.monotonic() - began))
                if not await loop.context.sleep(0.2):
                    break
        done = to_do - await left()
        bar.update(task, completed=done, rate=done / (time.monotonic() - began))
    return done


async def report(folder: Path, keys: set[str]) -> None:
    """Print the groups of identical files, what could be saved, and what could not be read."""
    groups: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    unread = 0
    async for job in known(folder):
        if job.unique_key not in keys:
            continue  # the file has changed or is gone
        if job.state is JobState.SUCCEEDED:
            groups[job.result["size"], job.result["digest"]].append(job.payload["path"])
        elif job.error is not None:
            unread += 1
            console.print("[red]not read[/]", escape(job.error.message))
    same = {key: paths for key, paths in groups.items() if len(paths) > 1 and key[0] > 0}
    for (size, _), paths in sorted(same.items(), key=lambda group: group[0][0] * (1 - len(group[1])))[:10]:
        more = [f"... and {len(paths) - 4} more"] if len(paths) > 4 else []
        first = [escape(path) for path in sorted(paths)[:4]]
        console.print(f"[bold]{len(paths)} times {decimal(size)}[/]", *first, *more, sep="\n    ")
    files = sum(len(paths) for paths in groups.values())
    reclaimable = sum(size * (len(paths) - 1) for (size, _), paths in same.items())
    console.print(
        f"{files} files hashed, {unread} not readable, {len(same)} groups of identical files,"
        f" {decimal(reclaimable)} reclaimable"
    )


async def main(folder: Path) -> int:
    """Do it all; return the exit status."""
    async with jobs:
        keys = await enqueue_all(folder)
        began = time.monotonic()
        done = await work()
        seconds = time.monotonic() - began
        console.print(f"{done} files in {seconds:.1f} s: {done / seconds:.0f} files/s")
        remaining = await left()
        if remaining:
            console.print(f"interrupted: {remaining} files are left, run it again to go on")
            return 130
        await report(folder, keys)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    sys.exit(anyio.run(main, Path(sys.argv[1]).resolve()))
