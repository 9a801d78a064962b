"""The callers' client before it has a routing table."""

from __future__ import annotations

import pytest

from flightserve.caller.client import RouterClient
from flightserve.config import FabricLimits
from flightserve.errors import NotFound, Unavailable
from flightserve.wire.table import RoutingTable


def test_before_the_first_table_nothing_is_unknown_only_unavailable() -> None:
    """A frontend that replaces another listens before it knows what is deployed: NOT_FOUND would not be tried again."""
    client = RouterClient(1, FabricLimits())
    try:
        with pytest.raises(Unavailable, match="knows no deployments yet; try again"):
            client.method("Pricing", "charge")
        client.apply_table(RoutingTable(1))
        with pytest.raises(NotFound, match="no deployment 'Pricing'; deployed: none"):
            client.method("Pricing", "charge")
    finally:
        client.stop()
