"""What commands print: tables and sentences for people, one JSON document for programs.

Results go to standard output, everything said about them to standard error.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PASSWORD: Final = re.compile(r"([?&]\w*password=)[^&#]*")
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


@frozen
class Output:
    """Where a command's results go.

    Attributes:
        as_json: Whether a program reads them.
    """

    as_json: bool = False

    def document(self, value: Any) -> None:
        """Print the one JSON document of a command; keys that are enums become their values."""
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        try:
            text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(json.loads(text), indent=2)  # which escapes what is not ASCII
        self.line(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table: fitted to a terminal, and with nothing cut or wrapped for a pipe or file."""
        console = Console(highlight=False)
        if not console.is_terminal:
            self._aligned([columns, *rows])
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, no_wrap=number == 0, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)

    def line(self, text: str) -> None:
        """Print a line of the result."""
        print(text)  # noqa: T201 - a command's output

    def note(self, text: str) -> None:
        """Say something about the result."""
        _say(text)

    def _aligned(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def complain(error: Exception | str, status: int) -> int:
    """Say what is wrong in one sentence and hand back the exit status."""
    _say(f"workerctx: {error}")
    return status


def _say(text: str) -> None:
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison] - it is None if it was closed
        print(text, file=sys.stderr)  # noqa: T201 - a command's output


def local_time(moment: float | None) -> str:
    """Return store time as people read it: ISO 8601 with the offset of this machine's zone; a dash for None."""
    if moment is None:
        return "-"
    try:
        return datetime.fromtimestamp(moment, UTC).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no year of ISO 8601; stores keep some thousand more
        return f"{moment:.0f} s after 1970"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units, such as ``2 h 5 min``."""
    seconds = max(0.0, seconds)
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - where digits end to matter
    rest = round(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        count, rest = divmod(rest, int(length))
        if count:
            parts.append(f"{count} {unit}")
    if rest:
        parts.append(f"{rest} s")
    return " ".join(parts[:2])


def number_of(count: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 job`` or ``3 jobs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def without_password(url: str) -> str:
    """Return a store's URL as it may be shown."""
    parts = urlsplit(url)
    if parts.password is not None:
        user, _, host = parts.netloc.rpartition("@")
        url = urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
    return _PASSWORD.sub(r"\1***", url)
