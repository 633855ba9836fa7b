"""A `Storage` on Redis or Valkey: standalone, behind Sentinel, or one slot of a Cluster.

``workerctx.queue.connect("redis://...")`` is the way in; the names below are for type checkers.
"""

from __future__ import annotations

from workerctx_redis import _extra as _extra
from workerctx_redis._storage import RedisStorage as RedisStorage
from workerctx_redis._storage import open_redis as open_redis

__all__ = ["RedisStorage", "open_redis"]
