"""`replicas` of a deployment: a number, or one that follows the load."""

from __future__ import annotations

import argparse
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.cli.arguments import replica_counts
from flightserve.config import FrontendOptions
from flightserve.errors import ConfigError
from flightserve.running import make_plan


@fs.deployment(replicas=fs.autoscale(1, 8, target_queue_ms=5, down_after_s=9))
class Pricing:
    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def test_replicas_may_follow_the_load() -> None:
    follows = fs.autoscale(0, 4, target_queue_ms=5)
    settings = fs.bind(Pricing).options(replicas=follows).settings
    assert (settings.replicas, settings.autoscale) == (1, follows)
    assert str(follows) == "0 to 4"
    again = fs.bind(Pricing).options(replicas=follows).options(replicas=3).settings
    assert (again.replicas, again.autoscale) == (3, None)
    with pytest.raises(ConfigError, match="unknown deployment option 'autoscale'"):
        fs.bind(Pricing).options(autoscale=follows)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        ((-1, 2), {}, "autoscale: low is -1; it must be 0 to 1024"),
        ((0, 0), {}, "autoscale: high is 0; it must be 1 to 1024"),
        ((1, 1025), {}, "autoscale: high is 1025; it must be 1 to 1024"),
        ((3, 2), {}, "autoscale: low is 3, more than high, 2"),
        ((1.5, 2), {}, "autoscale: low is 1.5; it is a whole number of replicas"),
        ((True, 2), {}, "autoscale: low is True; it is a whole number of replicas"),
        ((1, 2), {"target_queue_ms": 0}, "autoscale: target_queue_ms is 0; it must be greater than 0"),
        ((1, 2), {"down_after_s": "1"}, "autoscale: down_after_s is '1'; it is a number"),
        ((1, 2), {"down_after_s": float("nan")}, "autoscale: down_after_s is nan; it must be greater than 0"),
    ],
)
def test_bounds_and_times_that_cannot_be(arguments: Any, more: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fs.autoscale(*arguments, **more)
    assert fs.autoscale(0, 1024).start == 1


def plan_of(**replicas: Any) -> Any:
    (planned,) = make_plan(fs.App(fs.bind(Pricing)), FrontendOptions(), replicas, 1).deployments
    return planned.spec.options.replicas, planned.spec.options.autoscale, planned.declared


@pytest.mark.parametrize("wrong", ["1-8", (1, 8), None, 2.0])
def test_what_is_no_number_of_replicas_says_what_is(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"replicas is .*; it is a whole number, or fs\.autoscale\(low, high\)"):
        fs.bind(Pricing).options(replicas=wrong)


def test_who_starts_an_app_may_say_otherwise() -> None:
    declared = fs.autoscale(1, 8, target_queue_ms=5, down_after_s=9)
    assert plan_of() == (1, declared, declared)
    assert plan_of(Pricing=4) == (4, None, declared)
    assert plan_of(Pricing=fs.autoscale(0, 2)) == (1, fs.autoscale(0, 2), declared)
    assert plan_of(Pricing=(2, 4)) == (2, fs.autoscale(2, 4, target_queue_ms=5, down_after_s=9), declared)
    with pytest.raises(ConfigError, match="autoscale: low is 4, more than high, 2"):
        plan_of(Pricing=(4, 2))
    with pytest.raises(ConfigError, match="replicas of Pricing: 0; it must be 1 to 1024"):
        plan_of(Pricing=0)


def test_the_command_takes_a_number_or_bounds() -> None:
    assert replica_counts("Pricing=3") == ("Pricing", 3)
    assert replica_counts("Pricing=0-3") == ("Pricing", (0, 3))
    for wrong in (
        "Pricing",
        "Pricing=",
        "=3",
        "Pricing=-3",
        "Pricing=1-",
        "Pricing=1-2-3",
        "Pricing=1..3",
        "Pricing=²",
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=N, nor NAME=LOW-HIGH"):
            replica_counts(wrong)
