"""The callers' client before it has a routing table, or a router that answers."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Never

import pytest

from flightserve.caller import async_uplink, sessions
from flightserve.caller.client import RouterClient
from flightserve.config import FabricLimits
from flightserve.errors import NotFound, Unavailable
from flightserve.wire.table import Peer, RoutingTable
from tests.support import eventually


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


def test_routers_that_cannot_be_reached_are_each_tried_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and however often the table says so: tries must not breed further ones."""
    tried: list[float] = []

    def connect(endpoint: str, timeout_s: float) -> Never:
        if endpoint == "flightserve-test-away-2":
            tried.append(time.monotonic())
        raise Unavailable("nobody listens")

    monkeypatch.setattr(async_uplink, "connect", connect)
    monkeypatch.setattr(sessions, "RECONNECT_S", 0.02)
    peers = tuple(Peer(number, "router", "", f"flightserve-test-away-{number}", "") for number in (2, 3))
    client = RouterClient(1, FabricLimits())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        client.start(loop)
        client.apply_table(RoutingTable(1, peers=peers))
        client.apply_table(RoutingTable(2, peers=peers))
        eventually(lambda: len(tried) >= 14)
        # Each table has it tried at once, and so does the start; the others are a while apart.
        assert tried[13] - tried[0] >= 10 * 0.02
    finally:
        client.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
