"""What the Storage objects of one memory namespace share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from workerctx.queue.ids import new_id
from workerctx.queue.memory.clock import Calendar
from workerctx.queue.memory.graph import Graph
from workerctx.queue.memory.limits import Bucket
from workerctx.queue.memory.table import Table
from workerctx.queue.memory.wakeups import Alarms
from workerctx.queue.schedule import Schedule
from workerctx.queue.workers import WorkerCommand, WorkerInfo

if TYPE_CHECKING:
    from workerctx.queue.cargo import Batch


@attrs.define(eq=False)
class Store:
    """The jobs, limits, workers and schedules of one namespace, and what leaves and enters it in a move.

    Threads: everything but the alarms is used under the table's lock.
    """

    calendar: Calendar = attrs.field(factory=Calendar)
    table: Table = attrs.field(factory=Table, init=False)
    graph: Graph = attrs.field(init=False)
    alarms: Alarms = attrs.field(factory=Alarms, init=False)
    buckets: dict[str, Bucket] = attrs.field(factory=dict[str, Bucket], init=False)
    workers: dict[str, WorkerInfo] = attrs.field(factory=dict[str, WorkerInfo], init=False)
    commands: dict[str, list[WorkerCommand]] = attrs.field(factory=dict[str, list[WorkerCommand]], init=False)
    schedules: dict[str, Schedule] = attrs.field(factory=dict[str, Schedule], init=False)
    id: str = attrs.field(factory=new_id, init=False)
    outbox: Batch | None = attrs.field(default=None, init=False)
    received: set[str] = attrs.field(factory=set[str], init=False)

    def __attrs_post_init__(self) -> None:
        self.graph = Graph(self.table)
