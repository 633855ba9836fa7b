"""Jobs in a SQLite file: durable, for any number of processes on one machine, and nothing to install.

Two threads of a storage talk to the file: one writes what many callers ask for in one transaction, one reads beside
it. Statements are data in the room that they belong to.
"""

from workerctx.queue.sqlite.schema import migrate as migrate
from workerctx.queue.sqlite.storage import SqliteStorage as SqliteStorage
from workerctx.queue.sqlite.storage import open_sqlite as open_sqlite

__all__ = ["SqliteStorage", "migrate", "open_sqlite"]
