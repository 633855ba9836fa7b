"""Logs as JSON: one object a line, nothing lost."""

import json
import logging
import sys
from pathlib import Path

import pytest

from workerctx.cli.logs import JsonFormatter, LineFormatter
from workerctx.cli.reload import sentence
from workerctx.errors import StoreUnavailable


def record(message="done", *args, exc_info=None, **extra):
    made = logging.getLogger("app.mail").makeRecord(
        "app.mail", logging.WARNING, "mail.py", 7, message, args, exc_info, extra=extra
    )
    made.created = 1_900_000_000.25
    return made


def fields(made, process=None):
    line = JsonFormatter(process).format(made)
    assert "\n" not in line
    return json.loads(line)


def test_a_record_is_one_object():
    """Time, level, logger and message are there, and nothing else that nobody asked for."""
    assert fields(record("sent %d of %s", 3, "many\nlines")) == {
        "time": "2030-03-17T17:46:40.250000+00:00",
        "level": "warning",
        "logger": "app.mail",
        "message": "sent 3 of many\nlines",
    }


def test_a_supervised_process_says_which_it_is():
    """Each line of a process under a supervisor has its name."""
    assert fields(record(), "worker 2")["worker"] == "worker 2"


def test_exceptions_and_stacks_are_fields():
    """A traceback stays in its line."""
    try:
        raise KeyError("lost")
    except KeyError:
        made = record(exc_info=sys.exc_info())
    made.stack_info = "Stack (most recent call last):\n  here"
    found = fields(made)
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("KeyError: 'lost'")
    assert found["stack"].endswith("here")


def test_an_exception_that_is_none():
    """Libraries log the exception under way where there is none: then there is nothing to show."""
    made = record("closed", exc_info=(None, None, None))
    assert "exception" not in fields(made)
    assert LineFormatter("%(message)s").format(made) == "closed"


class TestLines:
    """What people read."""

    def test_a_store_that_cannot_be_reached_is_a_sentence(self, caplog):
        """Without the way through the driver, unless everything is logged."""
        made = record("could not %s", "reap", exc_info=self._raised(StoreUnavailable("nobody answers")))
        assert LineFormatter("%(levelname)s %(message)s").format(made) == "WARNING could not reap: nobody answers"
        assert made.exc_info is not None
        with caplog.at_level(logging.DEBUG, "workerctx"):
            assert "Traceback" in LineFormatter("%(message)s").format(made)

    def test_a_sentence_is_not_said_twice(self):
        """The message may have it already."""
        made = record("waits: nobody answers", exc_info=self._raised(StoreUnavailable("nobody answers")))
        assert LineFormatter("%(message)s").format(made) == "waits: nobody answers"

    def test_what_code_is_to_blame_for_has_its_traceback(self):
        """Where it happened is what its author has to know."""
        made = record("failed", exc_info=self._raised(KeyError("lost")))
        shown = LineFormatter("%(message)s").format(made)
        assert shown.startswith("failed\nTraceback")
        assert shown.endswith("KeyError: 'lost'")

    def _raised(self, error):
        try:
            raise error
        except type(error):
            return sys.exc_info()


def test_extra_fields_are_kept_whatever_they_are():
    """What JSON does not know is shown as Python shows it; a name that is taken gets a prefix."""
    found = fields(record(job="7", size=3, path=Path("a"), level="high", worker="mine"), "worker 1")
    assert (found["job"], found["size"], found["extra_level"], found["level"]) == ("7", 3, "high", "warning")
    assert "Path" in found["path"]
    assert (found["worker"], found["extra_worker"]) == ("worker 1", "mine")


@pytest.mark.parametrize(
    ("odd", "shown"),
    [
        (2**80, 2**80),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ("\udcff", "\\udcff"),
        ({"deep": "\udcff"}, "{'deep': '\\udcff'}"),
    ],
    ids=ascii,
)
def test_what_is_odd_is_shown(odd, shown):
    """No value breaks the line."""
    found = fields(record(odd=odd, plain="text"))
    assert (found["odd"], found["plain"]) == (shown, "text")


def test_what_refers_to_itself_is_shown():
    """A list that contains itself does not break the line either."""
    ring = []
    ring.append(ring)
    assert fields(record(ring=ring))["ring"] == "[[...]]"


def test_changed_files_are_named_from_the_folder_that_is_watched():
    """A few names are enough, and a file elsewhere has its whole path."""
    roots = [Path("/app"), Path("/lib")]
    assert sentence({"/app/a/b.py"}, roots) == "a/b.py changed"
    assert sentence({"/lib/x.py", "/other/y.py"}, roots) == "/other/y.py, x.py changed"
    assert sentence({f"/app/{n}.py" for n in range(5)}, roots) == "0.py, 1.py, 2.py and 2 more changed"
