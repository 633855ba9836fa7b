"""The scope of a tenant: what surrounds each run of a job that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class TenantScopeProvider(Protocol):
    """Makes the scope inside which the jobs of a tenant run; a worker's, or that of the layer `Tenant`."""

    def __call__(self, tenant_id: str, /) -> AbstractAsyncContextManager[object]:
        """Return the scope of one tenant; it is entered and left around every run.

        What it raises on the way in fails the run. It cannot make a failed run a success.
        """
        ...
