"""What waits at a router for a newer table keeps its region, and lets go of it whatever becomes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flightserve.core.memory.leases import Hold
from flightserve.errors import ProtocolError
from flightserve.router.deployments import Deployments
from flightserve.wire.frames import Part, Region, Submit
from flightserve.wire.table import RoutingTable


class Counted(Hold):
    def __init__(self, refs: int) -> None:
        super().__init__(refs)
        self.frees = 0

    def freed(self) -> None:
        self.frees += 1


def submitted(deployments: Deployments, link: Any, first: int, count: int = 2) -> Counted:
    """Requests of a caller whose table is newer."""
    parts = [Part(number, 0, 1, 10**18, 0, "", "", "") for number in range(first, first + count)]
    hold: Any = Counted(count)
    deployments.submit(link, Submit("M@1", "run", Region(7, 1, 0, 64, 1), parts, epoch=5), hold, 0)
    assert isinstance(hold, Counted)
    return hold


class Caller:
    """As much of a connection as is asked of it."""

    def __init__(self) -> None:
        self.requests: dict[int, None] = {}
        self.channel = SimpleNamespace(queue=lambda _: None)


def caller() -> Any:
    return Caller()


def test_a_caller_that_goes() -> None:
    deployments, link = Deployments(1, 10), caller()
    holds = [submitted(deployments, link, first) for first in (1, 3)]
    deployments.forget(link)
    assert [hold.frees for hold in holds] == [1, 1]


def test_a_caller_that_sends_too_much() -> None:
    deployments, link = Deployments(1, 3), caller()
    holds = [submitted(deployments, link, first) for first in (1, 3)]
    too_many: Any = Counted(4)
    parts = [Part(number, 0, 1, 10**18, 0, "", "", "") for number in range(5, 9)]
    with pytest.raises(ProtocolError):
        deployments.submit(link, Submit("M@1", "run", Region(7, 1, 0, 64, 1), parts, epoch=5), too_many, 0)
    assert too_many.frees == 1
    link.requests = dict.fromkeys(range(3))
    assert [found for found, _ in deployments.apply(RoutingTable(6), 0)] == [link]
    assert [hold.frees for hold in holds] == [1, 1]
