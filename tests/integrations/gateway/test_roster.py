"""Workers of a gateway on the list of workers, and what operators send them."""

from __future__ import annotations

import math

import anyio
import pytest

from workerctx.queue import WorkerCommand
from workerctx.remote.frames import Drain, Heartbeat, HeartbeatAck
from workerctx.testing import wait_until


@pytest.fixture
def listed(eventually, storage):
    """Wait until exactly these workers are on the list."""

    async def listed(*ids):
        async def are_there():
            return {worker.id for worker in await storage.workers.list()} == set(ids)

        await eventually(are_there)

    return listed


async def test_the_workers_are_on_the_list_and_hear_commands(gateway, storage, peer_of, eventually):
    """W7: a remote worker is registered like any other, says how it fares, and is sent what operators want."""
    async with gateway:
        async with peer_of(gateway) as worker:
            await worker.register(identity="mailer", node="edge-1", concurrency=3, pid=7)

            async def listed():
                found = [(each.id, each.name, each.hostname, each.concurrency) for each in await storage.workers.list()]
                return found == [("w1", "mailer", "edge-1", 3)]

            await eventually(listed)
            await worker.say(Heartbeat((), 2, "paused"))

            async def told():
                (info,) = await storage.workers.list()
                return (info.state, info.in_flight) == ("paused", 2)

            await eventually(told)
            await storage.workers.send("w1", WorkerCommand.STOP)
            while (await worker.hear(HeartbeatAck)).commands != ("stop",):
                pass
            await worker.say(Drain("stop"))

        async def gone():
            return not await storage.workers.list()

        await eventually(gone)


async def test_operators_need_not_wait_for_a_slow_heartbeat(eventually, gateway_of, storage, peer_of, monkeypatch):
    """W7: with rare renewals of leases workers are on the list, and hear commands, as soon as with others."""
    monkeypatch.setattr("workerctx_starlette.gateway._engine._LIST", 0.05)
    async with gateway_of(heartbeat=90.0, lease_ttl=300.0, resume_window=300.0) as gateway, peer_of(gateway) as worker:
        await worker.register()
        await eventually(storage.workers.list)
        await storage.workers.send("w1", WorkerCommand.PAUSE)
        assert (await worker.hear(HeartbeatAck)).commands == ("pause",)


async def test_commands_wait_for_a_worker_between_two_gateways(gateway_of, storage, peer_of, listed):
    """W7: a worker whose connection broke stays on the list, and hears where it comes back what was sent meanwhile."""
    async with gateway_of() as first, gateway_of() as second:
        async with peer_of(first) as worker:
            await worker.register()
            await listed("w1")
        await storage.workers.send("w1", WorkerCommand.PAUSE)
        async with peer_of(first) as another:
            await another.register(worker_id="w2")
            await listed("w1", "w2")  # so the first one has been at its list since
            async with peer_of(second) as worker:
                await worker.register()
                assert (await worker.hear(HeartbeatAck)).commands == ("pause",)
                await worker.say(Drain("stop"))
            await another.say(Drain("stop"))
        await listed()


@pytest.fixture
def fetching(storage, monkeypatch):
    """Hold gateways that have fetched commands: the first event tells that one did, the second lets it go on."""
    fetched, go_on = anyio.Event(), anyio.Event()
    heartbeat = type(storage.workers).heartbeat

    async def held(self, worker_id, **how):
        commands = await heartbeat(self, worker_id, **how)
        if commands:
            fetched.set()
            await go_on.wait()
        return commands

    monkeypatch.setattr(type(storage.workers), "heartbeat", held)
    return fetched, go_on


async def leave_as_a_command_arrives(gateway, storage, peer_of, listed, fetched):
    """Connect a worker, and hang up when the gateway has fetched a command for it."""
    async with peer_of(gateway) as worker:
        await worker.register()
        await listed("w1")
        await storage.workers.send("w1", WorkerCommand.STOP)
        await fetched.wait()


async def test_a_worker_that_leaves_as_a_command_arrives_hears_it_later(gateway, storage, peer_of, listed, fetching):
    """W7: what was fetched for a worker that has left by then goes back to the store."""
    fetched, go_on = fetching
    async with gateway:
        await leave_as_a_command_arrives(gateway, storage, peer_of, listed, fetched)
        go_on.set()
        async with peer_of(gateway) as worker:
            await worker.register()
            assert (await worker.hear(HeartbeatAck)).commands == ("stop",)


async def test_a_command_that_nobody_will_hear_is_logged(
    gateway, storage, peer_of, listed, fetching, eventually, caplog
):
    """W7: a command that comes as its worker ends is named, as nobody will ever obey it."""
    fetched, go_on = fetching
    async with gateway:
        await leave_as_a_command_arrives(gateway, storage, peer_of, listed, fetched)
        await storage.workers.deregister("w1")
        go_on.set()
        await eventually(lambda: "worker w1 did not hear stop: it has left" in caplog.text)


async def test_a_command_that_a_hanging_worker_did_not_read_waits_for_it(gateway_of, storage, peer_of, listed):
    """W7: it was fetched for a connection that takes nothing any more, and is told where the worker comes back."""
    first, second = gateway_of(send_timeout=0.3), gateway_of()
    async with first, second:
        async with peer_of(first, buffer=0) as worker:
            await worker.register()
            await listed("w1")
            await storage.workers.send("w1", WorkerCommand.PAUSE)
            await worker_is_gone(first)
        async with peer_of(second) as worker:
            await worker.register()
            while (await worker.hear(HeartbeatAck)).commands != ("pause",):
                pass


async def test_a_command_is_told_once_if_the_worker_reads_again_at_the_end(gateway_of, storage, peer_of, listed):
    """W7: what goes back to the store is not among the last words as well."""
    gateway = gateway_of()
    async with gateway:
        async with peer_of(gateway, buffer=0) as worker:
            await worker.register()
            await listed("w1")
            session = gateway._door.engines["default"].sessions["w1"]
            await worker.say(Heartbeat())  # whose answer is being sent until the worker reads
            await wait_until(lambda: session.outbox.sending_since < math.inf)
            await storage.workers.send("w1", WorkerCommand.PAUSE)
            await wait_until(lambda: session.outbox._has_news())
            session.end(1012, "the gateway stops")
            await worker.ended()
            told = [word for frame in worker.heard if isinstance(frame, HeartbeatAck) for word in frame.commands]
        async with peer_of(gateway) as worker:
            await worker.register()
            while not (ack := await worker.hear(HeartbeatAck)).commands:
                pass
            assert [*told, *ack.commands] == ["pause"]


async def worker_is_gone(gateway):
    await wait_until(lambda: gateway.workers == 0, timeout=30)
