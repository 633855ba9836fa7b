"""Workers, queues, schedules, workflows and pruning."""

import pytest

from workerctx.queue import EnqueueRequest, JobState, Schedule, WorkerCommand
from workerctx.testing import advance


@pytest.fixture
def schedule(on):
    """Put a schedule."""

    def put(name="nightly", **fields):
        request = EnqueueRequest("report", {"all": True}, queue="slow", unique_key=fields.pop("unique_key", None))
        on(lambda storage: storage.schedules.put(Schedule(name=name, request=request, **fields)))

    return put


def heard(on, worker_id):
    return on(lambda storage: storage.workers.heartbeat(worker_id))


def test_workers_are_listed(cli, on, worker):
    """Each worker with its state, its jobs and when it was heard of; one that fell silent is called so."""
    worker("old", name="mailer", queues=("a", "b"), labels=("gpu",), concurrency=4)
    on(lambda storage: advance(storage, 100))
    worker("new", in_flight=1, kinds=("x", "y"), state="paused")
    header, new, old = cli("workers", "list").out.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "HEARD", "JOBS", "QUEUES", "LABELS", "KINDS", "PROCESS"]
    assert new.split()[:3] == ["new", "-", "paused"]
    assert new.split()[-4:] == ["default", "-", "x,y", "7@box"]
    assert old.split() == ["old", "mailer", "silent", "1", "min", "40", "s", "ago", "0/4", "a,b", "gpu", "any", "7@box"]
    document = {each["id"]: each for each in cli("workers", "list", "--json").json["workers"]}
    assert (document["old"]["live"], document["new"]["live"]) == (False, True)
    assert document["old"]["silent_for"] >= 100


def test_a_word_for_a_worker(cli, on, worker):
    """The command waits for the worker's next heartbeat."""
    worker()
    assert cli("workers", "pause", "w1").out == "told to pause w1\n"
    assert cli("workers", "resume", "w1").status == 0
    assert cli("workers", "stop", "w1", "--json").json == {"done": ["w1"], "failed": {}}
    assert list(heard(on, "w1")) == [WorkerCommand.PAUSE, WorkerCommand.RESUME, WorkerCommand.STOP]


def test_workers_by_name(cli, on, worker):
    """A name stands for every worker that has it; an id goes first."""
    worker("w1", name="mailer")
    worker("w2", name="mailer")
    worker("w3", name="w1")
    assert cli("workers", "pause", "mailer").out == "told to pause w1\ntold to pause w2\n"
    assert cli("workers", "resume", "w1").out == "told to resume w1\n"
    assert list(heard(on, "w3")) == []


def test_a_worker_that_is_not_there(cli, worker):
    """An unknown id is a failure; the others are told all the same."""
    worker()
    ran = cli("workers", "pause", "nobody", "w1")
    assert (ran.status, ran.out) == (1, "told to pause w1\n")
    assert "no worker 'nobody'" in ran.err


def test_a_silent_worker_may_never_hear(cli, on, worker):
    """A command to a silent worker is sent, with a warning."""
    worker()
    on(lambda storage: advance(storage, 90))
    ran = cli("workers", "pause", "w1")
    assert ran.status == 0
    assert "last heard of 1 min 30 s ago" in ran.err


def test_all_live_workers(cli, on, worker):
    """--all means those that live; stopping several needs a yes."""
    worker("dead")
    on(lambda storage: advance(storage, 90))
    assert cli("workers", "pause", "--all").status == 1
    worker("a")
    worker("b")
    assert cli("workers", "pause", "--all").out == "told to pause a\ntold to pause b\n"
    assert cli("workers", "stop", "--all").status == 2
    assert list(heard(on, "a")) == [WorkerCommand.PAUSE]
    assert cli("workers", "stop", "--all", "--yes").status == 0
    assert cli("workers", "stop").status == 2
    assert cli("workers", "stop", "a", "--all").status == 2


