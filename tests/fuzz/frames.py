"""Throw bytes at the readers of frames, guided by coverage: python tests/fuzz/frames.py [--seconds 60] [CORPUS...].

Whatever comes in, a reader returns frames or raises ProtocolError; what it returns can be judged, answered and encoded
again. Anything else ends the run with the bytes that did it.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

import atheris

with atheris.instrument_imports(include=["workerctx.remote"]):
    from workerctx.errors import InvalidRequest, ProtocolError
    from workerctx.queue import JobError, Lease, QueuedJob
    from workerctx.remote.asking import decode_call, encode_call, read_reply
    from workerctx.remote.calls import AnyCall, Enqueue, GetJob
    from workerctx.remote.faults import UNREADABLE
    from workerctx.remote.frames import (
        Credit,
        Failure,
        FromGateway,
        FromWorker,
        Heartbeat,
        Register,
        RegisterAck,
        Reply,
        Request,
        Result,
        ResultAck,
        Task,
    )
    from workerctx.remote.outcomes import finish_of, outcome_frame
    from workerctx.remote.records import ErrorRecord, JobRecord, RequestRecord
    from workerctx.remote.wire import gateway_reader, messages_of, worker_reader

if TYPE_CHECKING:
    from collections.abc import Sequence

GATEWAY, WORKER = gateway_reader(), worker_reader()


def judge(frame: object) -> None:
    """Do with a frame what its receiver does first."""
    try:
        match frame:
            case Task():
                job, lease = frame.claimed("w")
                Task.of(job, lease)
            case Result() | Failure():
                outcome_frame(finish_of(frame))
            case Request():
                call = decode_call(frame)
                encode_call(call)
                if isinstance(call, Enqueue):
                    for record in call.requests:
                        record.request()
            case Reply():
                read_reply(GetJob("j"), frame)
            case _:
                pass
    except (ProtocolError, InvalidRequest, *UNREADABLE):
        pass
    except Exception:
        if not isinstance(frame, Reply):  # a reply raises what the store raised
            raise


def throw(data: bytes) -> None:
    """Have both sides read the bytes."""
    for reader in (GATEWAY, WORKER):
        try:
            frames = reader.read(data)
        except ProtocolError:
            continue
        for frame in frames:
            judge(frame)
        with suppress(ProtocolError):
            messages_of(frames)


def seeds() -> Sequence[bytes]:
    """Return a message of each sort, for the fuzzer to begin with."""
    job = QueuedJob(id="j", kind="k", payload_json=b'{"a":[1]}', attempt=1, headers={"a": "b"})
    record = RequestRecord(kind="k", job_id="j", payload=b"{}")
    return [
        *messages_of([Register(worker_id="w", kinds=("k",)), Credit(0, 5), Heartbeat(("l",))]),
        *messages_of([Result("l", b"1"), Failure("l", error=ErrorRecord.of(JobError("E", "no")))]),
        *messages_of([Request(1, encode_call(Enqueue((record,))))]),
        *messages_of([RegisterAck(version=1, worker_id="w"), ResultAck(("l",), refused={"m": "no"})]),
        *messages_of([Task.of(job, Lease("l", "j", "w", 0, 30, 30))]),
    ]


def words() -> str:
    """Return names of frames, calls and fields for the fuzzer, each behind the byte that tells its length."""
    structs = {*get_args(FromWorker), *get_args(FromGateway), *get_args(AnyCall), JobRecord, RequestRecord, ErrorRecord}
    names = {str(struct.__struct_config__.tag) for struct in structs if struct.__struct_config__.tag}
    names |= {field for struct in structs for field in struct.__struct_fields__}
    return "".join(f'"\\x{0xA0 | len(name):02x}{name}"\n' for name in sorted(names) if len(name) < 32)


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    options, rest = parser.parse_known_args()
    with TemporaryDirectory() as folder:
        corpus, dictionary = Path(folder, "corpus"), Path(folder, "words")
        corpus.mkdir()
        for number, seed in enumerate(seeds()):
            throw(seed)
            (corpus / str(number)).write_bytes(seed)
        dictionary.write_text(words(), encoding="ascii")
        limits = [f"-max_total_time={options.seconds}", "-max_len=4096", f"-dict={dictionary}"]
        atheris.Setup([sys.argv[0], *limits, *rest, str(corpus)], throw)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
