"""What errors of the driver and the server mean, in our words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from coredis import exceptions as driver

from workerctx.errors import QueueError, StoreBusy, StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from workerctx_redis._endpoint import Endpoint

_MEANING: Final[dict[str, tuple[type[QueueError], str]]] = {
    "OOM": (
        StoreFull,
        "has reached its maxmemory and took nothing: prune finished jobs or give it more memory",
    ),
    "BUSY": (StoreBusy, "is busy with a script; nothing was done, try again"),
    "LOADING": (StoreUnavailable, "is still loading its data"),
    "READONLY": (StoreUnavailable, "is a replica, which cannot be written to; the next call looks for the primary"),
    "MISCONF": (StoreUnavailable, "cannot save its data to disk and refuses writes: look into its log"),
    "NOREPLICAS": (StoreUnavailable, "refuses writes because too few of its replicas are there"),
    "MASTERDOWN": (StoreUnavailable, "is a replica that has lost its primary"),
    "CLUSTERDOWN": (StoreUnavailable, "belongs to a cluster that does not serve all slots now"),
    "TRYAGAIN": (StoreUnavailable, "is moving the slot of this namespace to another node"),
    "NOAUTH": (StoreDenied, "wants a user and password: put them into the URL"),
    "WRONGPASS": (StoreDenied, "does not accept the user or password: look at the URL and the server's ACL"),
    "NOPERM": (StoreDenied, "does not allow this user what a store needs: look at the server's ACL"),
}
_CODE: Final = re.compile(rf"\b({'|'.join(_MEANING)})\b")
_MISTAKE: Final = re.compile(
    r"DB index is out of range|cluster support disabled|unknown command .?SENTINEL", re.IGNORECASE
)
"""What a server says that no wait mends."""
_SENT_ABOUT: Final = "Maximum retries exhausted"
"""What the driver says when the nodes sent it from one to the other, or asked it to try again."""
_DENIED_IN_SCRIPT: Final = ("The user executing the script", "ACL failure in script")


def explain(exc: BaseException, endpoint: Endpoint) -> QueueError:
    """Return the error to raise for one of the driver; secrets are in neither."""
    if isinstance(exc, QueueError):
        return exc
    text = str(exc)
    code = _code(exc, text)
    if code:
        kind, meaning = _MEANING[code]
        return kind(f"Redis at {endpoint} {meaning}{f' ({text})' if code == 'NOPERM' else ''}")
    if _MISTAKE.search(f"{text} {_root(exc)}"):
        return StoreDenied(f"Redis at {endpoint} is not what the URL says, look at it: {_root(exc)}")
    if isinstance(exc, TimeoutError):
        return StoreUnavailable(f"Redis at {endpoint} did not answer in time; whether the call was done is unknown")
    if isinstance(exc, driver.ResponseError) and not isinstance(exc, driver.RedisClusterError):
        return StoreUnavailable(f"Redis at {endpoint} refused a call: {text}")
    return StoreUnavailable(f"Redis at {endpoint} cannot be reached: {_root(exc)}")


def _code(exc: BaseException, text: str) -> str:
    """Return the server's word for what happened; empty if it said none."""
    found = _CODE.search(text)
    if found:
        return found.group(1)
    if isinstance(exc, driver.AuthenticationError):
        return "WRONGPASS"
    if isinstance(exc, driver.ClusterError) and _SENT_ABOUT in text:
        return "TRYAGAIN"
    if isinstance(exc, driver.ReadOnlyError):
        return "READONLY"
    denied = isinstance(exc, driver.AuthorizationError) or any(words in text for words in _DENIED_IN_SCRIPT)
    return "NOPERM" if denied else ""


def _root(exc: BaseException) -> str:
    """Return the innermost reason, which is the one that helps."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc) or type(exc).__name__
