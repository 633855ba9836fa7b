"""Why a job is not running, in sentences and codes."""

import re

import pytest

from workerctx.queue import Constant, JobState
from workerctx.testing import advance


def codes(reasons):
    return [reason["code"] for reason in reasons]


async def claim(storage, worker_id="w1", **options):
    pair = await storage.jobs.claim(worker_id, **options)
    assert pair is not None
    return pair[1].id


def test_a_job_that_is_not_due(add, worker, explain):
    """A delayed job is due later, and says when."""
    worker()
    (reason,) = explain(add(delay=300))
    assert reason["code"] == "not_due"
    assert "in 4 min 59 s" in reason["text"] or "in 5 min" in reason["text"]


def test_what_comes_after_the_delay_is_said_too(add, explain):
    """A delayed job that nobody would take names both."""
    assert codes(explain(add(delay=300))) == ["not_due", "no_worker"]


def test_a_job_between_two_runs(on, add, worker, explain):
    """A failed run is named with its error, and the number of the next."""
    worker()
    job_id = add(max_attempts=3, retry=Constant(base=60, jitter=False))

    async def fail(storage):
        await storage.jobs.fail(await claim(storage), "no disk left")

    on(fail)
    (reason,) = explain(job_id)
    assert reason["code"] == "retry"
    assert "run 2 of 3 is due at" in reason["text"]
    assert "no disk left" in reason["text"]


def test_a_job_that_waits_for_others(on, add, worker, explain):
    """A blocked job names the parents that have not finished, and not those that have."""
    worker()
    done, waiting = add("first"), add("second")

    async def complete(storage):
        await storage.jobs.complete(await claim(storage, kinds=["first"]))

    on(complete)
    (reason,) = explain(add("third", depends_on=[done, waiting]))
    assert reason["code"] == "blocked"
    assert "it waits for 1 of the 2 jobs" in reason["text"]
    assert f"{waiting} (second, queued)" in reason["text"]
    assert done not in reason["text"]
    assert waiting in reason["remedy"]


def test_a_paused_queue(on, cli, add, worker, explain):
    """A paused queue is the reason, with the time at which it resumes."""
    worker()
    job_id = add()
    assert cli("queues", "pause", "default").status == 0
    (reason,) = explain(job_id)
    assert reason["code"] == "queue_paused"
    assert "until somebody resumes it" in reason["text"]
    assert reason["remedy"].startswith("`workerctx queues resume default`")
    cli("queues", "pause", "default", "--until", "2999-01-01T00:00+00:00")
    assert "until 2" in explain(job_id)[0]["text"]
    cli("queues", "resume", "default")
    assert codes(explain(job_id)) == ["ready"]


def test_no_worker_at_all(add, explain):
    """Without a worker the remedy is to start one."""
    (reason,) = explain(add())
    assert reason["code"] == "no_worker"
    assert "workerctx worker" in reason["remedy"]


def test_a_worker_that_fell_silent_does_not_count(on, add, worker, explain):
    """A worker that was not heard of for a while would not take the job."""
    worker()
    job_id = add()
    assert codes(explain(job_id)) == ["ready"]
    on(lambda storage: advance(storage, 60))
    assert codes(explain(job_id)) == ["no_worker"]


def test_a_queue_that_nobody_serves(add, worker, explain):
    """The queues that are served are named."""
    worker(queues=("mail", "default"))
    (reason,) = explain(add(queue="images"))
    assert reason["code"] == "queue_unserved"
    assert "default, mail are served" in reason["text"]
    assert "--queue images" in reason["remedy"]


def test_a_kind_that_no_worker_knows(add, worker, explain):
    """Q6: a job of a kind that no live worker knows waits for one that does, and says so."""
    worker("a", kinds=("mail",))
    worker("b", kinds=("resize",), queues=("images",))
    (reason,) = explain(add("resize"))
    assert reason["code"] == "unknown_kind"
    assert "'resize'" in reason["text"]


def test_labels_that_no_worker_has(add, worker, explain):
    """Q6: the labels that the nearest worker lacks are named."""
    worker("a", labels=("gpu",))
    worker("b")
    (reason,) = explain(add(required_labels=["gpu", "big"]))
    assert reason["code"] == "missing_labels"
    assert "worker a comes nearest and lacks big" in reason["text"]


def test_workers_that_claim_nothing(add, worker, explain):
    """A paused worker is named, and how to resume it."""
    worker("a", state="paused")
    (reason,) = explain(add())
    assert reason["code"] == "workers_not_claiming"
    assert reason["remedy"] == "`workerctx workers resume a`"


def test_all_slots_busy_with_jobs_that_go_first(add, worker, explain):
    """Q5: busy slots are counted, and the jobs that have a higher priority."""
    worker(concurrency=2, in_flight=2)
    job_id = add()
    add(priority=5)
    add(priority=9)
    add(priority=-1)
    slots, turn = explain(job_id)
    assert (slots["code"], turn["code"]) == ("slots_busy", "behind_others")
    assert "all 2 slots" in slots["text"]
    assert "at least 2 jobs" in turn["text"]


