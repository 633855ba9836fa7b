"""`workerctx move`: two stores, one command."""

from __future__ import annotations

import anyio
import pytest

from workerctx.queue import EnqueueRequest, JobState, Schedule, connect
from workerctx.queue.cargo import moving_of

FROM, TO = "sqlite:///old.db", "sqlite:///new.db"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run in a folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def old(here):
    """Make a store with some of everything."""

    async def fill():
        async with connect(FROM) as store:
            await store.jobs.enqueue_bulk([EnqueueRequest("mail", number) for number in range(3)])
            await store.jobs.enqueue(EnqueueRequest("mail", unique_key="k"))
            gone = await store.jobs.enqueue(EnqueueRequest("gone"))
            await store.jobs.cancel(gone.id)
            await store.schedules.put(Schedule(name="tick", request=EnqueueRequest("tick"), every=60))
            await store.rate_limits.configure("api", capacity=2, per=60)
            await store.jobs.pause_queue("slow")

    anyio.run(fill)
    return FROM


def counts(url):
    async def look():
        async with connect(url) as store:
            return await store.jobs.counts()

    return anyio.run(look)


def test_move(command, old):
    """Q2: everything that should go has gone, and it is said how much of what."""
    ran = command("move", "--from", old, "--to", TO)
    assert ran.status == 0
    assert ran.out.splitlines()[0].split() == [
        "STATE",
        "MOVED",
        "SOURCE",
        "BEFORE",
        "AFTER",
        "TARGET",
        "BEFORE",
        "AFTER",
    ]
    assert ["queued", "4", "4", "0", "0", "4"] in [line.split() for line in ran.out.splitlines()]
    assert "4 jobs and 1 schedule moved" in ran.err
    assert "1 rate limit, 1 pause and 0 cancelled workflows hold there too" in ran.err
    assert counts(old)[JobState.CANCELLED] == 1
    assert counts(TO)[JobState.QUEUED] == 4
    again = command("move", "--from", old, "--to", TO, "--history", "--json")
    assert (again.status, again.json["moved"], again.json["complete"]) == (0, {"cancelled": 1}, True)


def test_dry_run(command, old, here):
    """Q13: a dry run changes nothing and does not make the target."""
    ran = command("move", "--from", old, "--to", TO, "--dry-run", "--json")
    assert ran.status == 0
    assert ran.json["jobs"] == {"blocked": 0, "scheduled": 0, "queued": 4, "running": 0, "dead": 0}
    assert (ran.json["schedules"], ran.json["limits"], ran.json["pauses"]) == (["tick"], ["api"], ["slow"])
    assert not (here / "new.db").exists()
    assert "nothing was moved" in command("move", "--from", old, "--to", TO, "--dry-run").err


def test_what_is_left(command, old):
    """Q1: jobs that are still running when the time is over are left, and the status is 1."""

    async def claim():
        async with connect(old) as store:
            await store.jobs.claim("worker-1")

    anyio.run(claim)
    ran = command("move", "--from", old, "--to", TO, "--timeout", "0", "--json")
    assert (ran.status, ran.json["left"], ran.json["complete"]) == (1, {"running": 1}, False)
    assert "1 running could not move" in ran.err


def test_clashes_are_told(command, old):
    """Q8: a job that arrives cancelled is named with the reason."""

    async def hold():
        async with connect(TO) as store:
            await store.jobs.enqueue(EnqueueRequest("mail", unique_key="k"))

    anyio.run(hold)
    ran = command("move", "--from", old, "--to", TO)
    assert ran.status == 0
    assert "arrived cancelled: its unique key 'k' was held by job" in ran.err


def test_giving_back(command, old):
    """Q2: what is on its way to a store that is gone is told, and given back on request."""

    async def take_out():
        async with connect(old) as store:
            await moving_of(store).take_out("a store that is gone")

    anyio.run(take_out)
    assert "4 jobs on the way" in command("move", "--from", old, "--dry-run").err
    refused = command("move", "--from", old, "--to", TO)
    assert (refused.status, refused.out) == (1, "")
    assert "given back if that store is gone" in refused.err
    assert command("move", "--from", old, "--give-back").out == "4 jobs given back\n"
    assert command("move", "--from", old, "--give-back", "--json").json == {"given_back": 0}
    assert command("move", "--from", old, "--to", TO).status == 0
    assert command("move", "--from", old).status == 2


def test_an_interruption(command, old, monkeypatch):
    """Q2: Ctrl-C ends a move with a sentence, and the next one goes on."""

    async def interrupted(source, target, **options):
        await moving_of(source).take_out(await moving_of(target).identity())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workerctx.cli.move.move", interrupted)
        ran = command("move", "--from", old, "--to", TO)
    assert (ran.status, ran.out) == (1, "")
    assert "goes on" in ran.err
    assert command("move", "--from", old, "--to", TO).status == 0
    assert counts(TO)[JobState.QUEUED] == 4


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("sqlite:///typo.db", TO, "no file"),
        ("memory://", TO, "memory://"),
        (FROM, "memory://", "memory://"),
        (FROM, "memory://nobody-has-it", "only in this process"),
        (FROM, FROM, "same store"),
        (FROM, "nonsense://x", "nonsense"),
    ],
)
def test_what_makes_no_sense(command, old, here, source, target, said):
    """Q13: a store that is not there, is nobody's, or is the same is refused."""
    ran = command("move", "--from", source, "--to", target)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
    assert not (here / "typo.db").exists()
    assert counts(FROM)[JobState.QUEUED] == 4


def test_looking_and_giving_back_exclude_each_other(command, old):
    """Q2: a dry run changes nothing, whatever else is asked for."""
    ran = command("move", "--from", old, "--dry-run", "--give-back")
    assert (ran.status, ran.out) == (2, "")
    assert "--dry-run and --give-back exclude each other" in ran.err
