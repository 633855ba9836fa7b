"""One lifecycle for everything a Python service does in the background."""

from __future__ import annotations

from workerctx.lifecycle import (
    Outcome as Outcome,
    Shutdown as Shutdown,
    SpawnedTask as SpawnedTask,
    Tracked as Tracked,
    WorkerContext as WorkerContext,
    WorkerState as WorkerState,
    stop_on_signals as stop_on_signals,
)

__version__ = "0.1.0"
