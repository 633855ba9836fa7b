"""Timing helpers: interleaved rounds, medians, and the machine that the figures belong to."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

Case = Callable[[int], Awaitable[None]]
"""Does its operation this many times."""


def machine() -> str:
    """Describe where the figures were taken."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()},"
        f" {datetime.now(UTC):%Y-%m-%d}, command: python -m tests.bench {' '.join(sys.argv[1:])}"
    )


@contextmanager
def quiet_collector() -> Generator[None]:
    """Collect now, and not in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def rounds(cases: Mapping[str, Case], number: int, repeat: int) -> dict[str, float]:
    """Return the median seconds per operation of each case; the cases take turns, so noise hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeat):
        for name, case in cases.items():
            with quiet_collector():
                began = time.perf_counter()
                await case(number)
                seconds[name].append((time.perf_counter() - began) / number)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def markdown(title: str, rows: list[tuple[str, ...]]) -> None:
    """Print rows as a table for the docs; the first one is its head."""
    print(f"\n{title}\n")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
