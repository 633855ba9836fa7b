"""Help for tests of code that uses jobs, and the suite that a store of your own must pass."""

from workerctx.testing.clock import advance as advance

__all__ = ["advance"]
