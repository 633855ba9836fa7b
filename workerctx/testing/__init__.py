"""Help for tests of code that uses jobs, and the suite that a store of your own must pass.

Nothing here needs pytest but `workerctx.testing.fixtures` and `workerctx.testing.conformance`.
"""

from workerctx.testing.clock import advance as advance
from workerctx.testing.polling import wait_until as wait_until
from workerctx.testing.virtual import VirtualTimeLoop as VirtualTimeLoop
from workerctx.testing.virtual import virtual_clock as virtual_clock

__all__ = ["VirtualTimeLoop", "advance", "virtual_clock", "wait_until"]
