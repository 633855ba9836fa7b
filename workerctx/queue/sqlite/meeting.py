"""Where the processes of a user that work on the same file meet: a folder that holds no data."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path


def meeting_place() -> Path | None:
    """Return the folder, made if need be; None if there is no safe one."""
    if not hasattr(os, "getuid"):
        return None
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"workerctx-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        return None
    return folder


def short_name(database: Path, namespace: str) -> str:
    """Return what a namespace of a file is called there; short, as paths of sockets must be."""
    return hashlib.sha256(os.fsencode(f"{os.path.realpath(database)}?{namespace}")).hexdigest()[:12]
