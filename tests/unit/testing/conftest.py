"""The shipped fixtures, tested by using them."""

from workerctx.testing.fixtures import anyio_backend as anyio_backend
from workerctx.testing.fixtures import virtual_time as virtual_time
