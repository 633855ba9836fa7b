"""Which store a command opens, and what happens when it cannot."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from workerctx.cli import app
from workerctx.queue import connect
from workerctx.queue.sqlite.schema import MIGRATIONS

CURRENT = len(MIGRATIONS)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("named_app", None)


def test_a_store_has_to_be_named(command):
    """Without any hint the sentence names the four ways to give one."""
    ran = command("jobs", "list")
    assert (ran.status, ran.out) == (2, "")
    for way in ("--storage", "--app", "WORKERCTX_URL", "WORKERCTX_APP"):
        assert way in ran.err


def test_the_registry_names_its_store(command, here, monkeypatch):
    """--app opens the store of the registry, whatever WORKERCTX_URL says; --storage goes before both."""
    (here / "named_app.py").write_text('from workerctx import JobRegistry\njobs = JobRegistry("sqlite:///own.db")\n')
    monkeypatch.setenv("WORKERCTX_URL", "sqlite:///env.db")
    assert command("migrate", "--app", "named_app:jobs").status == 0
    assert (here / "own.db").exists()
    assert command("migrate", "--app", "named_app:jobs", "--storage", "sqlite:///flag.db").status == 0
    assert (here / "flag.db").exists()
    assert command("migrate").status == 0
    assert (here / "env.db").exists()
    monkeypatch.delenv("WORKERCTX_URL")
    monkeypatch.setenv("WORKERCTX_APP", "named_app:jobs")
    assert command("jobs", "list").status == 0


@pytest.mark.parametrize(
    "target", ["nowhere:jobs", "./named_app.py:jobs", "named_app", "named_app:other", "named_app:number"]
)
def test_an_application_that_is_not_there(command, here, target):
    """A module or object that is missing, or is no registry, is a sentence and status 2."""
    (here / "named_app.py").write_text("number = 1\n")
    ran = command("jobs", "list", "--app", target)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("workerctx: ")


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://here/there", "sqlite:///jobs.db?nope=1", "memory://", "memory://new"]
)
def test_a_url_that_names_no_store(command, here, url):
    """Q13: an unknown scheme or option is a sentence and status 2; so is memory that nobody shares."""
    ran = command("jobs", "list", "--storage", url)
    assert (ran.status, ran.out) == (2, "")
    assert len(ran.err.splitlines()) == 1


def test_memory_that_only_the_command_would_see(command):
    """Q2: a job is not said to be added to memory that ends with the command; memory that is shared here is used."""
    ran = command("enqueue", "mail", "--storage", "memory://of-the-command")
    assert (ran.status, ran.out) == (2, "")
    assert "only in this process" in ran.err
    connect("memory://of-the-test")
    assert command("enqueue", "mail", "--storage", "memory://of-the-test").status == 0


def test_output_that_cannot_be_written(here):
    """A full disk under the output, or none at all, is a sentence or nothing, and no traceback."""
    program = f"{sys.executable} -m workerctx migrate --plan --storage sqlite:///jobs.db"
    full = subprocess.run(["sh", "-c", f"{program} > /dev/full"], capture_output=True, text=True, check=False)
    assert (full.returncode, full.stderr) == (1, "workerctx: [Errno 28] No space left on device\n")
    none = subprocess.run(["sh", "-c", f"{program} >&-"], capture_output=True, text=True, check=False)
    assert (none.returncode, none.stderr) == (0, "")


def test_looking_makes_no_file(command, here):
    """A misspelt path is not taken for an empty store; adding a job makes the file and says so."""
    ran = command("jobs", "list", "--storage", "sqlite:///typo.db")
    assert ran.status == 2
    assert "there is no file typo.db" in ran.err
    refused = command("enqueue", "mail", "{", "--storage", "sqlite:///typo.db")
    assert refused.status == 2
    assert not (here / "typo.db").exists()
    ran = command("enqueue", "mail", "--storage", "sqlite:///new.db")
    assert (ran.status, ran.err) == (0, "made new.db\n")


def test_looking_makes_no_tables(command, here):
    """A database of somebody else is left as it is: the wrong name of one is not taken for an empty store."""
    with closing(sqlite3.connect(here / "other.db")) as connection:
        connection.execute("CREATE TABLE x (y)")
    for words in (["jobs", "list", "--storage"], ["move", "--dry-run", "--from"]):
        ran = command(*words, "sqlite:///other.db")
        assert ran.status == 2
        assert "other.db has no tables of workerctx: check the URL" in ran.err
    with closing(sqlite3.connect(here / "other.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("x",)]


def test_a_store_that_cannot_be_opened(command, here):
    """A file that is no database is a failure, said in one sentence."""
    (here / "text.db").write_text("this is not a database, " * 100)
    for words in (["jobs", "list"], ["migrate"]):
        ran = command(*words, "--storage", "sqlite:///text.db")
        assert (ran.status, ran.out) == (1, "")
        assert "not an SQLite database" in ran.err or "not a database" in ran.err


def test_migrate_says_the_version(command, here):
    """Q15: the tables are made once; a second time nothing changes, and it is said."""
    ran = command("migrate", "--storage", "sqlite:///jobs.db")
    assert (ran.status, ran.out) == (0, f"jobs.db has got tables of schema version {CURRENT}\n")
    ran = command("migrate", "--storage", "sqlite:///jobs.db")
    assert (ran.status, ran.out) == (0, f"jobs.db has schema version {CURRENT} already\n")
    ran = command("migrate", "--storage", "sqlite:///jobs.db", "--json")
    assert ran.json == {"before": CURRENT, "after": CURRENT}
    connect("memory://x")
    assert command("migrate", "--storage", "memory://x").out == "the store could be opened, and is up to date\n"


def test_migrate_brings_old_tables_up_to_date(command, here, monkeypatch):
    """Q15: tables of an older release are changed, and both versions are said."""
    command("migrate", "--storage", "sqlite:///jobs.db")
    monkeypatch.setattr("workerctx.queue.sqlite.schema.MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE newer (a)",)))
    ran = command("migrate", "--plan", "--storage", "sqlite:///jobs.db")
    plan = f"jobs.db has schema version {CURRENT}; 2 statements would bring it to version {CURRENT + 1}\n"
    assert (ran.status, ran.out) == (0, plan)
    ran = command("migrate", "--apply", "--storage", "sqlite:///jobs.db")
    assert (ran.status, ran.out) == (0, f"jobs.db was brought from schema version {CURRENT} to {CURRENT + 1}\n")
    ran = command("migrate", "--plan", "--storage", "sqlite:///jobs.db")
    assert ran.out == f"jobs.db has schema version {CURRENT + 1} already; there is nothing to do\n"


def test_migrate_prints_statements_that_others_can_run(command, here):
    """Q15: --sql prints what --apply would do; run by somebody else it leads to the same tables."""
    ran = command("migrate", "--sql", "--storage", "sqlite:///jobs.db")
    assert not Path("jobs.db").exists()
    with closing(sqlite3.connect("jobs.db", isolation_level=None)) as connection:
        connection.executescript(ran.out)
    assert command("migrate", "--storage", "sqlite:///jobs.db").out == f"jobs.db has schema version {CURRENT} already\n"
    assert command("migrate", "--sql", "--storage", "sqlite:///jobs.db").out == ""
    assert command("migrate", "--sql", "--plan", "--storage", "sqlite:///jobs.db").status == 2
    connect("memory://x")
    assert "has no tables" in command("migrate", "--plan", "--storage", "memory://x").err
    assert command("migrate", "--plan", "--storage", "sqlite:///other.db").out.startswith("other.db has no tables; ")


def test_migrate_refuses_a_newer_schema(command, here):
    """Q15: tables of a newer release are left alone, with a sentence."""
    command("migrate", "--storage", "sqlite:///jobs.db")
    connection = sqlite3.connect("jobs.db")
    with connection:
        connection.execute("UPDATE workerctx_meta SET value = 999 WHERE key = 'schema'")
    connection.close()
    ran = command("migrate", "--storage", "sqlite:///jobs.db")
    assert ran.status == 1
    assert "upgrade workerctx" in ran.err


def test_json_by_the_environment(command, here, monkeypatch):
    """WORKERCTX_JSON stands for --json."""
    command("migrate", "--storage", "sqlite:///jobs.db")
    monkeypatch.setenv("WORKERCTX_JSON", "true")
    assert command("queues", "list", "--storage", "sqlite:///jobs.db").json == {"queues": []}


def test_wrong_command_lines_are_status_2(command):
    """An unknown command or option is one sentence."""
    for words in (["nope"], ["jobs", "nope"], ["jobs", "list", "--nope"], ["jobs", "show"]):
        ran = command(*words)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("workerctx: ")


def test_the_module_is_the_program(here):
    """`python -m workerctx` is the command line, and ends with its status."""
    run = [sys.executable, "-m", "workerctx"]
    made = subprocess.run([*run, "migrate", "--storage", "sqlite:///jobs.db"], capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    missing = subprocess.run(
        [*run, "jobs", "show", "x", "--storage", "sqlite:///jobs.db"], capture_output=True, text=True
    )
    assert (missing.returncode, missing.stdout) == (1, "")


def test_a_reader_that_has_seen_enough(here):
    """A closed pipe, as `| head` leaves it, ends the command without a word."""
    run = [sys.executable, "-m", "workerctx", "migrate", "--storage", "sqlite:///jobs.db"]
    program = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert (program.stderr.read(), program.wait(60)) == (b"", 1)
    program.stderr.close()


def test_every_group_has_help(command):
    """Each command answers --help."""
    for name in ("jobs", "workers", "queues", "schedules", "workflows", "enqueue", "prune", "migrate", "worker"):
        assert app[name].help
        assert command(name, "--help").status == 0
