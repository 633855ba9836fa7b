"""Places for both ends of a move, on every store that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return the URL of a new, empty place on a kind of store."""

    def make(kind: str) -> str:
        name = uuid4().hex[:8]
        if kind == "memory":
            return f"memory://{name}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db?synchronous=normal"
        urls: Callable[[str], str] = request.getfixturevalue(f"{kind}_url")
        return urls(name)

    return make
