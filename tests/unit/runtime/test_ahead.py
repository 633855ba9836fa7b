"""The claim that a wake-up begins, and what becomes of it when wishes change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx import connect
from workerctx.queue import ClaimRequest, EnqueueRequest
from workerctx.runtime.ahead import ClaimAhead

if TYPE_CHECKING:
    from workerctx.queue import Claimed


class Claim:
    """A prepared claim that remembers whether it was dropped."""

    dropped = False

    def drop(self) -> None:
        self.dropped = True


class Store:
    """Prepares claims, and has wake-ups begin them."""

    def __init__(self, *, helps: bool = True) -> None:
        self.helps = helps
        self.prepared: list[ClaimRequest] = []
        self.claims: list[Claim] = []

    def prepare_claim(self, request: ClaimRequest) -> Claim | None:
        self.prepared.append(request)
        return Claim() if self.helps else None

    def then(self, claim: Claim) -> None:
        self.claims.append(claim)


def wish(**changes: object) -> ClaimRequest:
    """What a worker wants."""
    return ClaimRequest(**{"worker_id": "worker", "kinds": ("a",), "limit": 10, **changes})


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def ahead(store):
    return ClaimAhead(store)


@pytest.mark.parametrize("now", [wish(), wish(limit=100), wish(began=False)])
def test_what_was_prepared_serves_who_wants_as_much_or_more(store, ahead, now):
    """It is taken with the request that it was made of, once."""
    ahead.prepare(wish(), store)
    ready = ahead.take(now)
    assert (ready.claim, ready.request) == (store.claims[0], wish())
    assert ahead.take(now).claim is None
    assert not store.claims[0].dropped


@pytest.mark.parametrize("now", [wish(limit=9), wish(kinds=("b",)), wish(labels=("x",)), wish(kind_limits={"a": 1})])
def test_what_was_prepared_is_dropped_when_something_else_is_wanted(store, ahead, now):
    """It might get what nobody can take."""
    ahead.prepare(wish(), store)
    ready = ahead.take(now)
    assert (ready.claim, ready.request) == (None, now)
    assert store.claims[0].dropped


def test_only_the_last_one_counts(store, ahead):
    """The one before is dropped, and so is the last one in the end."""
    ahead.prepare(wish(), store)
    ahead.prepare(wish(), store)
    assert [claim.dropped for claim in store.claims] == [True, False]
    ahead.drop()
    ahead.drop()
    assert [claim.dropped for claim in store.claims] == [True, True]


def test_few_jobs_are_claimed_ahead(store, ahead):
    """Whoever gets all of them looks again, and a crowd is shared with others who were woken."""
    ahead.prepare(wish(limit=1000), store)
    assert store.prepared[0].limit < 50


def test_a_store_that_would_gain_nothing(ahead):
    """Claims are made after the wake-up."""
    store = Store(helps=False)
    ahead = ClaimAhead(store)
    ahead.prepare(wish(), store)
    assert ahead.take(wish()).claim is None
    assert store.claims == []


@pytest.fixture
def url(tmp_path):
    """A store whose wake-ups begin claims."""
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def elsewhere(jobs, url):
    """The same store, as another process has it."""

    @jobs.register(name="work")
    async def work() -> None:
        pass

    async with connect(url) as storage:
        yield storage.jobs


async def test_an_idle_worker_claims_by_its_wakeups(elsewhere, serving, claims_begun):
    """Whoever hears of a job begins the claim; each job runs once."""
    async with serving():
        for _ in range(20):
            job = await elsewhere.enqueue(EnqueueRequest("work", {}))
            await elsewhere.result(job.id, timeout=10)
            assert (await elsewhere.get(job.id)).deliveries == 1
    assert any(claims_begun)


async def test_a_paused_worker_keeps_nothing(elsewhere, serving, eventually):
    """What comes while it is paused is there for others, although its wake-ups might have claimed it."""
    taken: list[Claimed] = []

    async def take() -> bool:
        taken.extend(await elsewhere.claim_many("other"))
        return bool(taken)

    async with serving() as loop:
        job = await elsewhere.enqueue(EnqueueRequest("work", {}))
        await elsewhere.result(job.id, timeout=10)
        loop.context.pause()
        job = await elsewhere.enqueue(EnqueueRequest("work", {}))
        await eventually(take)
        ((claimed, lease),) = taken
        assert (claimed.id, claimed.attempt) == (job.id, 1)
        await elsewhere.complete(lease.id)
