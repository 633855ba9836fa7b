"""How long a store that fails is left alone."""

from __future__ import annotations

import pytest

from workerctx.runtime.persist import backoff


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 0.05, 0.1), (2, 0.2, 0.4), (5, 1.5, 3), (100_000, 1.5, 3)])
def test_pauses_grow_up_to_a_bound(failures: int, least: float, most: float) -> None:
    """W4: a store that fails is asked again ever more slowly, and for as long as it takes."""
    assert least <= backoff(failures) <= most
