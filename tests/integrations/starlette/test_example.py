"""docs/examples/web_app.py as a person runs it."""

import json
import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "web_app.py"


@pytest.mark.parametrize(("server", "status"), [("uvicorn", -signal.SIGTERM), ("hypercorn", 0), ("hypercorn-trio", 0)])
def test_the_example_ends_well(run_program, server, status):
    """H4: the example's stream and websocket end at SIGTERM, and background work is done before the process ends."""
    program = run_program(EXAMPLE, server, "--port", 0)
    assert json.load(program.get("/readyz"))["ok"]
    accepted = json.load(program.get("/thumbnails?picture=dog.jpg", "POST"))
    assert accepted == {"accepted": "dog.jpg", "running": ["thumbnail of dog.jpg"]}
    stream = program.get("/clock")
    assert stream.readline() == b"tick\n"
    with program.websocket("/echo") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        program.send_signal(signal.SIGTERM)
        assert stream.read().endswith(b"closing\n")
        program.hang_up()
        with pytest.raises(ConnectionClosed):
            websocket.recv()
    assert program.exit_status() == status
    assert "made a thumbnail of dog.jpg" in program.said


def test_ctrl_c_ends_the_example(run_program):
    """H4: Ctrl-C ends the example as SIGTERM does."""
    program = run_program(EXAMPLE, "uvicorn", "--port", 0)
    assert program.get("/thumbnails", "POST").status == 202
    program.send_signal(signal.SIGINT)
    program.exit_status()
    assert "made a thumbnail of cat.jpg" in program.said
