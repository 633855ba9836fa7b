"""A worker's life: state, tracked work, listeners, waiting and shutdown. Knows nothing of jobs."""

from __future__ import annotations

from workerctx.lifecycle.context import WorkerContext as WorkerContext
from workerctx.lifecycle.events import (
    Custom as Custom,
)
from workerctx.lifecycle.events import (
    Error as Error,
)
from workerctx.lifecycle.events import (
    Event as Event,
)
from workerctx.lifecycle.events import (
    Exit as Exit,
)
from workerctx.lifecycle.events import (
    HeartBeat as HeartBeat,
)
from workerctx.lifecycle.events import (
    Idle as Idle,
)
from workerctx.lifecycle.events import (
    ListenerError as ListenerError,
)
from workerctx.lifecycle.events import (
    Pause as Pause,
)
from workerctx.lifecycle.events import (
    Resume as Resume,
)
from workerctx.lifecycle.events import (
    Start as Start,
)
from workerctx.lifecycle.events import (
    Stop as Stop,
)
from workerctx.lifecycle.events import (
    Success as Success,
)
from workerctx.lifecycle.monitor import Monitor as Monitor
from workerctx.lifecycle.shutdown import Shutdown as Shutdown
from workerctx.lifecycle.shutdown import stop_on_signals as stop_on_signals
from workerctx.lifecycle.signals import (
    Listener as Listener,
)
from workerctx.lifecycle.signals import (
    worker_event as worker_event,
)
from workerctx.lifecycle.signals import (
    worker_exited as worker_exited,
)
from workerctx.lifecycle.signals import (
    worker_paused as worker_paused,
)
from workerctx.lifecycle.signals import (
    worker_resumed as worker_resumed,
)
from workerctx.lifecycle.signals import (
    worker_started as worker_started,
)
from workerctx.lifecycle.signals import (
    worker_stopped as worker_stopped,
)
from workerctx.lifecycle.spawned import SpawnedTask as SpawnedTask
from workerctx.lifecycle.state import (
    TRANSITIONS as TRANSITIONS,
)
from workerctx.lifecycle.state import (
    Effect as Effect,
)
from workerctx.lifecycle.state import (
    Machine as Machine,
)
from workerctx.lifecycle.state import (
    Operation as Operation,
)
from workerctx.lifecycle.state import (
    Outcome as Outcome,
)
from workerctx.lifecycle.state import (
    Snapshot as Snapshot,
)
from workerctx.lifecycle.state import (
    WorkerState as WorkerState,
)
from workerctx.lifecycle.supervised import (
    Restart as Restart,
)
from workerctx.lifecycle.supervised import (
    Service as Service,
)
from workerctx.lifecycle.supervised import (
    ServiceStatistics as ServiceStatistics,
)
from workerctx.lifecycle.tracked import Tracked as Tracked
from workerctx.lifecycle.view import RunningTask as RunningTask
from workerctx.lifecycle.view import WorkerStatistics as WorkerStatistics
