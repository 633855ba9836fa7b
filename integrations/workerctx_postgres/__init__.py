"""Jobs in PostgreSQL: for any number of processes on any number of machines, in the database that you have.

Threads of a storage talk to the server through psycopg's synchronous interface: one writes what many callers ask for
in one transaction, one reads beside it, one listens for notifications.
"""

from __future__ import annotations

from workerctx_postgres import _extra as _extra
from workerctx_postgres._schema import grants as grants
from workerctx_postgres._schema import migrate as migrate
from workerctx_postgres._storage import PostgresStorage as PostgresStorage
from workerctx_postgres._storage import open_postgres as open_postgres

__all__ = ["PostgresStorage", "grants", "migrate", "open_postgres"]
