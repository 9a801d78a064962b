"""Many nodes on the pure machines, in a size that a test can have; the whole is `python -m benchmarks --only scale`."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.scale_simulation import SMALL, ManyNodes
from flightserve.control.messages import Inbox, Publish


@pytest.fixture(scope="module")
def world() -> ManyNodes:
    world = ManyNodes(SMALL)
    world.run()
    return world


def test_a_rack_that_dies_costs_no_request_and_all_of_it_is_started_elsewhere(world: ManyNodes) -> None:
    assert world.outcomes["asked"] == world.outcomes["ok"] > 1_000
    assert world.places == {"replica": 60, "carrier": 9, "router": 2, "frontend": 1}
    assert world.healed_ns > world.down_ns > 0
    nodes = {record.node for record in world.roster.records.values()}
    assert nodes <= world.alive.keys()


def test_all_machines_are_at_rest(world: ManyNodes) -> None:
    for machine in world.machines.values():
        machine.check_invariants()
        assert machine.statistics().live_requests == 0


def test_the_table_has_them_all_and_is_what_children_read(world: ManyNodes) -> None:
    (published,) = Inbox().feed(world.encoded())
    assert isinstance(published, Publish)
    assert len(published.table.peers) == sum(world.places.values())
    assert all(entry.ready == entry.wanted and entry.router_id for entry in published.table.deployments)


def test_a_seed_is_a_whole_history(world: ManyNodes) -> None:
    again = ManyNodes(SMALL)
    again.run()
    assert (again.outcomes, again.far, again.healed_ns) == (world.outcomes, world.far, world.healed_ns)
    assert msgspec.msgpack.encode(again.roster.table(1)) == msgspec.msgpack.encode(world.roster.table(1))
