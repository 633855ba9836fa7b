"""Jobs in the memory of one process: for tests, for scripts, and for work that may be lost with the process."""

from workerctx.queue.memory.storage import MemoryStorage as MemoryStorage
from workerctx.queue.memory.storage import is_shared as is_shared
from workerctx.queue.memory.storage import open_memory as open_memory

__all__ = ["MemoryStorage", "is_shared", "open_memory"]
