"""Fixtures for pytest, for those who want them.

Nothing is loaded by itself. Name the module in your top ``conftest.py``, ``pytest_plugins =
["workerctx.testing.fixtures"]``, or import the fixtures one by one where they should be known. It is anyio
that runs async tests: with ``anyio_mode = "auto"`` in the settings of pytest, or where ``pytest.mark.anyio`` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from workerctx.testing.virtual import virtual_clock

try:
    import pytest
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError("the fixtures need pytest: pip install 'workerctx[testing]'") from _missing

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Run each async test on both event loops, in virtual time if it asks for `virtual_time`."""
    backend: str = request.param
    return (backend, virtual_clock(backend)) if "virtual_time" in request.fixturenames else backend


@pytest.fixture
def virtual_time() -> Callable[[], float]:
    """Run the test in virtual time, see `virtual_clock`; call it for the seconds since it was called first."""
    began: list[float] = []

    def elapsed() -> float:
        if not began:
            began.append(anyio.current_time())
        return anyio.current_time() - began[0]

    return elapsed
