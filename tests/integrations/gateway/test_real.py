"""Real gateways, real workers, and a network between them that cuts and stalls."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme
from cryptography import x509

from tests.integrations.gateway.processes import Process
from workerctx.queue import EnqueueRequest, connect
from workerctx.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "a token that nobody guesses"
APP = """
from pathlib import Path
from workerctx import JobCtx, JobRegistry
from workerctx.testing import wait_until

jobs = JobRegistry("memory://")  # nobody opens it: the gateway has the jobs

@jobs.register
async def double(ctx: JobCtx, number: int) -> int:
    print("ran", number, flush=True)
    return 2 * number

@jobs.register
async def waiter(number: int) -> int:
    print("waits", number, flush=True)
    await wait_until(Path(f"go-{number}").exists, timeout=60)
    print("ran", number, flush=True)
    return number

@jobs.register
async def follower(ctx: JobCtx, number: int) -> int:
    await waiter(number)
    return int((await ctx.enqueue(double.request(100 + number))).deduped)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app and a list of workers."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "tokens").write_text(f"# who may come in\nedge default {TOKEN}\n")
    return tmp_path


@pytest.fixture
def url(folder: Path) -> str:
    """A durable store that only gateways and the test open."""
    return f"sqlite:///{folder}/jobs.db"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Process]]:
    """Start programs in the folder, and see that none survives the test."""
    started: list[Process] = []

    def start(*arguments: object, **environ: str) -> Process:
        started.append(Process(folder, *arguments, **environ))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.ends(None)


@pytest.fixture
def gateway(start: Callable[..., Process], url: str) -> Callable[..., tuple[Process, int]]:
    """Start a gateway of one of the kinds that the docs recommend; returns it and its port."""

    def gateway(kind: str = "uvicorn", *options: object) -> tuple[Process, int]:
        if kind == "uvicorn":
            options = options or ("--token-file", "tokens")
            process = start("-m", "workerctx", "gateway", "--storage", url, "--port", 0, *options)
        else:
            process = start(Path(__file__).with_name("served.py"), kind, url)
        return process, int(process.expect(r"listens on +wss?://127\.0\.0\.1:(\d+)")[1])

    return gateway


@pytest.fixture
def worker(start: Callable[..., Process]) -> Callable[..., Process]:
    """Start a worker of the app, served through this port."""

    def worker(port: int, *options: object, scheme: str = "ws", **environ: str) -> Process:
        environ = {"WORKERCTX_TOKEN": TOKEN, "WORKERCTX_RECONNECT_INITIAL_BACKOFF": "0.05"} | environ
        remote = f"{scheme}://localhost:{port}/workers"
        return start("-m", "workerctx", "worker", "app:jobs", "--remote", remote, *options, **environ)

    return worker


@pytest.fixture
def store(url: str) -> Callable[..., Any]:
    """Do something with the store, from a plain test."""

    def on_store(function: Callable[..., Any]) -> Any:
        async def run() -> Any:
            async with connect(url) as storage:
                return await function(storage.jobs)

        return anyio.run(run)

    return on_store


@pytest.fixture
def enqueue(store: Callable[..., Any]) -> Callable[..., list[str]]:
    """Enqueue jobs with these numbers."""

    def enqueue(kind: str, *numbers: int) -> list[str]:
        async def add(jobs: Any) -> list[str]:
            requests = [EnqueueRequest(kind, {"number": number}) for number in numbers]
            return [outcome.id for outcome in await jobs.enqueue_bulk(requests)]

        ids: list[str] = store(add)
        return ids

    return enqueue


@pytest.fixture
def results(store: Callable[..., Any]) -> Callable[[list[str]], list[Any]]:
    """Wait for the results of jobs."""

    def results(ids: list[str]) -> list[Any]:
        async def wait(jobs: Any) -> list[Any]:
            return [await jobs.result(job_id, timeout=60) for job_id in ids]

        found: list[Any] = store(wait)
        return found

    return results


