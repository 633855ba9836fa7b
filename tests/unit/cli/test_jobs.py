"""Listing, showing and steering jobs."""

import re
import time

import pytest

from workerctx.queue import EnqueueRequest, JobError, JobState


@pytest.fixture
def fail(on):
    """Let the next job fail for good."""

    async def work(storage):
        _, lease = await storage.jobs.claim("w1")
        error = JobError("ValueError", "bad path", "Traceback: line 1\nline 2")
        await storage.jobs.fail(lease.id, error, retryable=False)

    return lambda: on(work)


def test_a_table_for_people(cli, add):
    """One line a job in the order of their ids; nothing is cut where the output is no terminal."""
    ids = [add("a-kind-with-a-very-long-name-" * 5), add("second", queue="images", priority=3)]
    ran = cli("jobs", "list")
    header, *rows = ran.out.splitlines()
    assert ran.status == 0
    assert header.split()[:4] == ["ID", "KIND", "QUEUE", "STATE"]
    assert [row.split()[0] for row in rows] == ids
    assert "a-kind-with-a-very-long-name-" * 5 in rows[0]
    assert rows[1].split()[1:6] == ["second", "images", "queued", "0/5", "3"]
    assert ran.err == ""


def test_the_time_that_matters(cli, on, add):
    """A waiting job shows when it is due, a running one since when, an ended one when; a blocked one has none."""
    ended, running = add("ended", priority=2), add("running", priority=1)
    add("blocked", depends_on=[running])
    add("waiting", delay=60)
    on(lambda storage: storage.jobs.cancel(ended))
    on(lambda storage: storage.jobs.claim("w1"))
    rows = {row.split()[1]: row.split()[6] for row in cli("jobs", "list").out.splitlines()[1:]}
    assert rows == {"ended": "ended", "running": "since", "blocked": "-", "waiting": "due"}


def test_a_time_after_the_last_year(cli, add):
    """A job that is due when years have five digits is listed and shown, with all others."""
    far = add("far", delay=2.9e11)
    add("near")
    assert cli("jobs", "list").out.count("due ") == 2
    assert " s after 1970" in cli("jobs", "show", far).out