def test_no_worker(cli):
    """An empty list is no failure."""
    assert cli("workers", "list").err == "no worker is registered\n"
    assert cli("workers", "list", "--json").json == {"workers": []}


def test_queues_are_listed(cli, add, worker):
    """A queue is there if it holds jobs, is paused or is served, with counts and how many workers serve it."""
    add(), add(queue="images"), add(queue="images", delay=60)
    worker(queues=("default", "served"))
    cli("queues", "pause", "held", "--for", "1h")
    header, *rows = cli("queues", "list").out.splitlines()
    assert header.split()[:4] == ["QUEUE", "STATE", "BLOCKED", "SCHEDULED"]
    assert [row.split()[0] for row in rows] == ["default", "held", "images", "served"]
    assert rows[0].split()[1:] == ["open", "0", "0", "1", "0", "0", "0", "0", "1"]
    assert rows[1].split()[1:3] == ["paused", "until"]
    documents = {each["name"]: each for each in cli("queues", "list", "--json").json["queues"]}
    assert documents["images"]["counts"] == {"queued": 1, "scheduled": 1}
    assert (documents["served"]["workers"], documents["images"]["workers"]) == (1, 0)


def test_no_queue(cli):
    """An empty list is no failure."""
    assert cli("queues", "list").err == "there is no queue yet\n"
    assert cli("queues", "list", "--json").json == {"queues": []}


def test_a_queue_is_held_back(cli, on, add):
    """Q7: nobody claims from a paused queue until it is resumed; a pause can end by itself."""
    add()
    assert cli("queues", "pause", "default", "other").out == "paused default\npaused other\n"
    assert on(lambda storage: storage.jobs.claim("w1")) is None
    assert cli("queues", "resume", "default").out == "resumed default\n"
    assert on(lambda storage: storage.jobs.claim("w1")) is not None
    cli("queues", "pause", "default", "--for", "30s")
    on(lambda storage: advance(storage, 31))
    assert [each["paused"] for each in cli("queues", "list", "--json").json["queues"]] == [False, True]


def test_running_jobs_of_a_queue_are_given_back(cli, on, add, job):
    """Q7: --cancel-running asks them to stop, for the queue's sake."""
    job_id = add()
    on(lambda storage: storage.jobs.claim("w1"))
    assert cli("queues", "pause", "default", "--cancel-running").status == 0
    assert job(job_id).cancel_requested == "queue_paused"


@pytest.mark.parametrize("words", [["pause"], ["resume"], ["pause", "a", "--for", "1s", "--until", "2999-01-01"]])
def test_which_queues_has_to_be_said(cli, words):
    """No name, or two ends of a pause, is a wrong command line."""
    assert cli("queues", *words).status == 2


def test_schedules_are_listed(cli, schedule):
    """Each schedule with its timing and its next tick."""
    schedule(cron="0 3 * * *", timezone="Europe/Berlin")
    schedule("often", every=300)
    header, nightly, often = cli("schedules", "list").out.splitlines()
    assert header.split() == ["SCHEDULE", "STATE", "WHEN", "KIND", "QUEUE", "NEXT", "LAST"]
    assert "0 3 * * * Europe/Berlin  report  slow" in nightly
    assert "every 5 min" in often
    document = cli("schedules", "list", "--json").json["schedules"][0]
    assert (document["name"], document["cron"], document["payload"]) == ("nightly", "0 3 * * *", {"all": True})
    assert isinstance(document["next_fire_at"], float)


def test_a_pause_that_has_ended_already(cli, add):
    """A moment in the past is no pause, and is refused before any queue is touched."""
    add()
    ran = cli("queues", "pause", "default", "--until", "2020-01-01T00:00+00:00")
    assert (ran.status, ran.out) == (2, "")
    assert "has passed" in ran.err
    assert cli("queues", "list", "--json").json["queues"][0]["paused"] is False


