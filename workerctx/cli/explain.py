"""Why a job is not running, or who runs it: pure functions from a job and its surroundings to sentences."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from workerctx.cli import fleet
from workerctx.cli.output import duration, local_time, number_of
from workerctx.queue import JobState, transitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workerctx.cli.scene import Scene
    from workerctx.queue import QueuedJob, WorkerInfo


class Why(StrEnum):
    """What keeps a job from running, or became of it."""

    NOT_DUE = "not_due"
    """It was put off until later."""
    RETRY = "retry"
    """A run failed and the next one is not due yet."""
    BLOCKED = "blocked"
    """It waits for other jobs."""
    QUEUE_PAUSED = "queue_paused"
    """Nobody claims from its queue."""
    NO_WORKER = "no_worker"
    """No worker lives."""
    QUEUE_UNSERVED = "queue_unserved"
    """No live worker serves its queue."""
    UNKNOWN_KIND = "unknown_kind"
    """No live worker that serves its queue knows its kind."""
    MISSING_LABELS = "missing_labels"
    """No live worker that could run it has the labels that it requires."""
    WORKERS_NOT_CLAIMING = "workers_not_claiming"
    """The workers that could take it are paused or are stopping."""
    SLOTS_BUSY = "slots_busy"
    """The workers that could take it have no free slot."""
    LIMITED = "limited"
    """The workers that could take it run as many jobs of its kind as they may."""
    BEHIND_OTHERS = "behind_others"
    """Other jobs of its queue go before it."""
    LATE = "late"
    """It had to begin earlier, and will be cancelled as expired."""
    TOO_MANY_DELIVERIES = "too_many_deliveries"
    """It was lost with its worker so often that the next claim makes it dead."""
    READY = "ready"
    """Nothing holds it back."""
    RUNNING = "running"
    """A worker holds it."""
    STOPPING = "stopping"
    """It runs, and was asked to stop."""
    WORKER_GONE = "worker_gone"
    """It runs on a worker that was not heard of lately."""
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    """It failed for good."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """It was cancelled because it had not begun in time."""
    WORKFLOW_CANCELLED = "workflow_cancelled"
    """It was cancelled with its workflow."""


class Reason(msgspec.Struct, frozen=True):
    """One thing that keeps a job where it is.

    Attributes:
        code: For programs.
        text: A sentence for people.
        remedy: What would change it, if anything could.
    """

    code: Why
    text: str
    remedy: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is.

    Attributes:
        headline: Which job it is, and its state.
        reasons: The first is what it waits for now; those after it would hold it back next.
    """

    id: str
    kind: str
    queue: str
    state: JobState
    headline: str
    reasons: tuple[Reason, ...]


def explain(job: QueuedJob, scene: Scene) -> Explanation:
    """Return why a job is not running, or which worker runs it, and what would change that."""
    reasons: tuple[Reason, ...]
    match job.state:
        case JobState.SUCCEEDED | JobState.DEAD | JobState.CANCELLED:
            reasons = (_ended(job),)
        case JobState.RUNNING:
            reasons = tuple(_running(job, scene))
        case JobState.BLOCKED:
            reasons = (_blocked(job, scene), *_hindrances(job, scene))
        case JobState.SCHEDULED:
            reasons = (_not_due(job, scene), *_hindrances(job, scene))
        case JobState.QUEUED:
            reasons = tuple(_unfit(job, scene)) or tuple(_hindrances(job, scene)) or tuple(_contended(job, scene))
    return Explanation(
        id=job.id,
        kind=job.kind,
        queue=job.queue,
        state=job.state,
        headline=f"job {job.id} of kind {job.kind!r} in queue {job.queue!r} is {job.state}",
        reasons=reasons,
    )


def _ended(job: QueuedJob) -> Reason:
    when = local_time(job.finished_at)
    if job.state is JobState.SUCCEEDED:
        return Reason(Why.SUCCEEDED, f"it succeeded at {when}, in run {job.attempt}")
    retry = f"`workerctx jobs retry {job.id}` puts it back"
    error = job.error
    if job.state is JobState.DEAD:
        return Reason(
            Why.DEAD, f"it failed for good at {when}, in run {job.attempt} of {job.max_attempts}: {error}", retry
        )
    reason = "no reason is recorded" if error is None else error.message
    if reason == transitions.BY_USER:
        return Reason(Why.CANCELLED, f"a user cancelled it at {when}", retry)
    if reason == transitions.EXPIRED:
        text = f"it was cancelled at {when}, as it had to begin before {local_time(job.expires_at)}"
        return Reason(Why.EXPIRED, text, f"{retry}, without that limit")
    if job.workflow_id is not None and reason == transitions.workflow_cancelled(job.workflow_id):
        text = f"it was cancelled at {when} with its workflow {job.workflow_id!r}"
        clear = f"`workerctx workflows clear {job.workflow_id}` lets the workflow accept jobs again"
        return Reason(Why.WORKFLOW_CANCELLED, text, f"{retry}; {clear}")
    return Reason(Why.CANCELLED, f"it was cancelled at {when}: {reason}", retry)


