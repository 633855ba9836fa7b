"""How a registry behaves in a test: jobs run at once, or when the test says so."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import msgspec
from attrs import define

from workerctx.queue import new_id
from workerctx.queue.retry import DEFAULT_RETRY
from workerctx.service import DataMap
from workerctx.testing.inline import InlineJobs
from workerctx.testing.journal import NotingJobs, NotingStorage
from workerctx.testing.view import seen_through

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from workerctx.queue import EnqueueOutcome, EnqueueRequest, JobQueue, RetryPolicy, Storage
    from workerctx.service import JobRegistry, TenantScopeProvider


@contextmanager
def manual(jobs: JobRegistry) -> Generator[JobRegistry]:
    """Let jobs wait in a private store in memory until the test runs them.

    ``with manual(jobs):``. The store lasts as long as the block, however often the registry is opened and closed in
    it. `run_pending` runs what is due, `assert_enqueued` looks at what was enqueued. A ``connection=`` for a
    transaction of the caller's is left out of account: the job is there at once. So is the jitter of retries, which
    wait their whole delay: else a test would find now and then that one has fallen due already.

    Args:
        jobs: Not open yet; open it inside, ``async with jobs:``, where your code does not.

    Raises:
        RegistryInUse: The registry is open.
    """
    with _private(jobs, _ManualJobs):
        yield jobs


@contextmanager
def inline(
    jobs: JobRegistry,
    *,
    data: Mapping[type[Any], object] | None = None,
    tenant_scope: TenantScopeProvider | None = None,
) -> Generator[JobRegistry]:
    """Let jobs run at once, in the task that enqueues them.

    ``with inline(jobs):``. A job goes through a private store in memory, decoding, layers and injection as in a
    worker; its delay is left out of account. `enqueue` returns when it has ended, and raises what the handler raised,
    `Snooze` and its kind included; that job is dead then, and not tried again. Jobs that depend on others run as soon
    as those have ended.
    `assert_enqueued` works here, too.

    Args:
        jobs: Not open yet; open it inside, ``async with jobs:``, where your code does not.
        data: What handlers can have injected, by type; as in `WorkerLoop`.
        tenant_scope: As in `WorkerLoop`.

    Raises:
        RegistryInUse: The registry is open.
    """
    given = DataMap(data or {})
    with _private(jobs, lambda real, noted: InlineJobs(real, noted, jobs, given, tenant_scope)):
        yield jobs


@define(eq=False)
class _ManualJobs(NotingJobs):
    """Jobs whose retries fall due when they are expected."""

    async def store(self, requests: Sequence[EnqueueRequest]) -> Sequence[EnqueueOutcome]:
        """Add jobs to the store, with retries that have no jitter."""
        return await super().store([request.with_options(retry=_steady(request.retry)) for request in requests])


def _steady(policy: RetryPolicy | None) -> RetryPolicy:
    return msgspec.structs.replace(DEFAULT_RETRY if policy is None else policy, jitter=False)


@contextmanager
def _private(jobs: JobRegistry, queue: Callable[[JobQueue, list[EnqueueRequest]], NotingJobs]) -> Generator[None]:
    noted: list[EnqueueRequest] = []

    def glass(real: Storage) -> Storage:
        return cast("Storage", NotingStorage(real, queue(real.jobs, noted)))

    with jobs.override(f"memory://{new_id()}"), seen_through(jobs, glass, noted):
        yield
