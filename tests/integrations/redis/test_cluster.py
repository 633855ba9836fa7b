"""A namespace lives in one slot, so everything holds in a Cluster too; and Sentinel says who is the primary."""

from __future__ import annotations

import gc
from contextlib import ExitStack, suppress
from uuid import uuid4

import anyio
import pytest

from tests.integrations.redis.server import RedisServer
from workerctx.errors import StoreUnavailable
from workerctx.queue import EnqueueRequest, JobState, connect
from workerctx.testing.conformance import (  # noqa: F401 - a part of the suite
    TestBulk,
    TestDependencies,
    TestNamespaces,
    TestWakeups,
    storage,
)
from workerctx.testing.polling import wait_until

PATIENCE = 40.0
NODES = 3
SLOTS = 16384


@pytest.fixture(scope="module")
def nodes():
    """The servers of a cluster of three primaries."""
    with ExitStack() as stack:
        options = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", "appendonly": "yes"}
        nodes = [stack.enter_context(RedisServer(dict(options))) for _ in range(NODES)]
        share = SLOTS // NODES + 1
        for number, node in enumerate(nodes):
            slots = range(number * share, min((number + 1) * share, SLOTS))
            node.command("cluster", "addslots", *map(str, slots))
            node.command("cluster", "set-config-epoch", str(number + 1))
        for node in nodes[1:]:
            nodes[0].command("cluster", "meet", "127.0.0.1", str(node.port))

        def is_whole():
            infos = [node.command("cluster", "info") for node in nodes]
            return all("cluster_state:ok" in info and f"cluster_known_nodes:{NODES}" in info for info in infos)

        anyio.run(wait_until, is_whole, PATIENCE)
        yield nodes


@pytest.fixture(scope="module")
def cluster(nodes):
    """The URL of the cluster."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.fixture
def storage_factory(cluster):
    """Return a maker of Storage objects that share one part of the cluster."""
    prefix = uuid4().hex
    return lambda namespace="default": connect(f"{cluster}?prefix={prefix}&namespace={namespace}")


async def test_namespaces_spread_over_the_nodes(cluster):
    """Q19: many namespaces live on all the nodes, each of them in one slot."""
    prefix = uuid4().hex
    for number in range(6):
        async with connect(f"{cluster}?prefix={prefix}&namespace=n{number}") as opened:
            await opened.jobs.enqueue_bulk([EnqueueRequest("work") for _ in range(1200)])
            assert (await opened.jobs.counts())[JobState.QUEUED] == 1200
            assert len(await opened.jobs.claim_many("worker")) == 100


@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
def test_a_slot_on_its_way_to_another_node(cluster, nodes):
    """Q2: while its slot moves a namespace is unavailable, at neither node a new one; then it is there, whole."""
    prefix = uuid4().hex

    async def use():
        async with connect(f"{cluster}?prefix={prefix}") as opened:
            await opened.jobs.enqueue(EnqueueRequest("work"))
            (here,) = [node for node in nodes if node.command("--raw", "keys", f"*{prefix}*")]
            there = next(node for node in nodes if node is not here)
            slot = here.command("cluster", "keyslot", f"{{{prefix}:default}}")
            there.command("cluster", "setslot", slot, "importing", here.command("cluster", "myid"))
            here.command("cluster", "setslot", slot, "migrating", there.command("cluster", "myid"))
            keys = here.command("--raw", "cluster", "getkeysinslot", slot, "100").split()
            for some in (keys[:2], keys[2:]):
                with pytest.raises(StoreUnavailable, match="is moving the slot"):
                    await opened.jobs.enqueue(EnqueueRequest("work"))
                assert here.command("migrate", "127.0.0.1", str(there.port), "", "0", "5000", "keys", *some) == "OK"
            for node in nodes:
                node.command("cluster", "setslot", slot, "node", there.command("cluster", "myid"))

            async def is_served():
                with suppress(StoreUnavailable):
                    return await opened.jobs.enqueue(EnqueueRequest("work", unique_key="once"))

            await wait_until(is_served, PATIENCE)
            assert (await opened.jobs.counts())[JobState.QUEUED] == 2

    anyio.run(use)
    # The driver leaves streams open when it gives a call up; here, and not in some other test.
    gc.collect()


@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")
def test_a_node_that_dies_and_comes_back(cluster, nodes):
    """W4: without its node a namespace is unavailable, and it serves again once the node does."""
    prefix = uuid4().hex

    async def use():
        async with connect(f"{cluster}?prefix={prefix}&timeout=3") as opened:
            job_id = (await opened.jobs.enqueue(EnqueueRequest("work"))).id
            (node,) = [node for node in nodes if node.command("--raw", "keys", f"*{prefix}*")]
            node.kill()
            with pytest.raises(StoreUnavailable):
                await opened.jobs.counts()
            node.start()

            async def is_served():
                with suppress(StoreUnavailable):
                    return (await opened.jobs.get(job_id)).state is JobState.QUEUED

            await wait_until(is_served, PATIENCE)

    anyio.run(use)
    # The driver leaves streams open when it asks a dead node about the cluster; here, and not in some other test.
    gc.collect()


async def test_a_user_with_the_least_rights(cluster, nodes, acl_of_the_docs):
    """The documented rights and those for a Cluster are enough there."""
    for node in nodes:
        assert node.command("acl", "setuser", *acl_of_the_docs, "+cluster|slots") == "OK"
    async with connect(cluster.replace("://", "://jobs:secret@")) as opened, opened.jobs.wakeups() as wakeups:
        await opened.jobs.enqueue_bulk([EnqueueRequest("work") for _ in range(1200)])
        assert await wakeups.wait(10)


def test_sentinel_leads_to_the_new_primary(acl_of_the_docs):
    """W4: after a failover calls go to the server that sentinel names now, and what was replicated is there."""

    async def use(url):
        async with connect(url) as opened:
            job_id = (await opened.jobs.enqueue(EnqueueRequest("work"))).id
            await wait_until(lambda: replica.command("exists", "{workerctx:default}:jobs") == "1", PATIENCE)
            primary.kill()

            async def is_served():
                with suppress(StoreUnavailable):
                    return (await opened.jobs.claim("worker")) is not None

            await wait_until(is_served, PATIENCE)
            assert "role:master" in replica.command("info", "replication")
            assert (await opened.jobs.get(job_id)).state is JobState.RUNNING

    with RedisServer() as primary, RedisServer() as replica, RedisServer(is_sentinel=True) as sentinel:
        for server in (primary, replica):
            assert server.command("acl", "setuser", *acl_of_the_docs, "+role") == "OK"
        replica.command("replicaof", "127.0.0.1", str(primary.port))
        sentinel.command("sentinel", "monitor", "main", "127.0.0.1", str(primary.port), "1")
        sentinel.command("sentinel", "set", "main", "down-after-milliseconds", "500")

        def is_ready():
            return "num-slaves\n1" in sentinel.command("--raw", "sentinel", "master", "main")

        anyio.run(wait_until, is_ready, PATIENCE)
        anyio.run(use, f"redis+sentinel://jobs:secret@127.0.0.1:{sentinel.port}/main?timeout=3")
