"""Where requests go, as a routing table says."""

from __future__ import annotations

from flightserve.caller.destinations import CHAINS_MAX, Destinations
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire.table import Entry, RoutingTable


def test_chains_of_an_app_with_many_methods_are_remembered_up_to_their_bound() -> None:
    methods = tuple(MethodSpec(f"m{number}") for number in range(CHAINS_MAX + 10))
    destinations = Destinations()
    spec = DeploymentSpec("M", "1", DeploymentOptions(), methods)
    destinations.apply(RoutingTable(1, (), (Entry(spec, 7, 1, 1, 1),)))
    plain = len(destinations.known)
    for number in range(CHAINS_MAX + 10):
        destinations.find(("M", "m0", "M", f"m{number}"))
    assert len(destinations.known) == plain + CHAINS_MAX
    chain = ("M", "m0", "M", "m1")
    assert destinations.find(chain) is destinations.find(chain)
