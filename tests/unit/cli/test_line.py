"""The line between a supervisor and a worker process, both ends in this one."""

import os
import queue
import socket
import time

import pytest

from workerctx.cli.health import Health, Verdict
from workerctx.cli.line import VARIABLE, LowerEnd, UpperEnd
from workerctx.errors import CommandError
from workerctx.lifecycle.control import OWN_GRACE

FINE = Verdict(ok=True, reason="running")


class Target:
    """Something that can be stopped."""

    def __init__(self):
        self.stops = queue.SimpleQueue()

    def stop(self, reason=None, *, grace=OWN_GRACE):
        self.stops.put((reason, grace))


def health(reason):
    return Health(FINE, FINE, Verdict(ok=False, reason=reason))


@pytest.fixture
def ends(monkeypatch):
    """Both ends, the lower one attached, and what it stops."""
    up, down = socket.socketpair()
    monkeypatch.setenv(VARIABLE, f"3:{down.detach()}")
    lower = LowerEnd.from_environment()
    assert VARIABLE not in os.environ
    target = Target()
    lower.attach(target, lambda: health("fresh"))
    upper = UpperEnd(up)
    yield upper, lower, target
    upper.close()
    assert target.stops.get(timeout=30) == ("the supervisor is gone", OWN_GRACE)


def test_orders_arrive_in_order(ends):
    """A stop has the worker's own grace, or none."""
    upper, lower, target = ends
    assert lower.name == "worker 3"
    upper.stop("enough", at_once=False)
    upper.stop("enough again", at_once=True)
    assert target.stops.get(timeout=30) == ("enough", OWN_GRACE)
    assert target.stops.get(timeout=30) == ("enough again", 0.0)


def test_a_question_is_answered(ends):
    """The answer is the worker's health when it was asked."""
    upper, *_ = ends
    assert not upper.answered
    for _ in range(3):
        upper.ask()
        assert upper.answer(time.monotonic() + 30) == health("fresh")
    assert upper.answered


def test_a_late_answer_is_not_taken_for_a_fresh_one():
    """Who was silent and answers at last is asked again."""
    up, down = socket.socketpair()
    with up, down, down.makefile("rb") as asked:
        upper = UpperEnd(up)
        upper.ask()
        upper.ask()  # nothing more is sent while an answer is owed
        assert upper.answer(0.0) is None
        assert asked.readline() == b'{"type":"ask"}\n'
        down.sendall(b'{"livez":{"ok":true,"reason":"x"},"readyz":{"ok":true,"reason":"x"},')
        assert upper.answer(0.0) is None
        down.sendall(b'"startupz":{"ok":true,"reason":"late"}}\n')
        upper.ask()
        assert asked.readline() == b'{"type":"ask"}\n'
        assert upper.answer(0.0) is None


def test_nobody_answers_where_nobody_is():
    """A worker that is gone is asked and told in vain, without harm."""
    up, down = socket.socketpair()
    with up:
        down.close()
        upper = UpperEnd(up)
        upper.ask()
        upper.stop("enough", at_once=False)
        assert upper.answer(time.monotonic() + 30) is None


@pytest.mark.parametrize("told", ["yes", "1", "1:-1", "1:2:3"])
def test_a_variable_that_is_not_from_a_supervisor(monkeypatch, told):
    """Somebody else's value is refused with a sentence; without the variable there is no supervisor."""
    monkeypatch.setenv(VARIABLE, told)
    with pytest.raises(CommandError, match="unset it"):
        LowerEnd.from_environment()
    assert LowerEnd.from_environment() is None
