"""The nodes of an app that spans several, and their carriers: one on each, the supervisor's first, whose address the
others begin with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flightserve.core.lifecycle.reconciling import CARRIER, Slot

if TYPE_CHECKING:
    from flightserve.control.roster import Record


class Nodes:
    """Those that are there now. A node keeps the number of its carrier for as long as the app runs."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._alive: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Nodes: {len(self._alive)} of {len(self._numbers)} are there>"

    def are(self, alive: Iterable[str]) -> None:
        """These are there now, the supervisor's first."""
        self._alive = tuple(alive)
        for node in self._alive:
            self._numbers.setdefault(node, len(self._numbers))

    def carriers(self, begun: bool) -> dict[Slot, str]:
        """The places of carriers: of the supervisor's node, and of the others once that one has `begun`. One node alone
        needs none."""
        nodes = self._alive if len(self._alive) > 1 else ()
        return {Slot(CARRIER, "", self._numbers[node]): "1" for node in (nodes if begun else nodes[:1])}

    def of(self, slot: Slot) -> str:
        """The only node that a carrier may be on; "" for all others."""
        if slot.tier != CARRIER:
            return ""
        return next((node for node, number in self._numbers.items() if number == slot.ordinal), "")


def entrance(records: Iterable[Record], node: str) -> str:
    """Where the carrier of that node takes in those of others, "" while it does not."""
    found = (each.addresses for each in records if each.slot.tier == CARRIER and each.node == node)
    return next((addresses[CARRIER] for addresses in found if CARRIER in addresses), "")


def is_carrier(records: Iterable[Record], node: str, pid: int) -> bool:
    """Whether that process of the node is its carrier."""
    return any((each.slot.tier, each.node, each.pid) == (CARRIER, node, pid) for each in records)
