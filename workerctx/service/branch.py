"""The tree of registries: which handlers each has, and what they get from the registries around it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import Factory, define, field

from workerctx.errors import InvalidHandler, InvalidRequest, LayerOrderWarning, RegistryInUse
from workerctx.queue.request import check_name
from workerctx.service.handler import FunctionHandler, JobHandler, Place
from workerctx.service.layers.order import doubts
from workerctx.service.router import DefaultRouter, Router
from workerctx.service.signature import Contract
from workerctx.service.sync import SyncJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerctx.queue import Schedule, Storage
    from workerctx.service.layers.base import Layer
    from workerctx.service.options import HandlerOptions
    from workerctx.service.reading import Scope
    from workerctx.service.schedules import Declaration
    from workerctx.service.sending import EnqueueHook
    from workerctx.service.store import RegistryStore

AnyHandler: TypeAlias = JobHandler[..., Any]


@define(eq=False)
class Branch:
    """One registry's place in the tree; the root's store serves them all.

    Attributes:
        own_store: Used as long as this is a root.
        own_layers: Around its handlers, inside the layers of its parent.
        own_router: None leaves it to the parent.
        own_hook: Around each enqueueing; None leaves it to the parent.
        parent: Who included it.
        own_prefix: Put before its kinds by its parent.
        table: Handlers by kind and alias, those of the branches below among them.
    """

    own_store: RegistryStore
    own_layers: tuple[Layer, ...] = ()
    own_router: Router | None = None
    own_hook: EnqueueHook | None = None
    parent: Branch | None = field(default=None, init=False)
    own_prefix: str = field(default="", init=False)
    table: dict[str, AnyHandler] = field(factory=dict[str, "AnyHandler"], init=False)
    own_sync: SyncJobs = field(
        default=Factory(lambda self: SyncJobs(self.own_store, self.own_hook), takes_self=True), init=False
    )
    _handlers: list[AnyHandler] = field(factory=list["AnyHandler"], init=False)
    _below: list[Branch] = field(factory=list["Branch"], init=False)
    _declared: list[Declaration] = field(factory=list["Declaration"], init=False)
    _warned: set[tuple[int, int]] = field(factory=set[tuple[int, int]], init=False)

    @property
    def root(self) -> Branch:
        """The branch that nobody included."""
        return self if self.parent is None else self.parent.root

    @property
    def prefix(self) -> str:
        """The prefixes of all branches from the root down to here."""
        return self.own_prefix if self.parent is None else self.parent.prefix + self.own_prefix

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers from the root's down to its own; the first is outermost."""
        return self.own_layers if self.parent is None else self.parent.layers + self.own_layers

    @property
    def store(self) -> RegistryStore:
        """The root's store."""
        return self.root.own_store

    @property
    def storage(self) -> Storage:
        """The open store of the running event loop."""
        return self.store.storage

    @property
    def router(self) -> Router:
        """Its own router, or else the nearest one above."""
        if self.own_router is None and self.parent is not None:
            return self.parent.router
        return self.own_router or DefaultRouter()

    @property
    def hook(self) -> EnqueueHook | None:
        """Its own hook around each enqueueing, or else the nearest one above."""
        if self.own_hook is None and self.parent is not None:
            return self.parent.hook
        return self.own_hook

    @property
    def sync(self) -> SyncJobs:
        """The blocking side of the root's store."""
        return self.root.own_sync

    def add(
        self,
        function: Callable[..., Any],
        options: HandlerOptions,
        name: str | None = None,
        aliases: Sequence[str] = (),
        scope: Scope = None,
    ) -> FunctionHandler[..., Any, ..., Any]:
        """Make a handler of a function.

        Args:
            function: Async or sync.
            options: Defaults of its jobs.
            name: Its kind; None takes its qualified name.
            aliases: Former kinds.
            scope: Local names around it, if it was defined inside a function.

        Raises:
            InvalidHandler: The function cannot be one, or its kind is taken.
            InvalidRequest: An option or name is out of range.
        """
        contract = Contract.of(function, scope, in_process=options.executor is not None)
        place = Place(self, _kind_of(function) if name is None else name, tuple(aliases))
        kinds = [self.prefix + each for each in (place.name, *place.aliases)]
        for kind in kinds:
            check_name("a job's kind", kind)
        options.check(place.name, contract.payload.names)
        self._refuse_taken(kinds)
        self._warn_of_order(kinds[0], (*self.layers, *options.layers))
        handler: FunctionHandler[..., Any, ..., Any] = FunctionHandler(contract, options, place)
        self._handlers.append(handler)
        self._settle(handler, self.prefix, self.layers)
        self._publish(dict.fromkeys(kinds, handler))
        return handler

    def declare(self, declaration: Declaration) -> None:
        """Remember a schedule.

        Raises:
            InvalidRequest: It is not valid, or there is one of its name already.
            InvalidArguments: Its arguments do not fit the handler's signature.
        """
        name = declaration.schedule().name
        if any(schedule.name == name for schedule in self.root.schedules()):
            raise InvalidRequest(f"there is a schedule {name!r} already: give one of them another `name=`")
        self._declared.append(declaration)

    def schedules(self) -> list[Schedule]:
        """Return the schedules from here down, with the kinds and queues that their handlers have now."""
        below = [schedule for branch in self._below for schedule in branch.schedules()]
        return [*(declaration.schedule() for declaration in self._declared), *below]

    def include(self, other: Branch, prefix: str) -> None:
        """Take another root in below this branch.

        Raises:
            RegistryInUse: It has a URL, is open, is no root, or contains this branch.
            InvalidHandler: Both have a handler for the same kind.
        """
        if other.parent is not None or other is self.root:
            raise RegistryInUse(
                "this registry is part of another one already: build a registry per application, in a function"
            )
        if other.own_store.given is not None:
            raise RegistryInUse(
                f"the registry to include has its own store {other.own_store.given!r}, which its jobs would never "
                "reach: leave its URL out"
            )
        if other.own_store.in_use:
            raise RegistryInUse("the registry to include is open: include it before opening it")
        self._refuse_taken([self.prefix + prefix + kind for kind in other.table])
        self.root._warned |= other._warned  # noqa: SLF001 - of its own kind
        for kind, handler in other.table.items():
            self._warn_of_order(self.prefix + prefix + kind, (*self.layers, *handler.place.layers))
        other.parent, other.own_prefix = self, prefix
        self._below.append(other)
        other.settle(other.prefix, other.layers)
        self._publish(other.table)

    def settle(self, prefix: str, layers: tuple[Layer, ...]) -> None:
        """Tell every handler from here down where it stands now."""
        self.table = {}
        for handler in self._handlers:
            self._settle(handler, prefix, layers)
        for branch in self._below:
            branch.settle(prefix + branch.own_prefix, layers + branch.own_layers)
            self.table.update(branch.table)

    def _settle(self, handler: AnyHandler, prefix: str, layers: tuple[Layer, ...]) -> None:
        handler.place.settle(prefix, handler.contract, (*layers, *handler.options.layers))
        self.table.update(dict.fromkeys(handler.kinds, handler))

    def _publish(self, handlers: dict[str, AnyHandler]) -> None:
        branch: Branch | None = self
        while branch is not None:
            branch.table.update(handlers)
            branch = branch.parent

    def _warn_of_order(self, kind: str, layers: tuple[Layer, ...]) -> None:
        warned = self.root._warned  # noqa: SLF001 - of its own kind
        for outer, inner, sentence in doubts(layers):
            pair = id(layers[outer]), id(layers[inner])  # the registry keeps its layers, so these stay theirs
            if pair not in warned:
                warned.add(pair)
                warnings.warn(f"the layers around {kind!r}: {sentence}", LayerOrderWarning, stacklevel=4)

    def _refuse_taken(self, kinds: Sequence[str]) -> None:
        for kind in kinds:
            if kind in self.root.table or kinds.count(kind) > 1:
                raise InvalidHandler(
                    f"there is a handler for the kind {kind!r} already: give one of them another `name=`, "
                    "or include its registry with a prefix"
                )


def _kind_of(function: Callable[..., Any]) -> str:
    kind = str(getattr(function, "__qualname__", "<unnamed>"))
    if kind.endswith(">"):
        raise InvalidHandler(f"{function!r} has no stable name: pass `name=`, which its stored jobs will carry")
    return kind
