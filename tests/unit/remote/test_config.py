"""The settings of a remote worker."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from workerctx import Credentials, ReconnectConfig, RemoteConfig
from workerctx.errors import InvalidConfig

ENDPOINT = "wss://jobs.example.com/workers"
SECRET = "a secret that nobody sees"


def test_only_the_endpoint_is_needed(monkeypatch):
    """R2: everything else has a default; an empty list of namespaces is the default one."""
    monkeypatch.setenv("HOSTNAME", "edge-1")
    config = RemoteConfig(endpoint=ENDPOINT)
    assert (config.node, config.identity) == ("edge-1", f"edge-1-{os.getpid()}")
    assert (config.namespaces, config.queues, config.max_concurrency) == (("default",), {"default": 1}, 10)
    assert RemoteConfig(endpoint=ENDPOINT, namespaces=[]).namespaces == ("default",)
    monkeypatch.delenv("HOSTNAME")
    assert RemoteConfig(endpoint=ENDPOINT).node


def test_values_come_in_several_forms():
    """W3: queues and names are separated by commas, durations may be timedeltas, a text is a bearer token."""
    config = RemoteConfig(
        endpoint=ENDPOINT,
        task_queue="images, mail,images",
        namespaces="red,blue",
        labels=["gpu"],
        grace=timedelta(minutes=1),
        credentials=SECRET,
        journal="work.journal",
    )
    assert config.queues == {"images": 4, "mail": 1}
    assert RemoteConfig(endpoint=ENDPOINT, task_queue="a=3,b").queues == {"a": 3, "b": 1}
    assert config.namespaces == ("red", "blue")
    assert config.journal == Path("work.journal")
    assert config.credentials is not None
    assert config.credentials.request_headers() == {"authorization": f"Bearer {SECRET}"}
    loop = config.for_loop()
    assert (loop.concurrency, loop.labels, loop.grace) == (10, ("gpu",), 60.0)
    limited = RemoteConfig(endpoint=ENDPOINT, concurrency_per_kind={"a": 2})
    assert limited.for_loop().concurrency_per_kind == {"a": 2}
    assert RemoteConfig(endpoint=ENDPOINT, grace=None).for_loop().grace is None


def test_secrets_are_never_shown():
    """R2: neither a config nor credentials show a token or a header."""
    credentials = Credentials(token=SECRET, headers={"x-key": SECRET})
    config = RemoteConfig(endpoint=ENDPOINT, credentials=credentials)
    for shown in (repr(config), str(config), repr(credentials), f"{credentials}"):
        assert SECRET not in shown
    assert config.credentials is not None
    assert config.credentials.request_headers()["x-key"] == SECRET


@pytest.mark.parametrize("token", ["", "\n", f"{SECRET}\x00", f"{SECRET}ß", f"{SECRET}\r\nx-other: header"])
def test_what_cannot_be_sent_is_refused_and_not_shown(token):
    """R2: a token or header that no request can carry is refused at once, and where it is made; nobody shows it."""
    made = Credentials(token=lambda: token)
    for attempt in (
        lambda: RemoteConfig(endpoint=ENDPOINT, credentials=token),
        lambda: Credentials(headers={"x-key": token}),
        made.request_headers,
    ):
        with pytest.raises(InvalidConfig, match="printable ASCII") as refusal:
            attempt()
        assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("token", [SECRET.encode(), bytearray(SECRET.encode()), 123456789, [SECRET]])
def test_what_is_no_text_is_no_token(token):
    """R2: nor a header; it is refused at once, and where it is made, and nobody shows it."""
    made = Credentials(token=lambda: token)
    for attempt in (
        lambda: RemoteConfig(endpoint=ENDPOINT, credentials=token),
        lambda: Credentials(token=token),
        lambda: Credentials(headers={"x-key": token}),
        made.request_headers,
    ):
        with pytest.raises(InvalidConfig, match=f"credentials must be .*, not {type(token).__name__}") as refusal:
            attempt()
        assert SECRET not in str(refusal.value)
        assert "123456789" not in str(refusal.value)


def test_a_token_may_come_with_the_end_of_its_line():
    """R2: as files and variables hold it."""
    assert Credentials(token=f"{SECRET}\n").request_headers() == {"authorization": f"Bearer {SECRET}"}


def test_a_token_can_be_made_for_each_session():
    """R2: a function is asked for a new token each time, so that tokens may expire."""
    tokens = iter(["one", "two"])
    credentials = Credentials(token=lambda: next(tokens))
    assert [credentials.request_headers()["authorization"] for _ in range(2)] == ["Bearer one", "Bearer two"]
    assert Credentials().request_headers() == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": "jobs.example.com"}, "like wss://"),
        ({"endpoint": "https://jobs.example.com"}, "like wss://"),
        ({"endpoint": "wss://"}, "like wss://"),
        ({"endpoint": "wss://host:notaport"}, "not an address"),
        ({"endpoint": f"wss://me:{SECRET.replace(' ', '')}@host/"}, "pass credentials="),
        ({"task_queue": " , "}, "queues"),
        ({"task_queue": "a\x00b"}, "queues"),
        ({"namespaces": ["x" * 300]}, "namespaces"),
        ({"labels": ["a\nb"]}, "labels"),
        ({"identity": ""}, "identity"),
        ({"identity": "two\nlines"}, "identity"),
        ({"node": "x" * 300}, "node"),
        ({"max_concurrency": 0}, "concurrency must be at least 1"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch_window": 0}, "prefetch_window"),
        ({"grace": -1}, "grace"),
        ({"concurrency_per_kind": "a=0"}, "concurrency_per_kind"),
        ({"hard_limit": float("nan")}, "hard_limit"),
        ({"max_concurrency": 0, "grace": -1}, "concurrency.*grace"),
        ({"endpoint": 5}, "5 is not a value for endpoint: it is not a text"),
        ({"task_queue": 7}, "7 is not a value for task_queue"),
        ({"max_concurrency": "many"}, "'many' is not a value for max_concurrency"),
        ({"max_concurrency": True}, "True is not a value for max_concurrency: it is not a number"),
        ({"namespaces": 5}, "5 is not a value for namespaces"),
        ({"grace": "soon"}, "'soon' is not a value for grace"),
        ({"reconnect": 3}, "3 is not a value for reconnect: it is no ReconnectConfig"),
        ({"journal_fsync": 2}, "2 is not a value for journal_fsync: it is neither true nor false"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, words):
    """R2: settings are checked together before anything connects, and secrets stay out of what is said."""
    with pytest.raises(InvalidConfig, match=words) as refused:
        RemoteConfig(**{"endpoint": ENDPOINT} | settings)
    assert SECRET.replace(" ", "") not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"initial_backoff": "soon"}, "'soon' is not a value for initial_backoff"),
        ({"max_backoff": None}, "None is not a value for max_backoff"),
        ({"max_attempts": 1.5}, "1.5 is not a value for max_attempts: it is not a whole number"),
        ({"max_attempts": True}, "True is not a value for max_attempts: it is not a number"),
        ({"jitter": "much"}, "'much' is not a value for jitter"),
    ],
)
def test_patience_that_makes_no_sense_is_refused(settings, words):
    """R2: of another type, as well as out of range."""
    with pytest.raises(InvalidConfig, match=words):
        ReconnectConfig(**settings)


def test_the_environment_is_read():
    """R2: each setting has a variable; what is passed by hand counts more."""
    environ = {
        "WORKERCTX_ENDPOINT": ENDPOINT,
        "WORKERCTX_TASK_QUEUE": "images,mail",
        "WORKERCTX_NAMESPACES": "red",
        "WORKERCTX_NODE": "edge",
        "WORKERCTX_IDENTITY": "me",
        "WORKERCTX_MAX_CONCURRENCY": "7",
        "WORKERCTX_CONCURRENCY_PER_KIND": "a=2",
        "WORKERCTX_LABELS": "gpu,big",
        "WORKERCTX_CREDENTIALS": SECRET,
        "WORKERCTX_PREFETCH": "0",
        "WORKERCTX_PREFETCH_WINDOW": "0.5",
        "WORKERCTX_GRACE": "none",
        "WORKERCTX_HARD_LIMIT": "2",
        "WORKERCTX_JOURNAL": "/tmp/j",
        "WORKERCTX_JOURNAL_FSYNC": "yes",
        "WORKERCTX_RECONNECT_INITIAL_BACKOFF": "1",
        "WORKERCTX_RECONNECT_MAX_BACKOFF": "9",
        "WORKERCTX_RECONNECT_MAX_ATTEMPTS": "4",
        "WORKERCTX_RECONNECT_JITTER": "0",
    }
    config = RemoteConfig.from_env(environ, max_concurrency=8, labels=None)
    assert config == RemoteConfig(
        endpoint=ENDPOINT,
        task_queue="images,mail",
        namespaces=("red",),
        node="edge",
        identity="me",
        max_concurrency=8,
        concurrency_per_kind="a=2",
        labels=("gpu", "big"),
        credentials=config.credentials,
        reconnect=ReconnectConfig(initial_backoff=1, max_backoff=9, max_attempts=4, jitter=0),
        prefetch=0,
        prefetch_window=0.5,
        grace=None,
        hard_limit=2,
        journal="/tmp/j",
        journal_fsync=True,
    )
    assert config.credentials is not None
    assert config.credentials.request_headers() == {"authorization": f"Bearer {SECRET}"}
    assert RemoteConfig.from_env({}, endpoint=ENDPOINT).journal_fsync is False


@pytest.mark.parametrize("journal", [None, ""])
def test_an_empty_journal_is_none(journal):
    """R4: outcomes are kept where somebody has said, and never in the folder that happens to be the current one."""
    assert RemoteConfig(endpoint=ENDPOINT, journal=journal).journal is None
    environ = {} if journal is None else {"WORKERCTX_JOURNAL": journal}
    assert RemoteConfig.from_env(environ, endpoint=ENDPOINT).journal is None
    assert RemoteConfig(endpoint=ENDPOINT, journal=".").journal == Path()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "WORKERCTX_ENDPOINT"),
        ({"WORKERCTX_MAX_CONCURRENCY": "many"}, "'many' is not a value for max_concurrency"),
        ({"WORKERCTX_JOURNAL_FSYNC": "perhaps"}, "neither true nor false"),
        ({"WORKERCTX_RECONNECT_MAX_ATTEMPTS": "x"}, "max_attempts"),
        ({"WORKERCTX_RECONNECT_MAX_ATTEMPTS": "0"}, "max_attempts"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environ, words):
    """R2: a variable that is missing or cannot be read is named."""
    with pytest.raises(InvalidConfig, match=words):
        RemoteConfig.from_env(environ | ({"WORKERCTX_ENDPOINT": ENDPOINT} if environ else {}))


def test_public_names_are_loaded_when_they_are_asked_for():
    """The package's import loads nothing of remote workers; its names are there all the same."""
    script = (
        "import sys, workerctx\n"
        "assert not any(name.startswith('workerctx.remote') for name in sys.modules)\n"
        "from workerctx import Credentials, ReconnectConfig, RemoteConfig, Worker\n"
        "assert 'httpx2' not in sys.modules\n"
        "names = {}\n"
        "exec('from workerctx import *', names)\n"
        "assert 'Worker' in names and 'import_module' not in names\n"
        "try:\n"
        "    workerctx.Wroker\n"
        "except AttributeError as exc:\n"
        "    assert 'Wroker' in str(exc)\n"
        "else:\n"
        "    raise AssertionError\n"
        "sys.modules['httpx2'] = None\n"
        "try:\n"
        "    import workerctx.remote.websocket\n"
        "except ModuleNotFoundError as exc:\n"
        "    assert str(exc) == \"a remote worker needs the extra 'remote': pip install 'workerctx[remote]'\"\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
