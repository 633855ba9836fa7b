"""Workflows: graphs of jobs that are enqueued in one go."""
# ruff: noqa: PLR2004 - tests compare with the numbers that they have just put in

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from workerctx.errors import InvalidRequest
from workerctx.queue.finish import CompleteLease
from workerctx.queue.model import JobState
from workerctx.queue.request import EnqueueRequest
from workerctx.queue.workflow import Workflow
from workerctx.testing.conformance.support import (
    kinds,
)

if TYPE_CHECKING:
    from workerctx.queue.base import Storage


@pytest.mark.anyio
class TestWorkflow:
    """Graphs built by name."""

    async def test_a_diamond(self, storage: Storage) -> None:
        """A workflow's jobs run in the order of its graph, each with its parents' outputs."""
        workflow = Workflow()
        workflow.add("join", EnqueueRequest("join"), after=["left", "right"])
        workflow.add("left", EnqueueRequest("left"), after=["top"])
        workflow.add("right", EnqueueRequest("right"), after=["top"])
        workflow.add("top", EnqueueRequest("top"))
        outcomes = await workflow.enqueue(storage.jobs)
        assert set(outcomes) == {"top", "left", "right", "join"}
        order: list[str] = []
        while claimed := await storage.jobs.claim_many("worker-1"):
            order.append("+".join(sorted(kinds(claimed))))
            for job, lease in claimed:
                assert job.workflow_id == workflow.id
                if job.kind == "join":
                    assert set(job.upstream_outputs.values()) == {"left", "right"}
                await storage.jobs.complete(lease.id, job.kind)
        assert order == ["top", "left+right", "join"]

    @pytest.mark.parametrize(
        "edges",
        [{"a": ["b"], "b": ["a"]}, {"a": ["a"]}, {"a": ["nobody"]}, {"a": [], "b": ["c"], "c": ["d"], "d": ["b"]}],
        ids=["circle", "self", "unknown", "late circle"],
    )
    async def test_impossible_graphs(self, storage: Storage, edges: dict[str, list[str]]) -> None:
        """Q13: circles and unknown names are refused before anything is written."""
        workflow = Workflow()
        for name, after in edges.items():
            workflow.add(name, EnqueueRequest("work"), after=after)
        with pytest.raises(InvalidRequest):
            await workflow.enqueue(storage.jobs)
        assert sum((await storage.jobs.counts()).values()) == 0

    async def test_a_long_chain_falls(self, storage: Storage) -> None:
        """The end of the first job reaches the last one of a long chain."""
        workflow = Workflow()
        names = [f"n{number}" for number in range(1000)]
        for before, name in zip([None, *names], names, strict=False):
            workflow.add(name, EnqueueRequest("work"), after=[before] if before else [])
        outcomes = await workflow.enqueue(storage.jobs)
        await storage.jobs.cancel(outcomes["n0"].id)
        assert (await storage.jobs.counts())[JobState.CANCELLED] == 1000

    async def test_a_large_graph(self, storage: Storage) -> None:
        """A graph of ten thousand jobs is enqueued in one go and runs to its end."""
        workflow = Workflow()
        workflow.add("top", EnqueueRequest("top"))
        middle = [workflow.add(f"m{n}", EnqueueRequest("middle"), after=["top"]) for n in range(9998)]
        workflow.add("end", EnqueueRequest("end"), after=middle)
        await workflow.enqueue(storage.jobs)
        done = 0
        while claimed := await storage.jobs.claim_many("worker-1", limit=1000):
            await storage.jobs.finish_many([CompleteLease.of(lease.id, 1) for _, lease in claimed])
            done += len(claimed)
        assert done == 10_000
        assert (await storage.jobs.counts())[JobState.SUCCEEDED] == 10_000
