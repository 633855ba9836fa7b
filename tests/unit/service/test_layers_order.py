"""The order of layers: doubtful ones are warned about, once, where they are made."""

from __future__ import annotations

import warnings

import pytest

from workerctx.errors import LayerOrderWarning
from workerctx.service import JobRegistry
from workerctx.service.layers import (
    Catch,
    ClusterRateLimit,
    Concurrency,
    LayerRole,
    LoadShed,
    LocalRateLimit,
    Retry,
    Timeout,
    Trace,
)


class Metrics:
    """A layer of somebody else's that tells its role."""

    role = LayerRole.METRICS

    async def __call__(self, request, call_next):
        return await call_next(request)


async def plain(request, call_next):
    return await call_next(request)


PAIRS = [
    (Retry(), Trace()),
    (Retry(), Metrics()),
    (Retry(), Timeout(1)),
    (Timeout(1), Trace()),
    (Timeout(1), Metrics()),
    (Concurrency(1), Retry()),
    (Concurrency(1), Timeout(1)),
    (LocalRateLimit(1, 1), Retry()),
    (ClusterRateLimit("a"), Retry()),
    (LoadShed(1), Retry()),
    (Retry(), Catch()),
]


def register(layers, jobs: JobRegistry | None = None, name: str = "job") -> list[warnings.WarningMessage]:
    """Register a handler with these layers and return what was warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        async def job() -> None: ...

        (jobs or JobRegistry()).register(name=name, layers=layers)(job)
    return caught


@pytest.mark.parametrize(("outer", "inner"), PAIRS, ids=lambda layer: type(layer).__name__)
def test_the_wanted_order_says_nothing_and_the_reverse_warns(outer, inner):
    """Item 33: each pair of section 1.5, with other layers in between."""
    assert register([outer, plain, inner]) == []
    (warning,) = register([inner, plain, outer])
    assert warning.category is LayerOrderWarning
    assert f"around 'job': {type(outer).__name__} belongs around {type(inner).__name__}" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("layer", [layer for pair in PAIRS for layer in pair])
def test_a_pair_with_one_member_absent_says_nothing(layer):
    """Item 33: alone or beside layers without a role, nothing is out of order."""
    assert register([plain, layer, plain]) == []


def test_a_second_layer_in_the_wanted_place_says_nothing():
    """A timeout around a retry that has another one inside bounds all tries on purpose."""
    assert register([Timeout(60), Retry(), Timeout(1)]) == []


def test_all_doubts_are_told():
    """Each doubtful pair is a warning of its own."""
    assert len(register([Trace(), Timeout(1), Retry()])) == 3


def test_layers_of_the_registry_are_warned_about_once():
    """Many handlers inside the same layers are one mistake, told once."""
    jobs = JobRegistry(layers=[Timeout(1), Retry()])
    assert len(register([], jobs, "first")) == 1
    assert register([], jobs, "second") == []
    assert len(register([Concurrency(1)], jobs, "third")) == 2


def test_including_a_registry_may_make_an_order_doubtful():
    """The layers of both registries are looked at together, and what was told before is not told again."""
    outer, inner = JobRegistry(layers=[Trace()]), JobRegistry(layers=[Timeout(1)])
    assert len(register([Retry()], inner)) == 1
    with pytest.warns(LayerOrderWarning) as caught:
        outer.include(inner, "inner.")
    sentences = [str(warning.message).partition(",")[0] for warning in caught]
    assert sentences == [
        "the layers around 'inner.job': Retry belongs around Trace",
        "the layers around 'inner.job': Timeout belongs around Trace",
    ]
    assert caught[0].filename == __file__


def test_a_warning_that_is_an_error_registers_nothing():
    """With warnings as errors the handler is refused, and its kind is free."""
    jobs = JobRegistry()

    async def job() -> None: ...

    with pytest.raises(LayerOrderWarning):
        jobs.register(name="job", layers=[Trace(), Retry()])(job)
    assert jobs.kinds == ()
    jobs.register(name="job", layers=[Retry(), Trace()])(job)
