"""Putting a remote worker together: settings, handlers, and what they need."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attrs import frozen

from workerctx.errors import InvalidConfig, InvalidHandler
from workerctx.service import JobHandler, JobRegistry
from workerctx.service.branch import Branch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from workerctx.remote.config import RemoteConfig
    from workerctx.service import TenantScopeProvider
    from workerctx.service.branch import AnyHandler
    from workerctx.service.store import RegistryStore

_log = logging.getLogger("workerctx")

W = TypeVar("W")


@frozen(eq=False)
class Crew:
    """Who runs a remote worker's jobs.

    Attributes:
        kinds: The handlers' own kinds, sorted.
        jobs: A registry of nobody but them.
        stores: Where they find a store to enqueue to.
        data: Values that they can have injected, by type.
        tenant_scope: Makes the scope inside which each run of a tenant's job happens.
    """

    kinds: tuple[str, ...]
    jobs: JobRegistry
    stores: Sequence[RegistryStore]
    data: Mapping[type[Any], object] | None = None
    tenant_scope: TenantScopeProvider | None = None


class WorkerBuilder(Generic[W]):
    """Collects what a remote worker runs: ``Worker.builder(config).register(resize).build()``.

    Args:
        config: The settings.
        make: Makes the worker.
    """

    def __init__(self, config: RemoteConfig, make: Callable[[RemoteConfig, Crew], W]) -> None:
        self._config = config
        self._make = make
        self._handlers: dict[str, AnyHandler] = {}
        self._data: Mapping[type[Any], object] | None = None
        self._tenant_scope: TenantScopeProvider | None = None

    def register(self, *handlers: AnyHandler | JobRegistry) -> Self:
        """Add handlers, or all those of a registry.

        Where they enqueue, with ``handler.enqueue(...)`` or `JobCtx.enqueue`, the gateway's store is meant while the
        worker runs; the router and the ``on_enqueue`` hook are those of the first handler's registry.

        Raises:
            InvalidHandler: It is no handler, or there is one for its kind.
        """
        for each in handlers:
            if isinstance(each, JobRegistry):
                _warn_of_schedules(each)
                self.register(*each.handlers)
            elif isinstance(each, JobHandler):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers exist
                self._add(each)
            else:
                raise InvalidHandler(f"a worker runs handlers, not {each!r}: put @jobs.register above it")
        return self

    def data(self, values: Mapping[type[Any], object]) -> Self:
        """Set the values that handlers can have injected, by type."""
        self._data = values
        return self

    def tenant_scope(self, provider: TenantScopeProvider) -> Self:
        """Set what makes the scope inside which each run of a tenant's job happens."""
        self._tenant_scope = provider
        return self

    def build(self) -> W:
        """Make the worker.

        Raises:
            InvalidConfig: There is no handler.
        """
        if not self._handlers:
            raise InvalidConfig("a worker without handlers has nothing to run: register at least one")
        handlers = tuple(dict.fromkeys(self._handlers.values()))
        owner = handlers[0].place.owner
        first = owner.root if isinstance(owner, Branch) else owner
        jobs = JobRegistry(router=first.router, on_enqueue=first.hook)
        jobs.branch.table.update(self._handlers)
        stores = (jobs.branch.store, *(handler.place.owner.sync.store for handler in handlers))
        kinds = tuple(sorted(handler.kind for handler in handlers))
        return self._make(self._config, Crew(kinds, jobs, tuple(dict.fromkeys(stores)), self._data, self._tenant_scope))

    def _add(self, handler: AnyHandler) -> None:
        taken = [kind for kind in handler.kinds if kind in self._handlers]
        if taken:
            raise InvalidHandler(f"there is a handler for the kind {taken[0]!r} already: register each once")
        self._handlers |= dict.fromkeys(handler.kinds, handler)


def _warn_of_schedules(jobs: JobRegistry) -> None:
    names = ", ".join(repr(schedule.name) for schedule in jobs.schedules)
    if names:
        _log.warning(
            "the schedules that %r declares are left to workers with a store, a remote one may not put them there: %s",
            jobs,
            names,
        )
