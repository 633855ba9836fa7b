"""A registry's store, looked at through something that a test puts between the two."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from attrs import define, field

from workerctx.service.store import RegistryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from workerctx.queue import EnqueueRequest, Storage
    from workerctx.service import JobRegistry


@define(eq=False)
class StoreView(RegistryStore):
    """Opens and closes the store that is behind it, and shows it through a glass.

    Attributes:
        behind: The registry's store without this view; perhaps another view.
        glass: Returns what the registry sees instead of an open storage; called once for each.
        enqueued: What was enqueued through the glass, if it takes note.
    """

    behind: RegistryStore
    glass: Callable[[Storage], Storage]
    enqueued: list[EnqueueRequest] | None = None
    _seen: dict[int, tuple[Storage, Storage]] = field(factory=dict[int, "tuple[Storage, Storage]"], init=False)

    @property
    def url(self) -> str:
        """The URL of the store behind."""
        return self.behind.url

    @contextmanager
    def override(self, url: str) -> Generator[None]:
        """Use another URL inside the block, seen through the same glass."""
        with self.behind.override(url):
            yield

    @property
    def in_use(self) -> bool:
        """Whether anybody has the store open."""
        return self.behind.in_use

    @property
    def storage(self) -> Storage:
        """The store of the running event loop, seen through the glass."""
        real = self.behind.storage
        if id(real) not in self._seen:
            self._seen[id(real)] = (real, self.glass(real))
        return self._seen[id(real)][1]

    async def __aenter__(self) -> Self:
        await self.behind.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.behind.__aexit__(exc_type, exc, tb)


@contextmanager
def seen_through(
    jobs: JobRegistry, glass: Callable[[Storage], Storage], enqueued: list[EnqueueRequest] | None = None
) -> Generator[None]:
    """Let a registry, and all that are included with it, see their store through a glass inside the block.

    Args:
        jobs: The registry.
        glass: Returns what it sees instead of an open storage.
        enqueued: Where the glass notes what is enqueued, if it does.
    """
    root = jobs.branch.root
    before = root.own_store
    root.own_store = root.own_sync.store = StoreView(before.given, before, glass, enqueued)
    try:
        yield
    finally:
        root.own_store = root.own_sync.store = before
