"""What a worker and the process of a handler say to each other: JSON, one line each."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from workerctx.errors import (
    Abort,
    HandlerFailed,
    RetryAfter,
    RunCancelled,
    Snooze,
    Throttled,
    UndecodablePayload,
)
from workerctx.queue import CancelReason, JobError  # noqa: TC001 - msgspec reads the annotations
from workerctx.service.describe import describe


class Start(msgspec.Struct, tag="start", frozen=True):
    """Run a job; its stored payload is the next line.

    Attributes:
        job_id: The job.
        attempt: Which run this is.
        module: Where the handler stands.
        qualname: Its name there.
        path: Where modules are found.
    """

    job_id: str
    attempt: int
    module: str
    qualname: str
    path: list[str]


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Come to an end with the run."""

    reason: CancelReason


class Began(msgspec.Struct, tag="began", frozen=True):
    """The job has arrived, and what happens from here on happens to its run."""


class Report(msgspec.Struct, tag="report", frozen=True):
    """What the handler says of its run: how far it is (``done`` and ``total``), what it does (``detail``), or both."""

    news: dict[str, Any]


class Done(msgspec.Struct, tag="done", frozen=True):
    """The handler returned; the result is JSON."""

    result: msgspec.Raw


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The handler raised.

    Attributes:
        error: What is to be stored of it.
        verdict: Whether it was a word on how the job goes on.
        seconds: How long the job waits, for verdicts that say so.
        detail: The limit that was met, or why the run was cancelled.
    """

    error: JobError
    verdict: Literal["abort", "undecodable", "retry_after", "snooze", "throttled", "cancelled"] | None = None
    seconds: float = 0.0
    detail: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """Describe an exception."""
        more: tuple[Any, ...] = ()
        match error:
            case UndecodablePayload():
                more = ("undecodable",)
            case Abort():
                more = ("abort",)
            case RetryAfter():
                more = ("retry_after", error.seconds)
            case Snooze():
                more = ("snooze", error.seconds)
            case Throttled():
                more = ("throttled", error.retry_after, error.scope)
            case RunCancelled():
                more = ("cancelled", 0.0, error.reason)
            case _:
                pass
        return cls(describe(error), *more)

    def exception(self) -> Exception:
        """Return what stands for the exception on the other side; its cause says what was raised there."""
        told = HandlerFailed(self.error.kind, self.error.message, self.error.traceback)
        error: Exception
        match self.verdict:
            case "undecodable":
                error = UndecodablePayload(told.message)
            case "abort":
                error = Abort(told.message)
            case "retry_after":
                error = RetryAfter(self.seconds)
                error.args = (told.message,)
            case "snooze":
                error = Snooze(self.seconds)
            case "throttled":
                error = Throttled(self.seconds, self.detail)
            case "cancelled":
                error = RunCancelled(str(self.detail))
            case None:
                return told
        error.__cause__ = told
        return error


Command: TypeAlias = Start | Cancel
Answer: TypeAlias = Began | Report | Done | Failed

encode: Final = msgspec.json.Encoder().encode
_commands: Final[msgspec.json.Decoder[Command]] = msgspec.json.Decoder(Command)
_answers: Final[msgspec.json.Decoder[Answer]] = msgspec.json.Decoder(Answer)
decode_command: Final = _commands.decode
decode_answer: Final = _answers.decode
