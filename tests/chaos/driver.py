"""Kill and freeze worker processes and their store, and account for every job afterwards.

``python tests/chaos/driver.py --seconds N [--store memory|sqlite|postgres|redis] [--outages] [--seed S]`` starts four
``workerctx worker`` processes, half of them on trio, and two producers. Workers get SIGKILL, SIGTERM and
SIGSTOP/SIGCONT (for longer than a lease lasts) at random, producers SIGKILL; with ``--outages`` the store goes away
and comes back as well: a server is killed or frozen, a file is locked. A store in memory has only one process, so
there its calls fail, hang and lose their answers, and worker loops are cancelled. It exits with 0 if

- every job whose enqueueing returned is in the store and has succeeded, once;
- no two runs had the same lease, and the store has the result of one of them;
- every other run is explained: its process was killed, or its worker gave it back or was told that the lease was lost;
- the store counted one attempt for each lease that expired during a run, and one for the run that succeeded;
- every process that was asked to stop ended with 0, those too that were started while the store was away; none ended by
  itself, and nobody logged an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import anyio
from accounting import Account, finish, read
from fleet import SETTINGS, WORKERS, Fleet
from stores import Store, store_for_chaos

from workerctx.errors import StoreUnavailable

PRODUCERS = 2
GONE = 1.0


async def be_producer() -> None:
    """Enqueue in a process of its own; a store that is away is tried again."""
    from app import jobs, produce

    while True:
        with suppress(StoreUnavailable):
            async with jobs:
                await produce(random.Random())
        await anyio.sleep(0.1)


def play(folder: Path, store: Store, seconds: float, dice: random.Random, *, outages: bool) -> list[str]:
    """Do it, print what happened, and return what is wrong."""
    from app import jobs

    fleet = Fleet(folder, dice)
    for role, count in (("worker", WORKERS), ("producer", PRODUCERS)):
        for _ in range(count):
            fleet.start(role)
    patience = time.monotonic() + 60
    while not read(folder)["ran"] and time.monotonic() < patience:
        time.sleep(0.1)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        fleet.torment(time.monotonic() + min(left, dice.uniform(1, 3)))
        if outages:
            fleet.deeds[store.outage(GONE, dice)] += 1
    fleet.settle()
    finished = anyio.run(finish, jobs)
    account = Account(read(folder), finished, fleet.killed)
    wrong = fleet.wrong + fleet.complaints() + account.wrong()
    if not account.jobs:
        wrong.append("there were no jobs: that proved nothing")
    if fleet.deeds["freezes"] > 10 and not outages and not account.lines["lost"] + account.lines["refused"]:
        wrong.append("nobody who came too late was told: the freezes proved nothing")
    print(", ".join(f"{count} {what}" for what, count in (account.figures | fleet.deeds).items()))
    return wrong


def play_inside(folder: Path, seconds: float, dice: random.Random) -> list[str]:
    """Do it in this process on both event loops, print what happened, and return what is wrong."""
    from app import jobs
    from inside import Inside

    logging.disable()
    wrong: list[str] = []
    for backend in ("asyncio", "trio"):
        inside = Inside(jobs, dice)
        finished = anyio.run(inside.play, seconds / 2, backend=backend)
        account = Account(read(folder), finished, inside.killed)
        print(", ".join(f"{count} {what}" for what, count in (account.figures | inside.deeds).items()))
        wrong += account.wrong()
        for path in folder.glob("*.log"):
            path.write_text("")
    return wrong


def main() -> int:
    """Run the producer, or the whole drama."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--store", choices=["memory", "sqlite", "postgres", "redis"], default="sqlite")
    parser.add_argument("--outages", action="store_true", help="take the store away, too")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--role", choices=["producer"])
    options = parser.parse_args()
    if options.role:
        anyio.run(be_producer)
        return 0
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"{options.store}, seed {seed}: ", end="", flush=True)
    with tempfile.TemporaryDirectory(prefix="workerctx-chaos-") as name:
        folder = Path(name)
        with store_for_chaos(options.store, folder) as store:
            os.environ |= {"WORKERCTX_URL": store.url, "CHAOS_FOLDER": name, **SETTINGS}
            dice = random.Random(seed)
            if options.store == "memory":
                wrong = play_inside(folder, options.seconds, dice)
            else:
                wrong = play(folder, store, options.seconds, dice, outages=options.outages)
    for line in wrong[:20]:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
