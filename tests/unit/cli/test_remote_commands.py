"""What ``workerctx gateway`` and ``workerctx worker --remote`` refuse before anything is started."""

import signal

import pytest
import trustme

from workerctx.cli import app
from workerctx.errors import InvalidConfig
from workerctx_starlette.gateway._names import distinguished_name, read_identities

GATEWAY = ("gateway", "--storage", "sqlite:///jobs.db", "--port", "0")
CERTIFICATE = ("--tls-certificate", "server.pem")
LONG = "a-token-that-nobody-guesses"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, with an app in it."""
    for name in ("REMOTE", "TOKEN", "TOKEN_FILE", "TLS_CA", "GATEWAY_TOKEN_FILE"):
        monkeypatch.delenv(f"WORKERCTX_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "remote_app.py").write_text(
        "from workerctx import JobRegistry\n\njobs = JobRegistry('memory://')\n\n@jobs.register\n"
        "async def double(number: int) -> int:\n    return 2 * number\n"
    )
    return tmp_path


@pytest.fixture
def signals():
    """Give the process its handlers back, which a command that ends lets go of."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def refused(capsys, *words):
    """Return the sentence with which a command line is refused."""
    with pytest.raises(SystemExit) as exit_:
        app(words)
    said = capsys.readouterr().err
    assert exit_.value.code == 2, said
    assert said.startswith("workerctx: ")
    return said


def test_a_gateway_without_authentication_does_not_start(capsys):
    """H5: the sentence names what to add."""
    assert "--token-file or --certificate-file" in refused(capsys, *GATEWAY)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gateway", "--token-file", "tokens"], "needs a store"),
        ([*GATEWAY, "--token-file", "tokens", "--stuck-after", "0"], "--stuck-after must be more than 0 seconds"),
        ([*GATEWAY, "--token-file", "nowhere"], "cannot be read"),
        ([*GATEWAY, "--token-file", "tokens", "--certificate-file", "tokens"], "give one of the two"),
        ([*GATEWAY, "--certificate-file", "tokens"], "add --client-ca"),
        ([*GATEWAY, "--token-file", "tokens", "--tls-key", "tokens"], "add --tls-certificate"),
        ([*GATEWAY, "--token-file", "tokens", "--tls-certificate", "no.pem"], "the certificate in no.pem cannot be"),
        ([*GATEWAY, "--token-file", "tokens", *CERTIFICATE, "--tls-key", "other.key"], "the key in other.key cannot"),
        ([*GATEWAY, "--token-file", "tokens", *CERTIFICATE, "--client-ca", "tokens"], "authorities in tokens cannot"),
        ([*GATEWAY, "--token-file", "tokens", "--host", "256.0.0.1"], "workerctx: "),
        ([*GATEWAY, "--token-file", "tokens", "--grace", "-1"], "grace must not be negative"),
        ([*GATEWAY, "--token-file", "tokens", "--storage", "sqlite:///more.db"], "two stores are for namespace"),
        (["gateway", "--storage", "carrier-pigeon://x", "--token-file", "tokens"], "no backend for carrier-pigeon"),
        (["worker", "remote_app:jobs", "--remote", "http://x"], "must be an address like wss://"),
        (["worker", "remote_app:jobs", "--remote", "ws://x", "--burst"], "--burst needs a store"),
        (["worker", "remote_app:jobs", "--remote", "ws://x", "--metrics-port", "0"], "--metrics-port needs a store"),
        (["worker", "remote_app:jobs", "--remote", "ws://x", "--token-file", "nowhere"], "cannot be read"),
        (["worker", "remote_app:jobs", "--remote", "ws://x", "--token-file", "remote_app.py"], "holds no token"),
        (["worker", "remote_app:jobs", "--remote", "wss://x", "--tls-key", "k"], "add --tls-certificate"),
        (["worker", "remote_app:jobs", "--remote", "wss://x", "--tls-ca", "remote_app.py"], "remote_app.py cannot be"),
        (["worker", "remote_app:jobs", "--remote", "wss://x", "--tls-certificate", "no.pem"], "in no.pem cannot be"),
        (["worker", "remote_app:jobs", "--token-file", "tokens"], "name it with --remote"),
        (["worker", "remote_app:jobs", "--tls-ca", "remote_app.py"], "name it with --remote"),
    ],
    ids=range(23),
)
def test_what_makes_no_sense_is_refused(capsys, here, words, sentence):
    """Q13, H5: each mistake has its sentence, and exit status 2."""
    (here / "tokens").write_text(f"edge default {LONG}\n")
    if "server.pem" in words:
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(here / "server.pem")
        authority.issue_cert("localhost").private_key_pem.write_to_path(here / "other.key")
    assert sentence in refused(capsys, *words)


@pytest.mark.usefixtures("signals")
def test_a_gateway_whose_store_cannot_be_used_says_why(capsys, here):
    """Q13: in a sentence at the end, and without a traceback through the server."""
    (here / "tokens").write_text(f"edge default {LONG}\n")
    (here / "jobs.db").write_text("this is not a database, " * 100)
    with pytest.raises(SystemExit) as exit_:
        app([*GATEWAY, "--token-file", "tokens"])
    assert exit_.value.code == 1
    assert "the gateway failed: jobs.db is not an SQLite database" in capsys.readouterr().err


def test_trio_has_to_be_installed(capsys, monkeypatch):
    """Q13: the sentence names the extra, before anything is started."""
    monkeypatch.setattr("workerctx.cli.worker.find_spec", lambda name: None)
    said = refused(capsys, "worker", "remote_app:jobs", "--backend", "trio", "--processes", "2")
    assert "pip install 'workerctx[trio]'" in said


def test_a_list_of_workers_is_read(here):
    """H5: one worker a line: who it is, its namespaces, and what it shows, which may have spaces in it; no marks."""
    (here / "list").write_text(f"\ufeff# tokens for all\n\nedge a,b {LONG}\n!operator default CN=a b,O=c \n")
    found = read_identities(here / "list")
    assert {shown: (each.subject, each.namespaces, each.steers) for shown, each in found.items()} == {
        LONG: ("edge", ("a", "b"), False),
        "CN=a b,O=c": ("operator", ("default",), True),
    }


@pytest.mark.parametrize(
    ("lines", "sentence"), [("edge default", "2 of 3 columns"), (f"a x {LONG}\nb x {LONG}", "shows the same as 'a'")]
)
def test_a_mistake_in_the_list_is_told_without_its_secrets(here, lines, sentence):
    """H5: what is wrong with a line is said, and what it shows is not."""
    (here / "list").write_text(lines)
    with pytest.raises(InvalidConfig, match=sentence) as error:
        read_identities(here / "list")
    assert LONG not in str(error.value)


def test_the_name_in_a_certificate_is_written_as_rfc_4514_does():
    """H5: the last part comes first, and what would be ambiguous is escaped."""
    subject = (
        (("countryName", "DE"),),
        (("organizationName", "Example, Inc. "),),
        (("commonName", "#1"), ("1.2.3", "a+b")),
    )
    assert distinguished_name(subject) == r"CN=\#1+1.2.3=a\+b,O=Example\, Inc.\ ,C=DE"
