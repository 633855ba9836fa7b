"""Help for tests of code that uses jobs, and the suite that a store of your own must pass.

Nothing here needs pytest but `workerctx.testing.fixtures` and `workerctx.testing.conformance`.
"""

from workerctx.testing.clock import advance as advance
from workerctx.testing.faults import Fault as Fault
from workerctx.testing.faults import Faults as Faults
from workerctx.testing.faults import StoreCall as StoreCall
from workerctx.testing.journal import assert_enqueued as assert_enqueued
from workerctx.testing.journal import enqueued as enqueued
from workerctx.testing.modes import inline as inline
from workerctx.testing.modes import manual as manual
from workerctx.testing.pending import JobOutcome as JobOutcome
from workerctx.testing.pending import run_pending as run_pending
from workerctx.testing.polling import wait_until as wait_until
from workerctx.testing.sessions import MemorySession as MemorySession
from workerctx.testing.sessions import SessionPeer as SessionPeer
from workerctx.testing.sessions import session_pair as session_pair
from workerctx.testing.virtual import VirtualTimeLoop as VirtualTimeLoop
from workerctx.testing.virtual import virtual_clock as virtual_clock

__all__ = [
    "Fault",
    "Faults",
    "JobOutcome",
    "MemorySession",
    "SessionPeer",
    "StoreCall",
    "VirtualTimeLoop",
    "advance",
    "assert_enqueued",
    "enqueued",
    "inline",
    "manual",
    "run_pending",
    "session_pair",
    "virtual_clock",
    "wait_until",
]
