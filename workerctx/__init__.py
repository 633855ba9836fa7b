"""One lifecycle for everything a Python service does in the background."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

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

if TYPE_CHECKING:
    from workerctx.remote import Credentials as Credentials
    from workerctx.remote import ReconnectConfig as ReconnectConfig
    from workerctx.remote import RemoteConfig as RemoteConfig
    from workerctx.remote import Worker as Worker

__all__ = [
    "Credentials",
    "EnqueueOutcome",
    "EnqueueRequest",
    "From",
    "JobCtx",
    "JobHandle",
    "JobHandler",
    "JobRegistry",
    "JobState",
    "Monitor",
    "Outcome",
    "ProcessCtx",
    "QueuedJob",
    "ReconnectConfig",
    "RemoteConfig",
    "Restart",
    "Shutdown",
    "SpawnedTask",
    "Tracked",
    "Worker",
    "WorkerConfig",
    "WorkerContext",
    "WorkerLoop",
    "WorkerState",
    "connect",
    "injected",
    "stop_on_signals",
]

__version__ = "0.1.0"

_REMOTE: Final = frozenset({"Credentials", "ReconnectConfig", "RemoteConfig", "Worker"})
"""What is loaded when it is asked for: most programs have no remote worker."""


def __getattr__(name: str) -> Any:
    if name in _REMOTE:
        return getattr(import_module("workerctx.remote"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
