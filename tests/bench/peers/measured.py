"""What the scripts of all peers share: the command line, the count of runs, the report as a line of JSON.

Scripts run in the environment of their peer, without this project; they import this module from their own folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Runs:
    """Counts runs of the no-op job, and calls `finished` at the last one."""

    def __init__(self, number: int, finished: Callable[[], object] = lambda: None) -> None:
        self.number = number
        self.ended = 0.0
        self._finished = finished
        self._seen = 0

    def note(self) -> None:
        """Count one."""
        self._seen += 1
        if self._seen == self.number:
            self.ended = time.perf_counter()
            self._finished()

    def seconds(self, began: float) -> float:
        """Return the seconds since the worker began, once all have run; some peers run a few of them twice."""
        if self._seen < self.number:
            raise RuntimeError(f"{self._seen} of {self.number} jobs ran")
        return self.ended - began


@dataclass(frozen=True)
class Measured:
    """What a script found.

    Attributes:
        setting: How the peer was set, for people.
        enqueue: Seconds for enqueueing all jobs, by the fastest way that the peer documents.
        run: Seconds from the start of a worker to its last run.
    """

    setting: str
    enqueue: float
    run: float


def script(package: str, measure: Callable[[str, int, int], Measured]) -> None:
    """Measure a peer, given the store's URL, the number of jobs and how many run at once, and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    options = parser.parse_args()
    logging.disable()
    report(package, options.jobs, measure(options.url, options.jobs, options.concurrency))


def report(package: str, number: int, found: Measured) -> None:
    """Print what was found, and end the process: not every peer can be stopped from within."""
    figures = {"enqueue": number / found.enqueue, "run": number / found.run}
    print(json.dumps({"version": version(package), "setting": found.setting, **figures}), flush=True)
    os._exit(0)
