"""Limits are checked when they are made, and reach every process of the plan."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import pytest

from flightserve.config import EdgeLimits, FabricLimits, FrontendOptions
from flightserve.errors import ConfigError
from flightserve.running import make_plan, serve
from tests.control import pricing

NO_BOUND = [0, -1, "4", None, True, float("nan"), float("inf")]


@pytest.mark.parametrize("kind", [EdgeLimits, FabricLimits])
@pytest.mark.parametrize("value", NO_BOUND)
def test_what_is_no_bound_is_refused_by_name(kind: Any, value: Any) -> None:
    for field in fields(kind):
        if value == 0 and field.name.endswith("_percent_max"):
            continue
        with pytest.raises(ConfigError, match=f"{kind.__name__}: {field.name} is"):
            kind(**{field.name: value})


def test_counts_are_whole_and_seconds_need_not_be() -> None:
    with pytest.raises(ConfigError, match="whole number"):
        FabricLimits(segments_per_peer_max=cast(int, 1.5))
    assert FabricLimits(heartbeat_s=0.05).heartbeat_s == 0.05
    assert EdgeLimits(keep_alive_s=1).keep_alive_s == 1


def test_percents_are_whole_from_none_to_all() -> None:
    for percent in (0, 100):
        assert FabricLimits(awake_percent_max=percent).awake_percent_max == percent
    for wrong in (101, -1, 1.5):
        with pytest.raises(ConfigError, match="0 to 100"):
            FabricLimits(awake_percent_max=cast(int, wrong))


def test_a_segment_fits_into_the_memory() -> None:
    assert FabricLimits(segment_bytes=1 << 20, memory_bytes_max=1 << 20).segment_bytes == 1 << 20
    with pytest.raises(ConfigError, match="no segment fits"):
        FabricLimits(segment_bytes=1 << 20, memory_bytes_max=(1 << 20) - 1)


def test_limits_are_part_of_the_plan() -> None:
    edge, fabric = EdgeLimits(columns_max=7), FabricLimits(heartbeat_s=0.25)
    plan = make_plan(pricing.app, FrontendOptions(limits=edge), {}, 1, fabric)
    assert (plan.options.limits, plan.fabric) == (edge, fabric)
    assert make_plan(pricing.app, FrontendOptions(), {}, 1).fabric == FabricLimits()


@pytest.mark.parametrize(
    "wrong", [{"fabric": EdgeLimits()}, {"fabric": {"heartbeat_s": 1}}, {"limits": FabricLimits()}]
)
def test_what_are_no_limits_is_refused_before_anything_starts(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"{name} is .*it is a flightserve.config"):
        serve(pricing.app, **wrong)
