"""Adding jobs from the command line."""

import io
import sys

import pytest

from workerctx.queue import JobState

APP = """
from pathlib import Path
from workerctx import JobRegistry

jobs = JobRegistry()

@jobs.register(queue="images", max_attempts=2, priority=4, aliases=["shrink"])
async def resize(path: Path, width: int = 128) -> None: ...
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """An application whose registry takes its store from the environment."""
    (tmp_path / "my_app.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "my_app:jobs"
    sys.modules.pop("my_app", None)


def test_the_id_is_printed(cli, job):
    """What is printed is the id and nothing else, for a script to keep."""
    ran = cli("enqueue", "resize", '{"path": "a.jpg"}')
    assert (ran.status, ran.err) == (0, "")
    added = job(ran.out.strip())
    assert (added.kind, added.payload, added.queue, added.state) == (
        "resize",
        {"path": "a.jpg"},
        "default",
        JobState.QUEUED,
    )


def test_arguments_that_no_call_could_name(cli, app, job, tmp_path):
    """A payload holds arguments by name, those among them that are taken by position only."""
    with (tmp_path / "my_app.py").open("a", encoding="utf-8") as source:
        source.write("\n@jobs.register\nasync def turn(self: int, /, by: int = 90) -> None: ...\n")
    ran = cli("enqueue", "turn", '{"self": 1}', "--app", app)
    assert (ran.status, ran.err) == (0, "")
    assert job(ran.out.strip()).payload == {"self": 1}
    ran = cli("enqueue", "turn", '{"self": 1, "to": 2}', "--app", app)
    assert (ran.status, ran.out) == (2, "")
    assert "to" in ran.err


@pytest.mark.parametrize("depth", [900, 100_000])
def test_json_too_deep_to_read(cli, depth):
    """Q13: a payload that cannot be read is a sentence, however it cannot."""
    ran = cli("enqueue", "resize", "[" * depth)
    assert ran.status == 2
    assert "the payload is not JSON" in ran.err


def test_every_option_arrives(cli, add, job):
    """Each option is the field of the job that it names."""
    parent = add()
    ran = cli(
        *("enqueue", "mail", "[1, 2]", "-q", "slow", "--delay", "2h", "--priority", "-3", "--unique-key", "k"),
        *("--max-attempts", "7", "--tenant", "acme", "--workflow", "w", "--header", "a=b=c", "--header", "d="),
        *("--label", "gpu", "--label", "big", "--depends-on", parent, "--timeout", "1.5m"),
        *("--expires-at", "2999-01-01T00:00+00:00", "--json"),
    )
    assert ran.json["deduped"] is False
    added = job(ran.json["id"])
    assert added.payload == [1, 2]
    assert (added.queue, added.priority, added.unique_key, added.max_attempts) == ("slow", -3, "k", 7)
    assert (added.tenant_id, added.workflow_id, added.timeout) == ("acme", "w", 90.0)
    assert added.headers == {"a": "b=c", "d": ""}
    assert (sorted(added.required_labels), added.depends_on) == (["big", "gpu"], (parent,))
    assert added.expires_at == 32472144000.0
    assert round(added.run_at - added.created_at) == 7200


def test_a_moment_instead_of_a_delay(cli, job):
    """--at is a time with or without an offset; both --at and --delay are too much."""
    ran = cli("enqueue", "mail", "--at", "2999-01-01T00:00+00:00")
    assert job(ran.out.strip()).run_at == 32472144000.0
    assert job(cli("enqueue", "mail", "--at", "2999-01-01T00:00").out.strip()).state is JobState.SCHEDULED
    assert cli("enqueue", "mail", "--at", "2999-01-01T00:00", "--delay", "5").status == 2


def test_a_payload_from_standard_input(cli, job, monkeypatch):
    """- reads the payload from standard input; no payload is no arguments; a number may be negative."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 1}'))
    assert job(cli("enqueue", "mail", "-").out.strip()).payload == {"a": 1}
    assert job(cli("enqueue", "mail").out.strip()).payload == {}
    assert job(cli("enqueue", "mail", "-5").out.strip()).payload == -5


def test_a_unique_key_that_is_taken(cli):
    """Q8: the id of the active job comes back, and a note says that none was added."""
    first = cli("enqueue", "mail", "--unique-key", "k")
    second = cli("enqueue", "mail", "--unique-key", "k")
    assert (second.status, second.out) == (0, first.out)
    assert "none was added" in second.err


def test_the_environment_has_defaults(cli, job, monkeypatch):
    """WORKERCTX_QUEUE and its like stand for options that are not given."""
    monkeypatch.setenv("WORKERCTX_QUEUE", "mails")
    monkeypatch.setenv("WORKERCTX_TENANT", "acme")
    added = job(cli("enqueue", "mail").out.strip())
    assert (added.queue, added.tenant_id) == ("mails", "acme")
    assert job(cli("enqueue", "mail", "--queue", "other").out.strip()).queue == "other"


@pytest.mark.parametrize(
    "words",
    [
        ["{"],
        ['"\udcff"'],
        ["--delay", "soon"],
        ["--delay", "-1"],
        ["--at", "tomorrow"],
        ["--header", "none"],
        ["--header", "=x"],
        ["--max-attempts", "0"],
        ["--priority", "1.5"],
        ["--queue", ""],
        ["--depends-on", "nobody"],
    ],
)
def test_bad_input_is_refused(cli, words):
    """Q13: nothing is added, one sentence says why, and the status is 2."""
    ran = cli("enqueue", "mail", *words)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("workerctx: ")
    assert len(ran.err.splitlines()) == 1
    assert cli("jobs", "list", "--json").json["jobs"] == []


def test_the_handler_checks_the_payload(cli, app, job):
    """With --app the defaults of the handler hold, an alias is its kind, and options go before them."""
    added = job(cli("enqueue", "shrink", '{"path": "a.jpg"}', "--app", app, "--max-attempts", "9").out.strip())
    assert (added.kind, added.queue, added.priority, added.max_attempts) == ("resize", "images", 4, 9)
    assert added.payload == {"path": "a.jpg"}


@pytest.mark.parametrize(
    ("kind", "payload", "says"),
    [
        ("resize", '{"path": "a", "width": "x"}', "$.width"),
        ("resize", "{}", "path"),
        ("resize", None, "path"),
        ("resize", '{"path": "a", "self": 1}', "self"),
        ("resize", "[1]", "JSON object"),
        ("other", "{}", "it has resize, shrink"),
    ],
)
def test_a_payload_that_does_not_fit(cli, app, kind, payload, says):
    """Q13: what does not fit the signature, or a kind without handler, is refused before anything is written."""
    ran = cli("enqueue", kind, *([] if payload is None else [payload]), "--app", app)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert cli("jobs", "list", "--json").json["jobs"] == []


def test_the_application_is_not_imported_for_nothing(cli, app, monkeypatch):
    """With a URL at hand WORKERCTX_APP is not even looked at; with nothing else it names the store."""
    monkeypatch.setenv("WORKERCTX_APP", app)
    assert cli("enqueue", "anything").status == 0
    assert cli("jobs", "list").status == 0
    assert "my_app" not in sys.modules
