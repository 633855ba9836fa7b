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
from workerctx.queue import (
    EnqueueOutcome as EnqueueOutcome,
)
from workerctx.queue import (
    EnqueueRequest as EnqueueRequest,
)
from workerctx.queue import (
    JobHandle as JobHandle,
)
from workerctx.queue import (
    JobState as JobState,
)
from workerctx.queue import (
    QueuedJob as QueuedJob,
)
from workerctx.queue import (
    connect as connect,
)
from workerctx.runtime import WorkerConfig as WorkerConfig
from workerctx.runtime import WorkerLoop as WorkerLoop
from workerctx.service import (
    From as From,
)
from workerctx.service import (
    JobCtx as JobCtx,
)
from workerctx.service import (
    JobHandler as JobHandler,
)
from workerctx.service import (
    JobRegistry as JobRegistry,
)
from workerctx.service import (
    ProcessCtx as ProcessCtx,
)
from workerctx.service import (
    injected as injected,
)

__version__ = "0.1.0"
