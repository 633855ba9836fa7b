"""Jobs at rest: the model, the contract that every store keeps, and the stores that come along."""

from workerctx.queue.base import LeaseRenewer as LeaseRenewer
from workerctx.queue.base import RateLimits as RateLimits
from workerctx.queue.base import Schedules as Schedules
from workerctx.queue.base import Storage as Storage
from workerctx.queue.base import Workers as Workers
from workerctx.queue.codec import MAX_JSON_BYTES as MAX_JSON_BYTES
from workerctx.queue.codec import decode_json as decode_json
from workerctx.queue.codec import encode_json as encode_json
from workerctx.queue.connect import StoreURL as StoreURL
from workerctx.queue.connect import connect as connect
from workerctx.queue.events import Cancelled as Cancelled
from workerctx.queue.events import Completed as Completed
from workerctx.queue.events import Failed as Failed
from workerctx.queue.events import JobEvent as JobEvent
from workerctx.queue.events import Lagged as Lagged
from workerctx.queue.events import LeaseExpired as LeaseExpired
from workerctx.queue.events import Ready as Ready
from workerctx.queue.events import Snoozed as Snoozed
from workerctx.queue.events import Started as Started
from workerctx.queue.finish import ClaimRequest as ClaimRequest
from workerctx.queue.finish import CompleteLease as CompleteLease
from workerctx.queue.finish import FailLease as FailLease
from workerctx.queue.finish import Finish as Finish
from workerctx.queue.finish import ReleaseLease as ReleaseLease
from workerctx.queue.finish import SnoozeLease as SnoozeLease
from workerctx.queue.finish import ThrottleLease as ThrottleLease
from workerctx.queue.handle import JobHandle as JobHandle
from workerctx.queue.ids import new_id as new_id
from workerctx.queue.jobqueue import JobQueue as JobQueue
from workerctx.queue.jobqueue import Wakeups as Wakeups
from workerctx.queue.limits import Granted as Granted
from workerctx.queue.limits import RateLimit as RateLimit
from workerctx.queue.model import ACTIVE_STATES as ACTIVE_STATES
from workerctx.queue.model import FINAL_STATES as FINAL_STATES
from workerctx.queue.model import CancelReason as CancelReason
from workerctx.queue.model import Claimed as Claimed
from workerctx.queue.model import EnqueueOutcome as EnqueueOutcome
from workerctx.queue.model import FailedAttempt as FailedAttempt
from workerctx.queue.model import JobError as JobError
from workerctx.queue.model import JobPage as JobPage
from workerctx.queue.model import JobState as JobState
from workerctx.queue.model import Lease as Lease
from workerctx.queue.model import QueuedJob as QueuedJob
from workerctx.queue.model import QueueInfo as QueueInfo
from workerctx.queue.model import Renewed as Renewed
from workerctx.queue.moving import MoveReport as MoveReport
from workerctx.queue.moving import give_back as give_back
from workerctx.queue.moving import move as move
from workerctx.queue.prepared import Prepared as Prepared
from workerctx.queue.request import EnqueueRequest as EnqueueRequest
from workerctx.queue.retry import DEFAULT_RETRY as DEFAULT_RETRY
from workerctx.queue.retry import Constant as Constant
from workerctx.queue.retry import Exponential as Exponential
from workerctx.queue.retry import Linear as Linear
from workerctx.queue.retry import RetryPolicy as RetryPolicy
from workerctx.queue.schedule import Fired as Fired
from workerctx.queue.schedule import Misfire as Misfire
from workerctx.queue.schedule import Schedule as Schedule
from workerctx.queue.workers import WorkerCommand as WorkerCommand
from workerctx.queue.workers import WorkerInfo as WorkerInfo
from workerctx.queue.workflow import Workflow as Workflow

__all__ = [
    "ACTIVE_STATES",
    "DEFAULT_RETRY",
    "FINAL_STATES",
    "MAX_JSON_BYTES",
    "CancelReason",
    "Cancelled",
    "ClaimRequest",
    "Claimed",
    "CompleteLease",
    "Completed",
    "Constant",
    "EnqueueOutcome",
    "EnqueueRequest",
    "Exponential",
    "FailLease",
    "Failed",
    "FailedAttempt",
    "Finish",
    "Fired",
    "Granted",
    "JobError",
    "JobEvent",
    "JobHandle",
    "JobPage",
    "JobQueue",
    "JobState",
    "Lagged",
    "Lease",
    "LeaseExpired",
    "LeaseRenewer",
    "Linear",
    "Misfire",
    "MoveReport",
    "QueueInfo",
    "QueuedJob",
    "RateLimit",
    "RateLimits",
    "Ready",
    "ReleaseLease",
    "Renewed",
    "RetryPolicy",
    "Schedule",
    "Schedules",
    "SnoozeLease",
    "Snoozed",
    "Started",
    "Storage",
    "StoreURL",
    "ThrottleLease",
    "Wakeups",
    "WorkerCommand",
    "WorkerInfo",
    "Workers",
    "Workflow",
    "connect",
    "decode_json",
    "encode_json",
    "give_back",
    "move",
    "new_id",
]