def test_a_schedule_runs_now(cli, on, schedule, job):
    """Its job is added once, and its own ticks stay as they were."""
    schedule(every=300)
    before = on(lambda storage: storage.schedules.get("nightly")).next_fire_at
    added = job(cli("schedules", "run", "nightly").out.strip())
    assert (added.kind, added.payload, added.queue) == ("report", {"all": True}, "slow")
    assert on(lambda storage: storage.schedules.get("nightly")).next_fire_at == before


def test_a_schedule_whose_job_is_still_active(cli, schedule):
    """Q8: with a unique key the active job's id comes back, with a note."""
    schedule(every=300, unique_key="k")
    first, second = cli("schedules", "run", "nightly"), cli("schedules", "run", "nightly", "--json")
    assert second.json == {"id": first.out.strip(), "deduped": True}
    assert "none was added" in second.err


def test_a_schedule_is_paused_and_resumed(cli, on, schedule):
    """A paused schedule does not fire, and makes up for nothing once it is resumed."""
    schedule(every=300)
    assert cli("schedules", "pause", "nightly").out == "paused nightly\n"
    assert cli("schedules", "list").out.splitlines()[1].split()[1] == "paused"
    on(lambda storage: advance(storage, 1000))
    assert on(lambda storage: storage.schedules.fire_due()).outcomes in ((), [])
    assert cli("schedules", "resume", "nightly").status == 0
    assert on(lambda storage: storage.schedules.fire_due()).outcomes in ((), [])


def test_schedules_that_are_not_there(cli):
    """An unknown name is a failure; none at all is a wrong command line; an empty list is neither."""
    assert cli("schedules", "run", "x").status == 1
    assert cli("schedules", "pause", "x").status == 1
    assert cli("schedules", "pause").status == 2
    assert cli("schedules", "list").status == 0
    assert cli("schedules", "list", "--json").json == {"schedules": []}


def test_a_workflow_is_cancelled_and_cleared(cli, add, job):
    """Q7: jobs still to come are cancelled as well, until the workflow is cleared."""
    first = add(workflow_id="w")
    assert cli("workflows", "cancel", "w").status == 2
    assert job(first).state is JobState.QUEUED
    assert cli("workflows", "cancel", "w", "--yes").out.startswith("cancelled 1 job")
    assert (job(first).state, job(add(workflow_id="w")).state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert cli("workflows", "cancel", "w", "--yes").out.startswith("no job of workflow w waits or runs; those to come")
    assert cli("workflows", "cancel", "w", "--yes", "--json").json == {"cancelled": 0}
    assert cli("workflows", "clear", "w").out == "cleared w\n"
    assert job(add(workflow_id="w")).state is JobState.QUEUED


def test_old_jobs_are_pruned(cli, on, add):
    """What finished long ago goes, after it was said and agreed to; the rest stays."""
    for _ in range(3):
        job_id = add()
        on(lambda storage, job_id=job_id: storage.jobs.cancel(job_id))
    on(lambda storage: advance(storage, 8 * 86400))
    recent = add()
    on(lambda storage: storage.jobs.cancel(recent))
    refused = cli("prune")
    assert refused.status == 2
    assert "more than 7 d ago, of the 4 jobs that are cancelled, dead, succeeded" in refused.err
    assert cli("prune", "--state", "dead", "--json").json == {"removed": 0}
    assert cli("prune", "--yes", "--json").json == {"removed": 3}
    assert [each["id"] for each in cli("jobs", "list", "--json").json["jobs"]] == [recent]


def test_the_environment_says_how_long_jobs_are_kept(cli, on, add, monkeypatch):
    """WORKERCTX_RETENTION stands for --older-than."""
    job_id = add()
    on(lambda storage: storage.jobs.cancel(job_id))
    on(lambda storage: advance(storage, 7200))
    monkeypatch.setenv("WORKERCTX_RETENTION", "1h")
    assert cli("prune").out == "removed 1 job\n"
