"""What a handler may ask of the store from afar: each call is data, and knows how to perform itself on a real store.

Calls are safe to repeat: one whose session broke is sent again in the next, and done once. What adds a job carries the
job's id, by which the second telling finds what the first has done.
"""

from typing import TypeAlias

from workerctx.remote.calls.base import Call as Call
from workerctx.remote.calls.companions import Acquire as Acquire
from workerctx.remote.calls.companions import ConfigureLimit as ConfigureLimit
from workerctx.remote.calls.companions import DeleteSchedule as DeleteSchedule
from workerctx.remote.calls.companions import DrainLimit as DrainLimit
from workerctx.remote.calls.companions import EnableSchedule as EnableSchedule
from workerctx.remote.calls.companions import GetSchedule as GetSchedule
from workerctx.remote.calls.companions import ListLimits as ListLimits
from workerctx.remote.calls.companions import ListSchedules as ListSchedules
from workerctx.remote.calls.companions import ListWorkers as ListWorkers
from workerctx.remote.calls.companions import Now as Now
from workerctx.remote.calls.companions import PutSchedule as PutSchedule
from workerctx.remote.calls.companions import SendCommand as SendCommand
from workerctx.remote.calls.jobs import AwaitEnd as AwaitEnd
from workerctx.remote.calls.jobs import CancelJob as CancelJob
from workerctx.remote.calls.jobs import CancelWorkflow as CancelWorkflow
from workerctx.remote.calls.jobs import ClearWorkflow as ClearWorkflow
from workerctx.remote.calls.jobs import CountJobs as CountJobs
from workerctx.remote.calls.jobs import DeleteJob as DeleteJob
from workerctx.remote.calls.jobs import Enqueue as Enqueue
from workerctx.remote.calls.jobs import GetJob as GetJob
from workerctx.remote.calls.jobs import IsCancelled as IsCancelled
from workerctx.remote.calls.jobs import ListJobs as ListJobs
from workerctx.remote.calls.jobs import ListQueues as ListQueues
from workerctx.remote.calls.jobs import Page as Page
from workerctx.remote.calls.jobs import PauseQueue as PauseQueue
from workerctx.remote.calls.jobs import PruneJobs as PruneJobs
from workerctx.remote.calls.jobs import ResumeQueue as ResumeQueue
from workerctx.remote.calls.jobs import RetryJob as RetryJob
from workerctx.remote.calls.jobs import Wake as Wake

AnyCall: TypeAlias = (
    Enqueue
    | GetJob
    | AwaitEnd
    | CancelJob
    | IsCancelled
    | CancelWorkflow
    | ClearWorkflow
    | ListJobs
    | CountJobs
    | ListQueues
    | PauseQueue
    | ResumeQueue
    | RetryJob
    | DeleteJob
    | Wake
    | PruneJobs
    | Acquire
    | DrainLimit
    | ConfigureLimit
    | ListLimits
    | Now
    | ListWorkers
    | SendCommand
    | GetSchedule
    | ListSchedules
    | PutSchedule
    | EnableSchedule
    | DeleteSchedule
)
