"""Fixtures that every test may use: the ones that we ship. And how hypothesis behaves: no test is about time."""

from hypothesis import HealthCheck, settings

from workerctx.testing.fixtures import anyio_backend, virtual_time

__all__ = ["anyio_backend", "virtual_time"]

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
