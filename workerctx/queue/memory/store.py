"""What the Storage objects of one memory namespace share."""

from __future__ import annotations

import attrs

from workerctx.queue.memory.clock import Calendar
from workerctx.queue.memory.graph import Graph
from workerctx.queue.memory.limits import Bucket
from workerctx.queue.memory.table import Table
from workerctx.queue.memory.wakeups import Alarms
from workerctx.queue.schedule import Schedule
from workerctx.queue.workers import WorkerCommand, WorkerInfo


@attrs.define(eq=False)
class Store:
    """The jobs, limits, workers and schedules of one namespace.

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

    def __attrs_post_init__(self) -> None:
        self.graph = Graph(self.table)
