"""When what died is started again."""

import signal

import pytest

from workerctx.cli.restarts import HEALTHY, Restarts
from workerctx.cli.supervisor import cause_of, exit_status


def test_the_delay_doubles_up_to_a_bound():
    """Each death that follows soon doubles the delay of its place, and of no other."""
    restarts = Restarts(0.5, bearable=1000)
    delays = [restarts.delay_after_death(1, 0.0, now) for now in range(9)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.delay_after_death(2, 0.0, 9) == 0.5


def test_a_healthy_while_resets_the_delay():
    """L2: what has lived for a while is not held responsible for its forerunners."""
    restarts = Restarts(1.0, bearable=1000)
    assert [restarts.delay_after_death(1, lived, 0.0) for lived in (0, 0, HEALTHY, 0)] == [1, 2, 1, 2]


@pytest.mark.parametrize(("first", "delays"), [(0.0, [0, 0, 0]), (100.0, [100, 100, 100])])
def test_odd_first_delays(first, delays):
    """No delay stays none, and one that is longer than the bound stays as it is."""
    restarts = Restarts(first, bearable=10)
    assert [restarts.delay_after_death(1, 0.0, now) for now in range(3)] == delays


def test_deaths_are_bounded_over_all_places():
    """L2: restarts have a bounded intensity; one death too many within the window is refused."""
    restarts = Restarts(0.0, bearable=3, within=60.0)
    assert [restarts.delay_after_death(place, 0.0, 10.0) for place in (1, 2, 3)] == [0, 0, 0]
    assert restarts.delay_after_death(4, 0.0, 70.0) is None


def test_old_deaths_are_forgotten():
    """L2: the bound is on the deaths within a window, however many there were before."""
    restarts = Restarts(0.0, bearable=1, within=60.0)
    assert [restarts.delay_after_death(1, 0.0, now) for now in (0.0, 61.0, 122.0)] == [0, 0, 0]
    assert restarts.delay_after_death(1, 0.0, 123.0) is None


@pytest.mark.parametrize(
    ("statuses", "status"), [([0, 0], 0), ([0, 3], 1), ([-9, 0], 1), ([1, 70, 0], 70), ([70, 2, 1], 2), ([], 0)]
)
def test_the_status_of_all_is_that_of_the_worst(statuses, status):
    """Misuse comes before a hard exit, and that before any other failure."""
    assert exit_status(statuses) == status


def test_an_end_is_said_in_words():
    """Signals have their names."""
    assert cause_of(3) == "with status 3"
    assert cause_of(-signal.SIGKILL) == "of SIGKILL"
    assert cause_of(-12345) == "of signal 12345"