def test_a_terminal_gets_a_table_that_fits(cli, add, monkeypatch):
    """On a narrow terminal cells are wrapped, but never an id."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "70")
    job_id = add("a-kind-with-a-very-long-name-" * 5)
    lines = re.sub(r"\x1b\[[\d;]*m", "", cli("jobs", "list").out).splitlines()
    assert max(map(len, lines)) <= 70
    assert any(line.startswith(job_id) for line in lines)


def test_times_are_local_in_tables_and_numbers_in_json(cli, add, job, monkeypatch):
    """Tables show ISO times with the offset of the zone of this machine, JSON shows seconds since the epoch."""
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    try:
        job_id = add()
        assert "+05:30" in cli("jobs", "list").out
    finally:
        monkeypatch.undo()
        time.tzset()
    assert isinstance(job(job_id).created_at, float)


def test_json_for_programs(cli, add, job):
    """The document has every attribute, with the payload decoded, and nothing else is printed."""
    job_id = add(payload={"path": "ä.jpg"}, headers={"a": "b"})
    ran = cli("jobs", "list", "--json")
    (document,) = ran.json["jobs"]
    assert document["id"] == job_id
    assert document["payload"] == {"path": "ä.jpg"}
    assert document["created_at"] == job(job_id).created_at
    assert document["error"] is None
    assert ran.json["next_cursor"] is None
    assert ran.err == ""


def test_an_empty_listing(cli):
    """Nothing to list is no failure; a program gets an empty list."""
    ran = cli("jobs", "list")
    assert (ran.status, ran.out, ran.err) == (0, "", "no job fits\n")
    assert cli("jobs", "list", "--json").json == {"jobs": [], "next_cursor": None}


def test_filters(cli, add):
    """Every filter narrows the list, and all of them hold together."""
    mine = add("a", queue="q", tenant_id="t", workflow_id="w", unique_key="k", delay=60)
    add("a"), add("b", queue="q"), add("b", tenant_id="t")
    for words in (
        ["--tenant", "t", "--kind", "a"],
        ["--workflow", "w"],
        ["--unique-key", "k"],
        ["-q", "q", "--kind", "a"],
        ["--state", "scheduled"],
    ):
        assert [each["id"] for each in cli("jobs", "list", "--json", *words).json["jobs"]] == [mine]


def test_pages(cli, add):
    """A page ends with the cursor of the next; --all goes through them."""
    ids = [add() for _ in range(5)]
    page = cli("jobs", "list", "--limit", "2", "--json").json
    rest = cli("jobs", "list", "--limit", "3", "--cursor", page["next_cursor"], "--json").json
    assert [each["id"] for each in page["jobs"] + rest["jobs"]] == ids
    assert rest["next_cursor"] is None
    assert page["next_cursor"] in cli("jobs", "list", "--limit", "2").err
    assert len(cli("jobs", "list", "--all", "--limit", "2", "--json").json["jobs"]) == 5


def test_all_goes_beyond_one_page(cli, on):
    """--all lists more jobs than the store hands out at once."""
    on(lambda storage: storage.jobs.enqueue_bulk([EnqueueRequest("n") for _ in range(1201)]))
    assert len(cli("jobs", "list", "--all", "--json").json["jobs"]) == 1201


def test_a_page_has_at_least_one_job(cli):
    """A limit below 1 is a wrong command line."""
    ran = cli("jobs", "list", "--limit", "0")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("workerctx: Invalid value")


def test_everything_about_a_job(cli, add, fail):
    """Payload, options and each failure with its traceback are shown."""
    job_id = add(payload=[1], tenant_id="acme", timeout=2.5, max_attempts=3)
    fail()
    ran = cli("jobs", "show", job_id)
    assert ran.status == 0
    for text in (
        "payload     [1]",
        "tenant      acme",
        "timeout     2.5 s",
        "runs        1 of at most 3",
        "state       dead",
    ):
        assert text in ran.out
    assert "run 1: ValueError: bad path\nTraceback: line 1\nline 2" in ran.out
    document = cli("jobs", "show", job_id, "--json").json
    assert document["error"]["message"] == "bad path"
    assert document["error_history"][0]["error"]["traceback"] == "Traceback: line 1\nline 2"


def test_the_result_of_a_job(cli, on, add):
    """A result is shown decoded."""
    job_id = add()

    async def complete(storage):
        _, lease = await storage.jobs.claim("w1")
        await storage.jobs.complete(lease.id, {"size": 3})

    on(complete)
    assert 'result      {"size":3}' in cli("jobs", "show", job_id).out
    assert cli("jobs", "show", job_id, "--json").json["result"] == {"size": 3}


def test_retry(cli, add, fail, job):
    """A dead job is put back; a job that is not dead is a failure that leaves the others alone."""
    dead = add()
    fail()
    alive = add()
    ran = cli("jobs", "retry", alive, dead, "--yes", "--json")
    assert ran.status == 1
    assert ran.json["done"] == [dead]
    assert "only dead and cancelled jobs" in ran.json["failed"][alive]
    assert (job(dead).state, job(dead).attempt) == (JobState.QUEUED, 0)


def test_retry_by_filter_means_dead_jobs(cli, add, fail, on, job):
    """What a user cancelled is not put back unless that state was asked for."""
    dead = add()
    fail()
    cancelled = add()
    on(lambda storage: storage.jobs.cancel(cancelled))
    assert cli("jobs", "retry", "--kind", "resize").out == f"put back {dead}\n"
    assert job(cancelled).state is JobState.CANCELLED
    assert cli("jobs", "retry", "--state", "cancelled").out == f"put back {cancelled}\n"


def test_cancel(cli, add, job):
    """A waiting job is cancelled at once; a second time there is nothing to cancel."""
    job_id = add()
    assert cli("jobs", "cancel", job_id).out == f"cancelled {job_id}\n"
    assert job(job_id).state is JobState.CANCELLED
    ran = cli("jobs", "cancel", job_id)
    assert (ran.status, ran.out) == (1, "")
    assert "has ended already" in ran.err


def test_delete(cli, on, add):
    """A job is removed; one that runs is not."""
    running = add("running")
    on(lambda storage: storage.jobs.claim("w1"))
    job_id = add()
    assert cli("jobs", "delete", job_id).out == f"deleted {job_id}\n"
    ran = cli("jobs", "delete", running)
    assert ran.status == 1
    assert "while it is running" in ran.err
    assert [each["id"] for each in cli("jobs", "list", "--json").json["jobs"]] == [running]


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_many_jobs_are_not_touched_unasked(cli, add, on, verb, job):
    """More than one job needs --yes where nobody can be asked; the jobs are named, and nothing is done."""
    ids = [add("mail"), add("mail")]
    if verb == "retry":
        for job_id in ids:
            on(lambda storage, job_id=job_id: storage.jobs.cancel(job_id))
    words = ["jobs", verb, "--kind", "mail", *(["--state", "cancelled"] if verb == "retry" else [])]
    before = [job(job_id).state for job_id in ids]
    ran = cli(*words)
    assert (ran.status, ran.out) == (2, "")
    assert f"this will {verb} 2 jobs: {ids[0]}, {ids[1]}" in ran.err
    assert "pass --yes" in ran.err
    assert [job(job_id).state for job_id in ids] == before
    done = cli(*words, "--yes")
    assert done.status == 0
    assert len(done.out.splitlines()) == 2


@pytest.mark.parametrize(("answer", "status", "state"), [("n", 1, "queued"), ("", 1, "queued"), ("y", 0, "cancelled")])
def test_somebody_at_the_terminal_is_asked(cli, add, job, terminal, answer, status, state):
    """The answer decides; anything but yes leaves everything as it was."""
    ids = [add(), add()]
    terminal(answer)
    ran = cli("jobs", "cancel", *ids)
    assert ran.status == status
    assert "Go on? [y/N]" in ran.err
    assert [job(job_id).state for job_id in ids] == [state, state]


def test_the_environment_can_say_yes(cli, add, monkeypatch):
    """WORKERCTX_YES stands for --yes."""
    add(), add()
    monkeypatch.setenv("WORKERCTX_YES", "1")
    assert cli("jobs", "delete", "--queue", "default").status == 0


@pytest.mark.parametrize(
    "words", [["retry"], ["cancel"], ["delete"], ["cancel", "an-id", "--kind", "mail"], ["cancel", "--state", "dead"]]
)
def test_which_jobs_has_to_be_said(cli, words):
    """Neither ids nor filters, both, or a state in which nothing can be done is a wrong command line."""
    ran = cli("jobs", *words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("workerctx: ")


def test_nothing_that_fits(cli):
    """Filters that no job fits are a failure that says so."""
    ran = cli("jobs", "cancel", "--kind", "nobody")
    assert (ran.status, ran.err) == (1, "no job fits that one could cancel\n")


def test_many_jobs_at_once(cli, on):
    """Hundreds of jobs are cancelled, and only ten of them are named beforehand."""
    on(lambda storage: storage.jobs.enqueue_bulk([EnqueueRequest("n") for _ in range(250)]))
    ran = cli("jobs", "cancel", "--kind", "n", "--yes")
    assert (ran.status, len(ran.out.splitlines())) == (0, 250)
    assert "and 240 more" in ran.err
    assert on(lambda storage: storage.jobs.counts())[JobState.CANCELLED] == 250
