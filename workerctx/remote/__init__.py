"""Workers without database access: the same handlers, served over a session with a gateway."""

from workerctx.remote.builder import WorkerBuilder as WorkerBuilder
from workerctx.remote.config import Credentials as Credentials
from workerctx.remote.config import RemoteConfig as RemoteConfig
from workerctx.remote.reconnect import ReconnectConfig as ReconnectConfig
from workerctx.remote.session import Connector as Connector
from workerctx.remote.session import WorkerSession as WorkerSession
from workerctx.remote.unacked import UnackedResults as UnackedResults
from workerctx.remote.worker import Worker as Worker
