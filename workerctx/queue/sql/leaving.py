"""Taking jobs and schedules out of the live tables into the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from workerctx.queue.cargo import BATCH_BYTES, HISTORY, Batch, check_target
from workerctx.queue.ids import new_id
from workerctx.queue.model import JobState
from workerctx.queue.sql import steering
from workerctx.queue.sql.rows import Group, JobRow, json_text, to_job
from workerctx.queue.sql.schedules import read_schedule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from workerctx.queue.model import QueuedJob
    from workerctx.queue.schedule import Schedule
    from workerctx.queue.sql.transaction import Transaction


class _JobRecord(msgspec.Struct, array_like=True, tag="job"):
    """A job in the outbox."""

    row: JobRow
    queue: str
    kind: str
    labels: tuple[str, ...]


class _ScheduleRecord(msgspec.Struct, array_like=True, tag="schedule"):
    """A schedule in the outbox."""

    name: str
    enabled: int
    definition: str
    next_fire_at: int | None
    last_fired_at: int | None


_Record: TypeAlias = _JobRecord | _ScheduleRecord
_decode = msgspec.json.Decoder(_Record).decode


def take_out(tx: Transaction, target: str, limit: int, *, history: bool) -> Batch | None:
    """Fill the outbox if it is empty, and return what is in it.

    Raises:
        MoveRefused: That is for another store.
    """
    tx.shut_out(["moving"])
    found = outbox(tx)
    if found is not None:
        return check_target(found, target)
    rows = _leaving(tx, limit, history=history)
    schedules = [tx.row(tx.sql.hold_schedule, tx.ns, row[0]) for row in tx.rows(tx.sql.list_schedules, tx.ns)]
    records: list[_Record] = [_as_record(tx, row) for row in rows]
    records += [_ScheduleRecord(*row) for row in schedules if row is not None]
    if not records:
        return None
    batch_id = new_id()
    lines = [(tx.ns, batch_id, place, target, json_text(record)) for place, record in enumerate(records)]
    tx.cursor.executemany(tx.sql.put_out, lines)
    if rows:
        steering.remove(tx, [row.seq for row in rows])
        # Who waits here for the end of a job learns that it is gone.
        tx.finished = True
    for row in schedules:
        if row is not None:
            tx.run(tx.sql.delete_schedule, tx.ns, row[0])
    return _batch(batch_id, target, records)


def outbox(tx: Transaction) -> Batch | None:
    """Return the oldest batch that has not arrived as far as is known here."""
    batch_id = tx.value(tx.sql.oldest_batch, tx.ns)
    if batch_id is None:
        return None
    lines = tx.rows(tx.sql.outbox, tx.ns, batch_id)
    return _batch(batch_id, lines[0][0], [_decode(record) for _, record in lines])


def _batch(batch_id: str, target: str, records: Iterable[_Record]) -> Batch:
    jobs: list[QueuedJob] = []
    schedules: list[Schedule] = []
    for record in records:
        match record:
            case _JobRecord():
                jobs.append(to_job(record.row, Group(record.queue, record.kind, frozenset(record.labels))))
            case _ScheduleRecord():
                times = (record.next_fire_at, record.last_fired_at)
                schedules.append(read_schedule((record.name, record.enabled, record.definition, *times)))
    return Batch(id=batch_id, target=target, jobs=jobs, schedules=schedules)


def _as_record(tx: Transaction, row: JobRow) -> _JobRecord:
    group = tx.group(row.grp)
    return _JobRecord(row, group.queue, group.kind, tuple(sorted(group.labels)))


def _leaving(tx: Transaction, limit: int, *, history: bool) -> list[JobRow]:
    """Return about as many rows as wanted that can go, each with those it cannot be parted from."""
    staying: set[int] = set()
    leaving: set[int] = set()
    families: list[set[int]] = []
    size = 0
    for page in _pages(tx, limit, history=history):
        grown = _families(tx, [seq for seq in page if seq not in leaving and seq not in staying])
        sizes: dict[int, int] = {}
        for seq, is_running, length in tx.array(tx.sql.weighed, tx.numbers([seq for each in grown for seq in each])):
            sizes[seq] = length
            if is_running:
                staying.add(seq)
        for family in grown:
            if len(leaving) >= limit or size >= BATCH_BYTES:
                return _hold(tx, families)
            if family & staying:
                staying |= family
            else:
                families.append(family - leaving)
                leaving |= family
                size += sum(sizes[seq] for seq in family if seq in sizes)
    return _hold(tx, families)


def _pages(tx: Transaction, limit: int, *, history: bool) -> Iterator[Sequence[int]]:
    """Yield jobs that could go; those that are blocked are found by those that they wait for."""
    tx.groups.refresh(tx)
    groups = tx.numbers(tx.groups.by_number)
    sources: list[tuple[str, tuple[object, ...]]] = [(tx.sql.waiting, (groups,)), (tx.sql.later, (groups,))]
    states = (JobState.DEAD, *sorted(HISTORY)) if history else (JobState.DEAD,)
    sources += [(tx.sql.ended, (tx.ns, state.value)) for state in states]
    for statement, parameters in sources:
        offset = 0
        while page := tx.array(statement, *parameters, limit, offset):
            yield page
            offset += len(page)


def _families(tx: Transaction, seqs: Sequence[int]) -> list[set[int]]:
    """Return rows together with those they depend on and the unfinished ones that depend on them, and theirs."""
    family_of = {seq: {seq} for seq in seqs}
    frontier = list(seqs)
    while frontier:
        fresh: list[int] = []
        for pair in _ties(tx, frontier):
            for seq in pair:
                if seq not in family_of:
                    family_of[seq] = {seq}
                    fresh.append(seq)
            _marry(family_of, pair)
        frontier = fresh
    return _apart(family_of)


def _marry(family_of: dict[int, set[int]], pair: tuple[int, int]) -> None:
    """Make one family of those of two members."""
    smaller, larger = sorted((family_of[seq] for seq in pair), key=len)
    if larger is not smaller:
        larger |= smaller
        family_of.update(dict.fromkeys(smaller, larger))


def _apart(family_of: dict[int, set[int]]) -> list[set[int]]:
    return list({id(family): family for family in family_of.values()}.values())


def _ties(tx: Transaction, seqs: Collection[int]) -> list[tuple[int, int]]:
    if tx.value(tx.sql.any_ties) is None:
        return []
    numbers = tx.numbers(seqs)
    return [(one, other) for tie in (tx.sql.live_children, tx.sql.parents) for one, other in tx.array(tie, numbers)]


def _hold(tx: Transaction, families: Sequence[set[int]]) -> list[JobRow]:
    """Keep everybody else from the rows, and return those of the families that have stayed as they were."""
    family_of = {seq: family for family in families for seq in family}
    if not family_of:
        return []
    rows = tx.job_rows(sorted(family_of))
    changed = {seq for seq in family_of if seq not in rows or rows[seq].state is JobState.RUNNING}
    for pair in _ties(tx, rows):
        if family_of.keys() >= set(pair):
            _marry(family_of, pair)
        else:
            changed.update(pair)
    whole = [family for family in _apart(family_of) if not family & changed]
    return [rows[seq] for seq in sorted(seq for family in whole for seq in family)]
