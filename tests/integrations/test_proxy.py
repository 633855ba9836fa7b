"""The proxy that other tests put in front of their servers does what it says."""

import socket
import threading
from contextlib import suppress

import pytest

PATIENCE = 30


@pytest.fixture
def echo():
    """The address of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(connection):
            with connection, suppress(ConnectionResetError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def dial(echo, proxy_of):
    """Connect through a proxy; also the proxy itself."""
    proxy, opened = proxy_of(echo), []

    def dial():
        opened.append(socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE))
        return opened[-1]

    yield dial, proxy
    for connection in opened:
        connection.close()


def test_it_passes_everything_on(dial):
    """Bytes travel both ways, late if there is a delay, and the end of one side reaches the other."""
    connect, proxy = dial
    one = connect()
    one.sendall(b"hello")
    assert one.recv(100) == b"hello"
    proxy.delay = 0.01
    one.sendall(b"again")
    assert one.recv(100) == b"again"
    one.shutdown(socket.SHUT_WR)
    assert one.recv(100) == b""


def test_it_cuts_and_refuses(dial):
    """A cut resets what is open; while refusing, a new connection ends at once; afterwards all is well."""
    connect, proxy = dial
    one = connect()
    one.sendall(b"x")
    assert one.recv(100) == b"x"
    with proxy.refusing():
        with pytest.raises(ConnectionResetError):
            one.recv(100)
        with pytest.raises(ConnectionResetError):
            two = connect()
            two.sendall(b"x")
            two.recv(100)
    three = connect()
    three.sendall(b"y")
    assert three.recv(100) == b"y"


def test_it_stalls(dial):
    """While it stalls nothing arrives, and nothing is lost."""
    connect, proxy = dial
    one = connect()
    one.sendall(b"x")
    assert one.recv(100) == b"x"
    one.settimeout(0.1)
    with proxy.stalling(to="client"):
        one.sendall(b"held back")
        with pytest.raises(TimeoutError):
            one.recv(100)
    one.settimeout(PATIENCE)
    assert one.recv(100) == b"held back"
