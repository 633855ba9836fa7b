"""Jobs in motion: the worker loop."""

from workerctx.runtime.config import WorkerConfig as WorkerConfig
from workerctx.runtime.events import JobFinished as JobFinished
from workerctx.runtime.events import JobLost as JobLost
from workerctx.runtime.events import JobOutcome as JobOutcome
from workerctx.runtime.events import JobsClaimed as JobsClaimed
from workerctx.runtime.events import LoopBlocked as LoopBlocked
from workerctx.runtime.events import LoopLag as LoopLag
from workerctx.runtime.events import RunOverran as RunOverran
from workerctx.runtime.events import StoreFailed as StoreFailed
from workerctx.runtime.events import StoreRecovered as StoreRecovered
from workerctx.runtime.loop import WorkerLoop as WorkerLoop
