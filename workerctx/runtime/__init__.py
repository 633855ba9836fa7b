"""Jobs in motion: the worker loop."""

from workerctx.runtime.config import WorkerConfig as WorkerConfig
from workerctx.runtime.events import LoopBlocked as LoopBlocked
from workerctx.runtime.loop import WorkerLoop as WorkerLoop
from workerctx.runtime.slots import TenantScopeProvider as TenantScopeProvider