def test_a_kind_at_its_limit(on, add, worker, explain):
    """W1: a worker with free slots that may run no more jobs of the kind is no help; another kind is ready."""
    worker(concurrency=9, in_flight=1, kind_limits={"resize": 1})
    add()
    on(lambda storage: storage.jobs.claim("w1"))
    (reason,) = explain(add())
    assert reason["code"] == "limited"
    assert "worker w1 1 job of at most 1" in reason["text"]
    assert codes(explain(add("other", priority=1))) == ["ready"]
    worker("w2")
    assert codes(explain(add())) == ["behind_others"]


def test_a_kind_with_keys(on, add, worker, explain):
    """W1: a job whose key may be busy says so; without any run of its kind it is ready."""
    worker(concurrency=9, in_flight=1, key_limits={"resize": 1})
    job_id = add()
    assert codes(explain(job_id)) == ["ready"]
    on(lambda storage: storage.jobs.claim("w1"))
    (reason,) = explain(add())
    assert reason["code"] == "limited"
    assert "at most 1 job of the kind 'resize' for each key" in reason["text"]


def test_a_job_that_nothing_holds_back(add, worker, explain):
    """A job that a free worker could take is about to run."""
    worker()
    assert codes(explain(add())) == ["ready"]


def test_a_job_that_came_too_late(on, add, worker, explain):
    """Q18: a job whose time to begin has passed waits only to be cancelled, and then says that it was."""
    worker()
    job_id = add(expires_at=on(lambda storage: storage.now()) + 5)
    on(lambda storage: advance(storage, 10))
    assert codes(explain(job_id)) in (["late"], ["expired"])  # a store may cancel it before a worker looks
    on(lambda storage: storage.jobs.claim("w1"))
    (reason,) = explain(job_id)
    assert reason["code"] == "expired"
    assert "had to begin before" in reason["text"]


def test_a_job_that_loses_its_workers(on, add, worker, explain):
    """Q3: a job that was claimed too often says that it will be dead, and then that it is."""
    job_id = add(max_attempts=1)

    async def lose(storage):
        await storage.jobs.claim_many("w1", lease_ttl=1.0, began=False)
        await advance(storage, 2)
        await storage.jobs.reap_expired_leases()

    for _ in range(4):
        on(lose)
    worker()
    assert codes(explain(job_id)) == ["too_many_deliveries"]
    on(lambda storage: storage.jobs.claim("w1"))
    (reason,) = explain(job_id)
    assert reason["code"] == "dead"
    assert "jobs retry" in reason["remedy"]


def test_a_running_job(on, add, worker, explain, cli):
    """The worker is named, since when it holds the job, and then that it was told to stop."""
    worker()
    job_id = add(max_attempts=4, timeout=90)
    on(claim)
    (reason,) = explain(job_id)
    assert reason["code"] == "running"
    assert "worker w1 (process 7 on box) holds it since" in reason["text"]
    assert "run 1 of 4" in reason["text"]
    assert "1 min 30 s" in reason["text"]
    assert cli("jobs", "cancel", job_id).out == f"told to stop {job_id}\n"
    assert codes(explain(job_id)) == ["running", "stopping"]


@pytest.mark.parametrize("registered", [True, False])
def test_a_running_job_whose_worker_is_gone(on, add, worker, explain, registered):
    """A worker that was not heard of, or that nobody knows, is said to be gone."""
    if registered:
        worker()
    job_id = add()
    on(lambda storage: claim(storage, lease_ttl=1000))
    on(lambda storage: advance(storage, 100))
    (reason,) = explain(job_id)
    assert reason["code"] == "worker_gone"
    assert re.search(r"was last heard of 1 min [45]\d s ago" if registered else "is not registered", reason["text"])


def test_jobs_that_ended(on, add, explain):
    """Success, a user's cancel and the end of a workflow are told apart."""
    succeeded = add()

    async def complete(storage):
        await storage.jobs.complete(await claim(storage))

    on(complete)
    assert codes(explain(succeeded)) == ["succeeded"]
    cancelled, in_workflow = add(), add(workflow_id="import")
    child = add(depends_on=[cancelled])
    on(lambda storage: storage.jobs.cancel(cancelled))
    on(lambda storage: storage.jobs.cancel_workflow("import"))
    (reason,) = explain(cancelled)
    assert (reason["code"], reason["text"].startswith("a user cancelled it")) == ("cancelled", True)
    (reason,) = explain(child)
    assert (reason["code"], cancelled in reason["text"]) == ("cancelled", True)
    (reason,) = explain(in_workflow)
    assert reason["code"] == "workflow_cancelled"
    assert "workflows clear import" in reason["remedy"]


def test_people_get_sentences(cli, add):
    """Without --json there is a headline, and each reason with what would change it."""
    job_id = add()
    ran = cli("jobs", "explain", job_id)
    assert ran.status == 0
    assert ran.out.splitlines() == [
        f"job {job_id} of kind 'resize' in queue 'default' is {JobState.QUEUED}",
        "- no worker is running",
        "  start one with `workerctx worker MODULE:OBJECT`",
    ]


def test_a_job_that_is_not_there(cli):
    """An unknown id is one sentence and status 1, with --json as well."""
    ran = cli("jobs", "explain", "nobody", "--json")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("workerctx: no job 'nobody'")
