"""Asking a worker process how it fares."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any


class Probes:
    """The probes of a worker that has said where they are."""

    def __init__(self, worker: Any) -> None:
        self.url = worker.wait_for("  health ").split()[1].rpartition("/")[0]

    def __call__(self, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """Ask, and return the status and the document."""
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self.url}/{path}", method=method), timeout=30
            ) as reply:
                return reply.status, json.loads(reply.read() or "{}")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or "{}")

    def of(self, path: str, name: str) -> tuple[int, str]:
        """Ask, and return the status and the reason of one worker."""
        status, document = self(path)
        return status, document["workers"][name]["reason"]
