"""What a worker process says, and in which form: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from attrs import frozen
from cyclopts import Parameter

from workerctx.cli.output import complain
from workerctx.errors import (
    InvalidConfig,
    RemoteError,
    SchemaError,
    StoreDenied,
    StoreUnavailable,
    StoreUnsafe,
    WorkerError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import Token

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]

_log = logging.getLogger("workerctx")

_FROM_OUTSIDE: Final = (InvalidConfig, StoreUnavailable, StoreDenied, StoreUnsafe, SchemaError, RemoteError)
"""What no line of code here is to blame for."""
_STANDARD: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""What every record has; the rest is what a caller added with ``extra``."""


def _level(_: Any, tokens: Sequence[Token]) -> str:
    level = tokens[0].value.lower()
    if level not in get_args(Level):
        raise ValueError(f"{tokens[0].value!r} is no level: choose from {', '.join(get_args(Level))}")
    return level


@Parameter(name="*", group="Logs")
@frozen
class LogOptions:
    """How a worker process logs, to standard error.

    Attributes:
        form: For people or for programs.
        level: What is less urgent is left out.
    """

    form: Annotated[
        Literal["human", "json"],
        Parameter(
            name="--log-format", env_var="WORKERCTX_LOG_FORMAT", help="Lines for people, or one JSON object a line."
        ),
    ] = "human"
    level: Annotated[
        Level,
        Parameter(
            name="--log-level",
            env_var="WORKERCTX_LOG_LEVEL",
            help="What is less urgent is not logged.",
            converter=_level,
        ),
    ] = "info"

    def set_up(self, process: str | None = None) -> Announcer:
        """Send what is logged in this process to standard error.

        Args:
            process: What a supervisor calls this process; each line says it.
        """
        as_json = self.form == "json"
        origin = "" if process is None else f" {process}:"
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(
            JsonFormatter(process) if as_json else LineFormatter(f"%(asctime)s %(levelname)s{origin} %(message)s")
        )
        logging.basicConfig(level=self.level.upper(), handlers=[handler])
        if as_json:
            logging.captureWarnings(capture=True)
        return Announcer(as_json)


@frozen
class Announcer:
    """Says what a process is and what became of it: to people whatever the log level, to programs as a log record."""

    as_json: bool = False

    def say(self, text: str, facts: Mapping[str, str] | None = None) -> None:
        """Say a sentence, and facts under it."""
        if self.as_json:
            _log.info(text, extra=facts)
            return
        lines = [text, *(f"  {label:<12} {fact}" for label, fact in (facts or {}).items())]
        with suppress(OSError):  # a process whose output was closed works on, as it does when it logs
            print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - a command's output

    def complain(self, error: Exception, status: int) -> int:
        """Say what is wrong and hand back the exit status; to programs with the traceback of what is no sentence."""
        if not self.as_json:
            return complain(error, status)
        _log.critical("%s", error, exc_info=None if isinstance(error, WorkerError) else error)
        return status


class LineFormatter(logging.Formatter):
    """Writes a record for people, with the traceback of an exception.

    Of what comes from outside, such as a store that cannot be reached, the sentence is shown, which says what it is and
    what to do; the way through the driver only if everything is logged.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and what belongs under it."""
        if not record.exc_info:
            return super().format(record)
        error = record.exc_info[1]
        if error is not None and (not isinstance(error, _FROM_OUTSIDE) or _log.isEnabledFor(logging.DEBUG)):
            return super().format(record)
        said = record.getMessage()
        shown = copy(record)  # other handlers get the record as it is
        shown.exc_info = shown.exc_text = None
        shown.msg, shown.args = (said if error is None or str(error) in said else f"{said}: {error}"), None
        return super().format(shown)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object in one line: time, level, logger, message, and what else there is.

    What was added with ``extra`` are fields of their own, with ``extra_`` before a name that is taken. Nothing is left
    out because JSON does not know it: such values are shown as Python shows them.

    Args:
        process: The value of the field ``worker``, which is left out without one.
    """

    def __init__(self, process: str | None = None) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process is not None:
            fields["worker"] = self._process
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                fields[f"extra_{name}" if name in fields else name] = value
        try:
            return msgspec.json.encode(fields, enc_hook=repr).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            return msgspec.json.encode({_text(name): _text(value) for name, value in fields.items()}).decode()


def in_words(error: BaseException) -> str:
    """Return the sentence that an error of ours is, and of any other also what it is."""
    return str(error) if isinstance(error, WorkerError) else repr(error)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "backslashreplace").decode()
