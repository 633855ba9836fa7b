"""Real servers, real signals: what is in flight when SIGTERM arrives."""

import http.client
import signal
import sys

import pytest
from websockets.exceptions import ConnectionClosed

FORMS = [
    ("uvicorn", -signal.SIGTERM),
    ("hypercorn-asyncio", 0),
    ("hypercorn-trio", 0),
]
"""The forms that the docs recommend, and how the process ends."""

# A shell shows the end by a signal as 128 and the signal's number, that is 143 for SIGTERM.
CHAINED_ELSEWHERE = [
    ("hypercorn-asyncio-chained", 0),
    ("hypercorn-trio-chained", -signal.SIGTERM),
]
"""Chained signals under servers that handle SIGTERM through their loop, and not at all."""


@pytest.mark.parametrize(("server", "status"), FORMS + CHAINED_ELSEWHERE)
def test_a_signal_lets_everything_in_flight_end(serve, server, status):
    """H4: at SIGTERM a request completes, a stream and a websocket end, background work is drained."""
    program = serve(server)
    slow = program.request("/slow")
    program.expect("slow begun")
    assert program.get("/spawns").read() == b"spawned"
    stream = program.get("/ticks")
    assert stream.readline() == b"tick\n"
    with program.websocket("/ws") as websocket:
        assert websocket.recv() == "hello"
        program.send_signal(signal.SIGTERM)
        answer = slow.getresponse()
        assert (answer.status, answer.read()) == (200, b"slow done")
        assert stream.read() == b"bye\n"
        # Hypercorn on trio waits, for its graceful_timeout, until the client of a stream has closed the connection.
        program.hang_up()
        with pytest.raises(ConnectionClosed):
            websocket.recv()
    assert program.exit_status() == status
    assert {"background task drained", "response task done", "websocket ended"} <= {*program.said}


@pytest.mark.parametrize(("server", "status"), FORMS)
def test_what_does_not_end_is_cancelled_at_the_deadline(serve, server, status):
    """H1, H4: with the grace exceeded a waiting client gets 503, streams and websockets are cut, the process ends."""
    program = serve(server, 0.2)
    stuck = program.request("/stuck")
    program.expect("stuck begun")
    stream = program.get("/endless")
    assert stream.readline() == b"tick\n"
    with program.websocket("/ws-stuck") as websocket:
        assert websocket.recv() == "hello"
        program.send_signal(signal.SIGTERM)
        answer = stuck.getresponse()
        assert answer.status == 503
        assert answer.headers["retry-after"]
        assert b"stopped before this request was done" in answer.read()
        with pytest.raises(http.client.IncompleteRead):
            stream.read()
        with pytest.raises(ConnectionClosed):
            websocket.recv()
    assert program.exit_status() == status
    assert {"stuck ended", "endless ended", "stuck websocket ended"} <= {*program.said}
    assert any("GET /stuck was cancelled at the deadline of worker 'web'" in line for line in program.said)


def test_an_idle_server_ends_at_once(serve):
    """H4: with nothing in flight SIGTERM ends the process by that signal, and the application was shut down."""
    program = serve("uvicorn")
    assert program.get("/readyz").status == 200
    program.send_signal(signal.SIGTERM)
    assert program.exit_status() == -signal.SIGTERM
    assert any("Application shutdown complete" in line for line in program.said)


def test_a_second_signal_ends_the_grace(serve):
    """H4: with chained signals a second SIGTERM cancels what the first one let go on."""
    program = serve("uvicorn", 3600)
    stuck = program.request("/stuck")
    program.expect("stuck begun")
    program.send_signal(signal.SIGTERM)
    program.expect("Shutting down")
    program.send_signal(signal.SIGTERM)
    assert stuck.getresponse().status == 503
    assert program.exit_status() == -signal.SIGTERM


