"""Replicas on other nodes, behind links of all kinds: nothing is lost, the router's own node comes first, and no link
that is far, slow or dead holds up the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flightserve.types import DeploymentOptions
from tests.sim.links import HERE, LinkedWorld, SimulatedLink, SteadyWorld
from tests.sim.test_routing import CLEAR, DEADLINE, LINGERING, OPTIONS
from tests.sim.world import MS, Weather

PLAIN = DeploymentOptions(max_queued_requests=1_000)


def link(delay_ms: float = 0.5, bytes_per_ns: float = 1.0) -> SimulatedLink:
    return SimulatedLink(delay_ms * MS, bytes_per_ns)


def steady(
    links: dict[str, SimulatedLink], near: int = 2, options: DeploymentOptions = PLAIN, **how: float
) -> SteadyWorld:
    world = SteadyWorld(1, options, CLEAR, near, links)
    for name, value in how.items():
        setattr(world, name, value)
    return world


@pytest.mark.parametrize("options", [OPTIONS, DEADLINE, LINGERING], ids=["fifo", "deadline", "lingering"])
@pytest.mark.parametrize("near", [0, 2])
def test_nothing_is_lost_behind_bad_links(options: DeploymentOptions, near: int) -> None:
    links = {"b": link(), "c": link(5, 1e-5), "d": link(200)}
    world = LinkedWorld(3, options, Weather(arrivals_per_s=40.0), near, links)
    for at in range(2, 60, 12):
        world.stall("b", at, 0.7)
        world.stall("c", at + 3, 4.0)
        world.sever("b", at + 5, 2.0)
        world.sever("d", at + 8, 3.0)
    world.run(seconds=70)
    assert min(world.ran[node] for node in links) > 5, world.ran
    assert world.machine.statistics().counts["completed"] > 200


def test_the_routers_node_does_what_it_can() -> None:
    world = steady({"b": link(), "c": link()}, per_s=20.0)
    world.run(seconds=30)
    assert world.ran[HERE] > 0.9 * sum(world.ran.values()), world.ran


def test_what_one_node_cannot_do_others_do() -> None:
    """Four times as much as the router's node can do, and nothing waits for long."""
    world = steady({"b": link(), "c": link(), "d": link()}, per_s=640.0)
    world.run(seconds=4)
    assert set(world.outcomes.values()) == {"ok"}
    assert world.percentile_ms(0.5) < 30
    assert world.ran[HERE] > 0.2 * sum(world.ran.values()), world.ran


def test_a_node_far_away_is_used_only_for_what_would_wait_longer() -> None:
    near = steady({}, per_s=120.0)
    near.run(seconds=10)
    far = steady({"b": link(200)}, per_s=120.0)
    far.run(seconds=10)
    assert far.percentile_ms(0.99) <= 1.2 * near.percentile_ms(0.99)
    assert far.ran["b"] < 0.02 * sum(far.ran.values()), far.ran


def test_large_rows_stay_where_the_link_is_slow_and_small_ones_go() -> None:
    slow = {"b": link(0.2, 0.01)}  # 10 MB/s
    large, small = steady(dict(slow), per_s=150.0, nbytes=1_000_000), steady({"b": link(0.2, 0.01)}, per_s=150.0)
    for world in (large, small):
        world.run(seconds=20)
    assert large.ran["b"] < 0.1 * small.ran["b"], (large.ran, small.ran)


@pytest.mark.parametrize("how", ["stalls", "breaks"])
def test_a_link_that_fails_holds_up_little_and_is_used_again(how: str) -> None:
    world = steady({"b": link(), "c": link()}, per_s=350.0)
    if how == "stalls":
        world.stall("b", 5, 4)
    else:
        world.sever("b", 5, 4)
    world.run(seconds=20)
    held_up = sum(taken > 500 * MS for taken in world.taken_ns)
    assert set(world.outcomes.values()) == {"ok"}
    assert held_up <= 4, f"more than the credits of a node were stuck there: {held_up}"
    assert world.ran["b"] > 0.15 * sum(world.ran.values()), world.ran


def test_a_link_that_recovers_from_being_slow_is_found_out() -> None:
    world = steady({"b": link(300)}, near=1, per_s=90.0)
    world.after(4e9, lambda: setattr(world.links["b"], "delay_ns", 0.2 * MS))
    world.after(24e9, world.ran.clear)
    world.run(seconds=34)
    assert world.ran["b"] > 0.2 * sum(world.ran.values()), world.ran


def test_a_deadline_is_judged_with_the_way_in_it() -> None:
    options = replace(PLAIN, router="deadline")
    late = steady({"b": link(100)}, near=0, options=options, per_s=50.0, timeout_s=0.15)
    late.run(seconds=10)
    counts = late.machine.statistics().counts
    assert counts["expired_in_flight"] <= 10, counts
    assert counts["would_miss"] + counts["would_miss_queued"] > 100, counts


def test_what_would_come_too_late_from_far_waits_for_the_routers_node() -> None:
    options = replace(PLAIN, router="deadline")
    world = steady({"b": link(60)}, options=options, per_s=180.0, timeout_s=0.1)
    world.run(seconds=20)
    counts = world.machine.statistics().counts
    assert counts["expired_in_flight"] < 0.02 * counts["arrived"], counts
    assert world.ran["b"] < 0.05 * sum(world.ran.values()), world.ran
