"""The nodes of an app that spans several, and what each has one of: a carrier, the supervisor's first, whose address
the others begin with, and a frontend where the app has one on each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from flightserve.clock import NEVER_NS
from flightserve.core.lifecycle.leaving import MOVES, drain_at_ns
from flightserve.core.lifecycle.placement import SPREAD, RayNode, Want, choose
from flightserve.core.lifecycle.reconciling import CARRIER, FRONTEND, REPLICA, ROUTER, Slot

if TYPE_CHECKING:
    from flightserve.control.roster import Record

_VERSION: Final = "1"


class Nodes:
    """Those that are there now. A node keeps its number for as long as the app runs: that of its carrier and, with
    `frontends`, of its frontend."""

    def __init__(self, frontends: bool = False, drain_ns: int = 0) -> None:
        """`drain_ns`: how long what runs may take to end."""
        self._frontends = frontends
        self._drain_ns = drain_ns
        self._numbers: dict[str, int] = {}
        self._alive: tuple[RayNode, ...] = ()
        # Those whose carrier died: Ray may take long to see that they are dead themselves.
        self._lost: set[str] = set()
        # Those that Ray drains, and when what is there drains at the latest.
        self._leaving: dict[str, int] = {}
        # What was given away since Ray was asked, by node.
        self._given: dict[str, dict[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Nodes: {len(self._alive)} of {len(self._numbers)} are there>"

    def are(self, alive: Iterable[RayNode], now_ns: int = 0) -> list[RayNode]:
        """These are there now, the supervisor's first: those that leave and did not before. The supervisor's own is not
        left: the app ends with it."""
        self._alive, self._given = tuple(alive), {}
        leave, before = [node for node in self._alive if node.leaves], self._leaving
        # Ray may be told again, of an earlier end.
        self._leaving = {
            node.id: min(drain_at_ns(node.left_ns, now_ns, self._drain_ns), before.get(node.id, NEVER_NS))
            for node in leave
        }
        number = max(self._numbers.values(), default=-1)
        for node in self._alive:
            if node.id not in self._numbers:
                self._numbers[node.id] = number = number + 1
        return [node for node in leave if node.id not in before]

    def end_of_home(self) -> str:
        """What it means that Ray drains the supervisor's node, "" where it does not."""
        if not self._alive or not self._alive[0].leaves:
            return ""
        return (
            f"Ray drains the supervisor's node {self._alive[0]}, and the app ends with it: what dies there is not "
            "replaced; start the app from another node"
        )

    def leaves_ns(self, slot: Slot, node: str) -> int:
        """When a child there drains at the latest because its node leaves, though nobody has its place; 0: it stays."""
        ours = not self._alive or node == self._alive[0].id
        return 0 if ours or slot.tier not in MOVES else self._leaving.get(node, 0)

    def heard(self, slot: Slot, node: str) -> None:
        """A child that may be on one node only is on this one: so its number was with the supervisor before us."""
        if node and self._is_bound(slot):
            self._numbers[node] = slot.ordinal
            self._lost.discard(node)

    def gone(self, slot: Slot, node: str, want: Want) -> None:
        """A child of that node is gone, and what it had is there for its successor, whenever Ray says so."""
        self._give(node, want, -1)
        if slot.tier == CARRIER and any(each.id == node for each in self._alive[1:]):
            self._lost.add(node)

    def _is_bound(self, slot: Slot) -> bool:
        return slot.tier == CARRIER or (self._frontends and slot.tier == FRONTEND)

    # ---- what each has one of

    def carriers(self, begun: bool, records: Iterable[Record] = ()) -> dict[Slot, str]:
        """The places of carriers: of the supervisor's node, and of the others once that one has `begun`; of one that
        leaves while others of `records` are there. One node alone needs none."""
        nodes = self._alive if len(self._alive) > 1 else ()
        held = {record.node for record in records if record.slot.tier != CARRIER}
        wanted = [node for node in nodes[1:] if not node.leaves or node.id in held]
        return self._one_each(CARRIER, [*nodes[:1], *wanted] if begun else nodes[:1])

    def frontends(self) -> dict[Slot, str]:
        """Those of the other nodes: the supervisor's has the first, whatever else."""
        others = [node for node in self._alive[1:] if not node.leaves]
        return self._one_each(FRONTEND, others) if self._frontends else {}

    def _one_each(self, tier: str, nodes: Iterable[RayNode]) -> dict[Slot, str]:
        return {Slot(tier, "", self._numbers[node.id]): _VERSION for node in nodes}

    def of(self, slot: Slot) -> str:
        """The only node that a child in this place may be on; "" where it may be on any."""
        if not self._is_bound(slot):
            return ""
        return next((node for node, number in self._numbers.items() if number == slot.ordinal), "")

    # ---- where others go

    def choose(self, want: Want, placement: str, beside: Mapping[str, int], all_: Mapping[str, int]) -> str:
        """As `placement.choose`, of what is free now; it is taken."""
        chosen = choose(want, placement, self._now(), beside, all_)
        self._give(chosen, want, 1)
        return chosen

    def lost(self, node: str) -> bool:
        """Whether its carrier died and is not back."""
        return node in self._lost

    def _give(self, node: str, want: Want, sign: int) -> None:
        given = self._given.setdefault(node, {})
        for name, amount in want.amounts.items():
            given[name] = given.get(name, 0.0) + sign * amount

    def _now(self) -> list[RayNode]:
        return [each._replace(free=self._left(each)) for each in self._alive if each.id not in self._lost]

    def _left(self, node: RayNode) -> dict[str, float]:
        given = self._given.get(node.id, {})
        # Ray leaves out what is all taken.
        return {name: node.free.get(name, 0.0) - given.get(name, 0.0) for name in node.total}


def place(nodes: Nodes, slot: Slot, version: str, want: Want, placement: str, records: Iterable[Record]) -> str:
    """The node for a child, "" for Ray to find one. Replicas go by their deployment's placement; routers are spread, so
    that no node's processor is all of theirs."""
    if bound := nodes.of(slot):
        return bound
    if slot.tier not in (REPLICA, ROUTER):
        return ""
    there = [record for record in records if record.node]
    alike = [each for each in there if (each.slot[:2], each.version) == (slot[:2], version)]
    beside, all_ = (Counter(each.node for each in group) for group in (alike, there))
    return nodes.choose(want, placement if slot.tier == REPLICA else SPREAD, beside, all_)


def carrier_of(records: Iterable[Record], node: str) -> Record | None:
    """That of a node, where it has one that has said where it is."""
    return next((each for each in records if each.slot.tier == CARRIER and each.node == node and each.pid), None)


def entrance(records: Iterable[Record], node: str) -> str:
    """Where the carrier of that node takes in those of others, "" while it does not."""
    carrier = carrier_of(records, node)
    return carrier.addresses.get(CARRIER, "") if carrier is not None else ""


def is_carrier(records: Iterable[Record], node: str, pid: int) -> bool:
    """Whether that process of the node is its carrier."""
    return any((each.slot.tier, each.node, each.pid) == (CARRIER, node, pid) for each in records)