def _running(job: QueuedJob, scene: Scene) -> Iterator[Reason]:
    claimed = scene.now if job.claimed_at is None else job.claimed_at
    worker = next((each for each in scene.workers if each.id == job.worker_id), None)
    who = f"worker {job.worker_id}" if worker is None else f"worker {fleet.name_of(worker)}"
    since = f"since {local_time(claimed)}, for {duration(scene.now - claimed)}"
    run = f"run {max(job.attempt, 1)} of {job.max_attempts}"
    if worker is None or not fleet.is_live(worker, scene.now):
        heard = (
            "is not registered"
            if worker is None
            else f"was last heard of {duration(scene.now - worker.heartbeat_at)} ago"
        )
        yield Reason(
            Why.WORKER_GONE,
            f"{who} holds it {since}, {run}, but {heard}",
            "when its lease runs out, any live worker takes it away and it is tried again",
        )
    else:
        limit = "" if job.timeout is None else f"; a run may take {duration(job.timeout)}"
        yield Reason(Why.RUNNING, f"{who} holds it {since}, {run}{limit}", f"`workerctx jobs cancel {job.id}` stops it")
    if job.cancel_requested is not None:
        yield Reason(
            Why.STOPPING,
            f"it was asked to stop, reason: {job.cancel_requested}",
            "its worker hears of it at its next heartbeat, and the run ends when its handler lets go",
        )


def _blocked(job: QueuedJob, scene: Scene) -> Reason:
    count = len(job.depends_on)
    if scene.parents:
        named = ", ".join(f"{each.id} ({each.kind}, {each.state})" for each in scene.parents[:5])
        more = "" if len(scene.parents) <= 5 else ", and others"  # noqa: PLR2004 - as many as were named
        text = f"it waits for {len(scene.parents)} of the {number_of(count, 'job')} that it depends on: {named}{more}"
    else:
        text = f"it waits for some of the {number_of(count, 'job')} that it depends on"
    ends = "have succeeded" if job.on_parent_failure == "cancel" else "have ended, however"
    first = f"; see `workerctx jobs explain {scene.parents[0].id}`" if scene.parents else ""
    return Reason(Why.BLOCKED, text, f"it becomes ready when they {ends}{first}")


def _not_due(job: QueuedJob, scene: Scene) -> Reason:
    due = f"due at {local_time(job.run_at)}, in {duration(job.run_at - scene.now)}"
    if job.attempt > 0 and job.error is not None:
        return Reason(
            Why.RETRY,
            f"run {job.attempt + 1} of {job.max_attempts} is {due}; the last failure, in run "
            f"{job.error_history[-1].attempt}, was {job.error}",
            "it is tried again by itself then",
        )
    return Reason(Why.NOT_DUE, f"it is {due}", "it becomes claimable by itself then")


def _unfit(job: QueuedJob, scene: Scene) -> Iterator[Reason]:
    """Yield what makes the next claim end the job instead of running it."""
    if job.expires_at is not None and job.expires_at <= scene.now:
        yield Reason(
            Why.LATE,
            f"it had to begin before {local_time(job.expires_at)}; the next worker that looks cancels it as expired",
            f"once it is cancelled, `workerctx jobs retry {job.id}` puts it back without that limit",
        )
    elif transitions.is_poison(job):
        yield Reason(
            Why.TOO_MANY_DELIVERIES,
            f"it was claimed {job.deliveries} times and its workers vanished with it; the next claim makes it dead",
            f"once it is dead, `workerctx jobs retry {job.id}` puts it back",
        )


def _hindrances(job: QueuedJob, scene: Scene) -> Iterator[Reason]:
    """Yield what keeps every worker from claiming the job, now or once it is due."""
    if scene.queue is not None and scene.queue.paused:
        until = scene.queue.paused_until
        end = "until somebody resumes it" if until is None else f"until {local_time(until)}"
        yield Reason(
            Why.QUEUE_PAUSED,
            f"its queue {job.queue!r} is paused {end}",
            f"`workerctx queues resume {job.queue}` lets workers claim from it",
        )
    reason = _no_taker(job, scene.live)
    if reason is not None:
        yield reason