def test_uvicorn_alone_waits_for_ever_for_an_open_stream(serve):
    """H4: without chained signals uvicorn waits for its connections, and the application hears of nothing.

    A stream that would race on the stop never sees one, another SIGTERM changes nothing, and the only way out skips
    the shutdown of the application, so that background work is lost.
    """
    program = serve("uvicorn-plain", 0.2)
    assert program.get("/spawns").read() == b"spawned"
    stream = program.get("/endless")
    program.send_signal(signal.SIGTERM)
    program.expect("Waiting for connections to close")
    program.send_signal(signal.SIGTERM)
    for _ in range(30):
        assert stream.readline() == b"tick\n"
    program.send_signal(signal.SIGINT)
    stream.close()  # from Python 3.12 on even a forced exit waits until the clients have gone
    program.hang_up()
    assert program.exit_status() < 0
    assert "background task drained" not in program.said
    assert not any("Waiting for application shutdown" in line for line in program.said)


def test_uvicorn_alone_with_a_limit_cuts_connections_first(serve):
    """H4: with its own limit uvicorn cancels what is in flight, then shuts the application down, which drains."""
    program = serve("uvicorn-limited")
    slow = program.request("/slow")
    program.expect("slow begun")
    assert program.get("/spawns").read() == b"spawned"
    program.send_signal(signal.SIGTERM)
    assert slow.getresponse().status == 500
    assert program.exit_status() == -signal.SIGTERM
    assert "background task drained" in program.said


def test_hypercorn_alone_leaves_the_application_in_the_dark(serve):
    """H4: without its trigger hypercorn on asyncio tells the application of nothing while it has connections.

    On Python 3.11 it cuts them after its own timeout, from 3.12 on it waits until the clients have gone; then it shuts
    the application down, which drains.
    """
    program = serve("hypercorn-asyncio-plain")
    assert program.get("/spawns").read() == b"spawned"
    stream = program.get("/endless")
    assert stream.readline() == b"tick\n"
    program.send_signal(signal.SIGTERM)
    if sys.version_info >= (3, 12):
        for _ in range(100):
            assert stream.readline() == b"tick\n"
        assert "background task drained" not in program.said
        stream.close()
        program.hang_up()
    else:
        with pytest.raises(http.client.IncompleteRead):
            stream.read()
    assert program.exit_status() == 0
    assert "background task drained" in program.said


def test_hypercorn_alone_on_trio_dies_of_the_signal(serve):
    """H4: without a trigger and without chained signals hypercorn on trio does not handle SIGTERM at all."""
    program = serve("hypercorn-trio-plain")
    assert program.get("/spawns").read() == b"spawned"
    program.send_signal(signal.SIGTERM)
    assert program.exit_status() == -signal.SIGTERM
    assert "background task drained" not in program.said


def test_each_of_several_chained_contexts_drains(serve):
    """H4: where the chained signal ends the process, it does so once the last of its contexts has drained."""
    program = serve("hypercorn-trio-two")
    assert program.get("/readyz").status == 200
    program.hang_up()
    program.send_signal(signal.SIGTERM)
    assert program.exit_status() == -signal.SIGTERM
    assert {"the first has drained", "the second has drained"} <= {*program.said}


@pytest.mark.parametrize("server", ["hypercorn-asyncio", "hypercorn-trio"])
def test_a_failed_context_ends_hypercorn(serve, server):
    """H3: a failure stops the context, which ends the server, whose exit status is that of a failure."""
    program = serve(server)
    assert program.get("/fail").read() == b"failing"
    program.expect("worker 'web' of the application failed")
    assert program.exit_status() not in {0, -signal.SIGTERM}
    assert any("the disk is full" in line for line in program.said)


def test_under_uvicorn_a_failed_context_is_told_by_the_probes(serve):
    """H3: uvicorn serves on after a failure, so that the probes can say what has happened, until it is restarted."""
    program = serve("uvicorn")
    assert program.get("/fail").read() == b"failing"
    program.expect("worker 'web' of the application failed")
    alive = program.get("/livez")
    assert alive.status == 503
    assert b"the disk is full" in alive.read()
    program.send_signal(signal.SIGTERM)
    assert program.exit_status() == -signal.SIGTERM
    assert any("Application shutdown failed" in line for line in program.said)
