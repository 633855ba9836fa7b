"""The settings of a worker loop."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from typing import Any

import pytest
from attrs import fields

from workerctx.errors import InvalidConfig
from workerctx.runtime import WorkerConfig


def test_defaults_are_valid_and_every_setting_is_documented() -> None:
    """The defaults pass their own checks, and the class says of each field what it is for, and its default."""
    config = WorkerConfig()
    assert config.queues == {"default": 1}
    text = inspect.getdoc(WorkerConfig) or ""
    described = dict(re.findall(r"^    (\w+): (.*?)\.$(?=\n    \w+:|\n\nRaises)", text, re.DOTALL | re.MULTILINE))
    assert described.keys() == {setting.name for setting in fields(WorkerConfig)}
    for name, words in described.items():
        default = getattr(config, name)
        shown = {
            "queues": "``default``",
            "labels": "none",
            "concurrency_per_kind": "no kind is limited",
            "store_patience": "no limit",
        }.get(name)
        assert words.endswith(f"Default: {shown or format(default, 'g')}"), name
        assert not isinstance(default, float) or words.startswith("Seconds"), name


def test_durations_and_names_come_in_several_forms() -> None:
    """Durations are seconds, timedeltas or text; names are sequences or text with commas; doubles are dropped."""
    config = WorkerConfig(lease_ttl=timedelta(minutes=1), heartbeat="2.5", queues="mail, video,mail", labels=["gpu"])
    assert (config.lease_ttl, config.heartbeat) == (60.0, 2.5)
    assert list(config.queues) == ["mail", "video"]
    assert config.labels == ("gpu",)


@pytest.mark.parametrize(
    ("queues", "weights"),
    [
        ({"high": 3, "default": 1}, {"high": 3, "default": 1}),
        ("high=3, default", {"high": 3, "default": 1}),
        (["high=3", "default=2"], {"high": 3, "default": 2}),
        (["a", "b", "c"], {"a": 16, "b": 4, "c": 1}),
    ],
)
def test_weights_of_queues(queues: Any, weights: dict[str, int]) -> None:
    """Q5: queues come with their weights, as a mapping or as texts; names alone are an order of preference."""
    assert list(WorkerConfig(queues=queues).queues.items()) == list(weights.items())


def test_limits_of_kinds() -> None:
    """W1: limits of kinds are a mapping, or a text in the environment."""
    assert WorkerConfig(concurrency_per_kind={"resize": 2}).concurrency_per_kind == {"resize": 2}
    config = WorkerConfig.from_env({"WORKERCTX_CONCURRENCY_PER_KIND": "resize=2, mail=5", "WORKERCTX_QUEUES": "a=2,b"})
    assert (config.concurrency_per_kind, config.queues) == ({"resize": 2, "mail": 5}, {"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"queues": {"a": 0}}, "the weight of queue 'a' must be at least 1, not 0"),
        ({"queues": "a=much"}, "'a=much' is not a value for queues: 'much' is not a whole number"),
        ({"queues": "a=3, b, a=2"}, "'a' has two numbers, 3 and 2"),
        ({"queues": ["a=3", "a"]}, "'a' has two numbers, 3 and 1"),
        ({"queues": {"": 1}}, "not a value for queues"),
        ({"concurrency_per_kind": {"a": 0}}, "concurrency_per_kind of 'a' must be at least 1, not 0"),
        ({"concurrency_per_kind": "a"}, "'a' has no number: write a=2, for example"),
        ({"overrun_warning": 0}, "overrun_warning must be more than 0 seconds"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"concurrency": "many"}, "'many' is not a value for concurrency"),
        ({"concurrency": 2.5}, "2.5 is not a value for concurrency"),
        ({"concurrency": True}, "True is not a value for concurrency: it is not a number"),
        ({"lease_ttl": True}, "True is not a value for lease_ttl: it is not a number"),
        ({"lease_ttl": None}, "None is not a value for lease_ttl"),
        ({"prefetch": -1}, "prefetch"),
        ({"queues": ""}, "queues must name at least one queue"),
        ({"queues": ()}, "queues must name at least one queue"),
        ({"queues": [1]}, "not a value for queues"),
        ({"queues": "x" * 1000}, "queue"),
        ({"grace": -1}, "grace"),
        ({"grace": float("nan")}, "grace"),
        ({"hard_limit": -1}, "hard_limit"),
        ({"lease_ttl": 0}, "lease_ttl must be more than 0 seconds"),
        ({"lease_ttl": float("inf")}, "lease_ttl"),
        ({"heartbeat": float("nan")}, "heartbeat"),
        ({"reap_interval": float("inf")}, "reap_interval"),
        ({"heartbeat": 20.0}, "heartbeat (20.0) must be at most half of lease_ttl (30.0)"),
        ({"poll_interval": -1}, "poll_interval"),
        ({"block_warning": 0}, "block_warning"),
        ({"prefetch_window": 0}, "prefetch_window"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], part: str) -> None:
    """Bad settings are one sentence that names the setting."""
    with pytest.raises(InvalidConfig) as caught:
        WorkerConfig(**settings)
    assert part in str(caught.value)


def test_all_complaints_come_together() -> None:
    """Several bad settings are told in one go."""
    with pytest.raises(InvalidConfig, match=r"concurrency.*; .*grace"):
        WorkerConfig(concurrency=0, grace=-1)


def test_environment_fills_what_was_not_given() -> None:
    """Every setting can come from the environment; what is given in code wins."""
    environ = {
        "WORKERCTX_CONCURRENCY": "7",
        "WORKERCTX_QUEUES": "a,b",
        "WORKERCTX_GRACE": "None",
        "WORKERCTX_LABELS": "",
        "WORKERCTX_UNKNOWN": "x",
    }
    config = WorkerConfig.from_env(environ, queues=["c"], heartbeat=None)
    assert (config.concurrency, config.queues, config.grace, config.labels) == (7, {"c": 1}, None, ())
    assert config.heartbeat == WorkerConfig().heartbeat


def test_a_bad_environment_names_the_setting() -> None:
    """A value in the environment that cannot be read is one sentence."""
    with pytest.raises(InvalidConfig, match="'soon' is not a value for lease_ttl"):
        WorkerConfig.from_env({"WORKERCTX_LEASE_TTL": "soon"})


def test_changed_settings_are_checked_again() -> None:
    """`with_options` gives a changed copy, checked as a whole."""
    config = WorkerConfig()
    assert config.with_options(grace=None).grace is None
    with pytest.raises(InvalidConfig):
        config.with_options(concurrency=-1)