def _no_taker(job: QueuedJob, live: Sequence[WorkerInfo]) -> Reason | None:
    """Return why no live worker would claim the job; None if one would."""
    start = "start one with `workerctx worker MODULE:OBJECT"
    if not live:
        return Reason(Why.NO_WORKER, "no worker is running", f"{start}`")
    serving = [worker for worker in live if job.queue in worker.queues]
    if not serving:
        served = ", ".join(sorted({queue for worker in live for queue in worker.queues}))
        text = f"no live worker serves its queue {job.queue!r}; {served} are served"
        return Reason(Why.QUEUE_UNSERVED, text, f"{start} --queue {job.queue}`")
    knowing = [worker for worker in serving if fleet.knows(worker, job.kind)]
    if not knowing:
        text = f"no live worker that serves queue {job.queue!r} knows the kind {job.kind!r}: {fleet.names_of(serving)}"
        return Reason(Why.UNKNOWN_KIND, text, f"start a worker whose registry has a handler for {job.kind!r}")
    fitting = [worker for worker in knowing if not fleet.missing_labels(worker, job)]
    if not fitting:
        nearest = min(knowing, key=lambda worker: len(fleet.missing_labels(worker, job)))
        missing = ", ".join(fleet.missing_labels(nearest, job))
        return Reason(
            Why.MISSING_LABELS,
            f"it requires the labels {', '.join(job.required_labels)}, and no live worker that knows its kind has all "
            f"of them; worker {nearest.id} comes nearest and lacks {missing}",
            f"start a worker with WORKERCTX_LABELS={','.join(job.required_labels)}",
        )
    if not any(worker.state == "running" for worker in fitting):
        states = ", ".join(f"{worker.id} is {worker.state}" for worker in fitting)
        paused = [worker for worker in fitting if worker.state == "paused"]
        remedy = f"`workerctx workers resume {paused[0].id}`" if paused else "start another worker"
        return Reason(Why.WORKERS_NOT_CLAIMING, f"no worker that could take it is claiming jobs: {states}", remedy)
    return None


def _contended(job: QueuedJob, scene: Scene) -> Iterator[Reason]:
    """Yield what a job waits for that its workers can take: a slot, or its turn."""
    takers = [worker for worker in scene.live if worker.state == "running" and fleet.could_take(worker, job)]
    free = [worker for worker in takers if not fleet.is_busy(worker)]
    if not free:
        slots = sum(worker.concurrency for worker in takers)
        yield Reason(
            Why.SLOTS_BUSY,
            f"all {number_of(slots, 'slot')} of the workers that could take it are busy: {fleet.names_of(takers)}",
            "it gets a slot when one is free; more workers, or more --concurrency, let it start earlier",
        )
    if scene.ahead:
        yield Reason(
            Why.BEHIND_OTHERS,
            f"at least {number_of(scene.ahead, 'job')} of its queue that they could take too "
            "have a higher priority or were due earlier",
            "its turn comes after theirs",
        )
    open_to_it = [worker for worker in free if not _is_limited(worker, job, scene)]
    if free and not open_to_it:
        yield _limited(free, job, scene)
    if open_to_it and not scene.ahead:
        yield Reason(
            Why.READY,
            f"nothing holds it back: worker {open_to_it[0].id} has a free slot and takes it at its next claim",
        )


def _is_limited(worker: WorkerInfo, job: QueuedJob, scene: Scene) -> bool:
    """Whether a worker runs so many jobs of a kind that it takes no more, or perhaps none with the job's key."""
    running = scene.of_its_kind.get(worker.id, 0)
    return running >= min(each.get(job.kind, running + 1) for each in (worker.kind_limits, worker.key_limits))


def _limited(workers: Sequence[WorkerInfo], job: QueuedJob, scene: Scene) -> Reason:
    worker = workers[0]
    running = number_of(scene.of_its_kind.get(worker.id, 0), "job")
    if job.kind in worker.kind_limits and job.kind not in worker.key_limits:
        return Reason(
            Why.LIMITED,
            f"the workers that could take it run as many jobs of the kind {job.kind!r} as they may, for example "
            f"worker {worker.id} {running} of at most {worker.kind_limits[job.kind]}",
            "it starts when one of them has ended; WORKERCTX_CONCURRENCY_PER_KIND allows more",
        )
    return Reason(
        Why.LIMITED,
        f"the workers that could take it run at most {number_of(worker.key_limits[job.kind], 'job')} of the kind "
        f"{job.kind!r} for each key at once, and worker {worker.id} runs {running} of that kind",
        "if one of those has its key, it starts when that one has ended",
    )