@pytest.mark.parametrize("server", ["uvicorn", "asyncio", "trio"])
def test_nothing_is_computed_twice(folder, gateway, worker, enqueue, results, store, proxy_of, server):
    """R4, L26: what was computed before a cut is told after it, whichever way it was lost; a drain waits for what runs.

    The gateway runs under uvicorn, and under hypercorn on both event loops; the one that takes over is another one.
    """
    first, port = gateway(server)
    proxy = proxy_of(("127.0.0.1", port))
    edge = worker(proxy.port, "--backend", "trio" if server == "trio" else "asyncio")
    proxy.delay = 0.01
    assert results(enqueue("double", 1)) == [2]
    proxy.delay = 0.0

    (follower,) = enqueue("follower", 2)
    edge.expect("waits 2")
    with proxy.stalling(to="server"):  # outcomes and requests do not arrive
        (told,) = enqueue("double", 3)
        edge.expect("ran 3")
        (folder / "go-2").touch()
        edge.expect("ran 2")
        proxy.cut()
    assert results([told, follower]) == [6, 0]
    edge.expect("ran 102")

    (waiter,) = enqueue("waiter", 4)
    edge.expect("waits 4")
    with proxy.stalling(to="client"):  # acknowledgements do not arrive
        (folder / "go-4").touch()
        assert results([waiter]) == [4]
        proxy.cut()

    (waiter,) = enqueue("waiter", 5)
    edge.expect("waits 5")
    second, port = gateway()
    proxy.upstream = ("127.0.0.1", port)
    first.process.send_signal(signal.SIGTERM)
    edge.expect("the gateway drains")
    (folder / "go-5").touch()
    assert first.ends(None) == 0
    assert results([waiter, *enqueue("double", 6)]) == [5, 12]

    assert edge.ends() == 0
    assert second.ends() == 0
    assert {line: edge.count(line) for line in edge.said if line.startswith("ran ")} == dict.fromkeys(
        [f"ran {number}" for number in (1, 3, 2, 102, 4, 5, 6)], 1
    )


def test_a_gateway_with_certificates(folder, gateway, worker, enqueue, results):
    """H5: with mutual TLS a worker is who its certificate says, one without gets nowhere, a stranger is denied."""
    authority = trustme.CA()
    served, known, unknown = authority.issue_cert("localhost"), *(authority.issue_cert(name) for name in ("edge", "x"))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, certificate in (("gateway", served), ("known", known), ("unknown", unknown)):
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    name = x509.load_pem_x509_certificate(known.cert_chain_pems[0].bytes()).subject.rfc4514_string()
    (folder / "names").write_text(f"edge default {name}\n")
    options = ["--certificate-file", "names", "--client-ca", "ca.pem", "--tls-certificate", "gateway.pem"]
    process, port = gateway("uvicorn", *options)

    def connect_with(certificate: str | None) -> Process:
        shown = [] if certificate is None else ["--tls-certificate", f"{certificate}.pem"]
        return worker(port, "--tls-ca", "ca.pem", *shown, scheme="wss", WORKERCTX_RECONNECT_MAX_ATTEMPTS="1")

    bare, stranger, edge = connect_with(None), connect_with("unknown"), connect_with("known")
    assert results(enqueue("double", 1)) == [2]
    assert stranger.ends(None) == 77
    assert bare.ends(None) == 1
    assert edge.ends() == 0
    assert process.ends() == 0


async def recorded(journal: Path, number: int) -> None:
    await wait_until(lambda: journal.read_bytes().count(b'"complete"') == number)


def test_outcomes_survive_the_worker(folder, gateway, worker, enqueue, results, proxy_of):
    """R4: a worker that is killed before its outcomes were acknowledged leaves them in its journal; none is recomputed.

    The gateway waits for a worker that went missing, and the next one with the journal is that worker.
    """
    process, port = gateway()
    proxy = proxy_of(("127.0.0.1", port))
    journal = folder / "outcomes.journal"
    first = worker(proxy.port, WORKERCTX_JOURNAL=str(journal))
    assert results(enqueue("double", 5)) == [10]
    with proxy.stalling(to="server"):
        told = enqueue("double", 1, 2, 3)
        anyio.run(recorded, journal, 3)
        first.process.kill()
        first.ends(None)
        proxy.cut()
    second = worker(proxy.port, WORKERCTX_JOURNAL=str(journal))
    assert results(told) == [2, 4, 6]
    assert results(enqueue("double", 4)) == [8]
    assert second.ends() == 0
    assert [line for line in second.said if line.startswith("ran ")] == ["ran 4"]
    assert journal.stat().st_size == 0
    assert process.ends() == 0
