"""Processes that want to write to a SQLite file at the same time stand in line."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from workerctx.queue.sqlite import line as line_module
from workerctx.queue.sqlite.connection import Database
from workerctx.queue.sqlite.line import PLACES, WritersLine
from workerctx.queue.sqlite.meeting import meeting_place, short_name

SOMEBODY = """
import fcntl, sys
with open(sys.argv[1], "r+") as line:
    fcntl.lockf(line, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("standing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path):
    """A file with tables."""
    database = Database(tmp_path / "jobs.db")
    database.prepare()
    return database


@contextmanager
def somebody_at(database, place):
    """Have another process stand at a place; yield what makes it leave."""
    WritersLine(database.path).close()
    file = meeting_place() / f"{short_name(database.path, '')}.line"
    arguments = [sys.executable, "-S", "-c", SOMEBODY, str(file), str(place)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"standing\n"
        yield other.stdin.close
        if not other.stdin.closed:
            other.stdin.close()


@pytest.mark.parametrize("place", [0, PLACES - 1])
def test_who_came_first_goes_first(database, place):
    """Nobody passes somebody in front, wherever he stands; once he has left it goes on at once."""
    line = WritersLine(database.path)
    arrived = threading.Event()

    def stand():
        line.move_up()
        arrived.set()
        line.leave()

    with somebody_at(database, place) as leave:
        thread = threading.Thread(target=stand)
        thread.start()
        assert not arrived.wait(0.05)
        leave()
        assert arrived.wait(5)
        thread.join()
    line.close()


def test_somebody_who_does_not_move_is_passed_in_the_end(database, monkeypatch):
    """W4: a process that was stopped while it stood in line keeps nobody from writing."""
    monkeypatch.setattr(line_module, "_PATIENCE", 0.01)
    holder, waiter = database.connect(), database.connect()
    holder.begin()

    with somebody_at(database, 0):
        begun = threading.Event()

        def write():
            waiter.begin()
            begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        assert not begun.wait(0.05)
        holder.rollback()
        assert begun.wait(5)
        thread.join()
    waiter.rollback()
    for connection in (holder, waiter):
        connection.close()


def test_without_a_place_to_meet_there_is_no_line(database, monkeypatch):
    """Where processes cannot meet, each asks SQLite by itself."""
    monkeypatch.setattr(line_module, "meeting_place", lambda: None)
    holder, waiter = database.connect(), database.connect()
    holder.begin()
    thread = threading.Thread(target=waiter.begin)
    thread.start()
    holder.rollback()
    thread.join(5)
    assert waiter.in_transaction
    waiter.rollback()
    for connection in (holder, waiter):
        connection.close()
