"""Fixtures that every test may use: the ones that we ship."""

from workerctx.testing.fixtures import anyio_backend, virtual_time

__all__ = ["anyio_backend", "virtual_time"]
