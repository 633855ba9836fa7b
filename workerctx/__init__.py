"""One lifecycle for everything a Python service does in the background."""

from __future__ import annotations

from workerctx.lifecycle import (
    Monitor as Monitor,
)
from workerctx.lifecycle import (
    Outcome as Outcome,
)
from workerctx.lifecycle import (
    Restart as Restart,
)
from workerctx.lifecycle import (
    Shutdown as Shutdown,
)
from workerctx.lifecycle import (
    SpawnedTask as SpawnedTask,
)
from workerctx.lifecycle import (
    Tracked as Tracked,
)
from workerctx.lifecycle import (
    WorkerContext as WorkerContext,
)
from workerctx.lifecycle import (
    WorkerState as WorkerState,
)
from workerctx.lifecycle import (
    stop_on_signals as stop_on_signals,
)

__version__ = "0.1.0"
