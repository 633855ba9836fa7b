"""Which worker processes there are, and the words that can be sent to them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class WorkerCommand(StrEnum):
    """A remote command; a worker obeys it at its next heartbeat."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A registered worker.

    Attributes:
        id: Unique among live workers.
        name: For people.
        host_id: Time-ordered id of the process boot.
        hostname: The machine.
        pid: The process.
        queues: What it serves, in order.
        labels: What it offers.
        kinds: What it can run; None for everything.
        concurrency: Its slots.
        kind_limits: How many jobs of these kinds it runs at once; the others are not limited.
        key_limits: How many jobs of each key of these kinds it runs at once.
        state: What it last said of itself, such as ``running`` or ``paused``.
        in_flight: Jobs it runs.
        started_at: Store time of registration, set by the store.
        heartbeat_at: Store time of the last heartbeat, set by the store.
    """

    id: str
    name: str = ""
    host_id: str = ""
    hostname: str = ""
    pid: int = 0
    queues: tuple[str, ...] = ("default",)
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None
    concurrency: int = 1
    kind_limits: dict[str, int] = {}
    key_limits: dict[str, int] = {}
    state: str = "running"
    in_flight: int = 0
    started_at: float = 0.0
    heartbeat_at: float = 0.0
