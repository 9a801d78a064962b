"""Where the children of an app that spans nodes go, and what no node has room for.

Amounts are Ray's resources by name (CPU, GPU, its custom ones), labels those of Ray's nodes. A replica is on one node:
four CPUs are not two and two. Whether all replicas fit at once is bin packing. What is plain is said for any number:
one that no node can hold, or more in all than there is. Otherwise nodes are filled one after another, the replicas that
are hardest to place first; where that does not do, a bounded search decides for small apps, and nothing is said of
others until Ray has not placed them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

PACK: Final = "pack"
SPREAD: Final = "spread"
PLACEMENTS: Final = (PACK, SPREAD)
# Ray counts resources in units of 1/10000.
UNITS: Final = 10_000
# How long a search for room may be, in nodes that were looked at, and for how many replicas there is one.
STEPS_MAX: Final = 20_000
SEARCHED_MAX: Final = 64
NODES_TOLD_MAX: Final = 8
GPU: Final = "GPU"
_SEVERAL: Final = re.compile(r"in\((.*)\)")


class RayNode(NamedTuple):
    """One node as Ray sees it. `name` is its address; the supervisor's is the first wherever there are several. One
    that `leaves` takes nothing new, and ends in `left_ns`, where Ray was told."""

    id: str
    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = {}
    leaves: bool = False
    left_ns: int | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:8]})"


class Want(NamedTuple):
    """What one child takes, and the labels that its node must have: values, or Ray's `!value`, `in(a, b)`."""

    name: str
    amounts: Mapping[str, float]
    labels: Mapping[str, str] = {}

    def __str__(self) -> str:
        said = [f"{amount:g} {name}" for name, amount in sorted(self.amounts.items())]
        return " and ".join([*said, *(f"label {key}={value}" for key, value in sorted(self.labels.items()))])


class Unplaced(NamedTuple):
    """So many of these children have no room, and whether no node could hold even one."""

    want: Want
    left: int
    all: int
    alone: bool


Room = Callable[[RayNode], Mapping[str, float]]


def in_all(node: RayNode) -> Mapping[str, float]:
    """What a node has, whoever holds it."""
    return node.total


def now_free(node: RayNode) -> Mapping[str, float]:
    """What nobody holds."""
    return node.free


# ---- labels


def matches(asked: Mapping[str, str], has: Mapping[str, str]) -> bool:
    """Whether a node with these labels is one that was asked for."""
    return all(_accepts(value, has.get(key)) for key, value in asked.items())


def _accepts(expression: str, label: str | None) -> bool:
    inner = expression.removeprefix("!")
    several = _SEVERAL.fullmatch(inner)
    values = {value.strip() for value in several[1].split(",")} if several else {inner}
    return (label in values) is (inner == expression)


# ---- one child


def choose(
    want: Want, placement: str, nodes: Sequence[RayNode], beside: Mapping[str, int], all_: Mapping[str, int]
) -> str:
    """The id of the node for another child; "" where none has room now, which is for Ray to wait for. `beside` counts
    its own kind by node, `all_` the app's children.

    "pack": the first node while there is room, then where most of its kind are, and rather where no GPU is wasted.
    "spread": where the fewest of its kind are; of several, where the fewest of all are. Of equals the first."""
    able = [node for node in nodes if _holds(want, node, now_free)]
    if not able:
        return ""
    if placement == SPREAD:
        return min(able, key=lambda node: (beside.get(node.id, 0), all_.get(node.id, 0))).id
    if able[0].id == nodes[0].id:
        return able[0].id
    wasted = not want.amounts.get(GPU)
    return min(able, key=lambda node: (wasted and bool(node.total.get(GPU)), -beside.get(node.id, 0))).id


def _holds(want: Want, node: RayNode, room: Room) -> bool:
    has = room(node)
    fits = all(_units(amount) <= _units(has.get(name, 0.0)) for name, amount in want.amounts.items())
    return fits and not node.leaves and matches(want.labels, node.labels)


def _units(amount: float) -> int:
    return round(amount * UNITS)


# ---- all of them


def misfit(wants: Iterable[Want], nodes: Sequence[RayNode], room: Room) -> Unplaced | None:
    """The kind of child that there is no room for; None where all have room, or where it cannot be told."""
    wants = [want for want in wants if want.amounts or want.labels]
    for want in wants:
        if not any(_holds(want, node, room) for node in nodes):
            return Unplaced(want, _count(want, wants), _count(want, wants), alone=True)
    hard = sorted(wants, key=lambda want: (sum(_holds(want, node, room) for node in nodes), -_size(want, nodes, room)))
    left = _filled(hard, nodes, room)
    if not left or not (_is_too_much(wants, nodes, room) or _is_hopeless(hard, nodes, room)):
        return None
    return Unplaced(left[0], _count(left[0], left), _count(left[0], wants), alone=False)


def _count(want: Want, wants: Iterable[Want]) -> int:
    return sum(each == want for each in wants)


def _size(want: Want, nodes: Sequence[RayNode], room: Room) -> float:
    """The largest part that it takes of what there is of anything."""
    return max((amount / max(_sum(nodes, name, room), 1e-9) for name, amount in want.amounts.items()), default=0.0)


def _sum(nodes: Iterable[RayNode], name: str, room: Room) -> float:
    return sum(room(node).get(name, 0.0) for node in nodes if not node.leaves)


class _Rooms:
    """What is left on each node while children are put there."""

    def __init__(self, nodes: Sequence[RayNode], room: Room) -> None:
        self._nodes = nodes
        self._left = [{name: _units(amount) for name, amount in room(node).items()} for node in nodes]

    def __repr__(self) -> str:
        return f"<_Rooms {self._left}>"

    def holds(self, want: Want, index: int) -> bool:
        left = self._left[index]
        fits = all(_units(amount) <= left.get(name, 0) for name, amount in want.amounts.items())
        return fits and not self._nodes[index].leaves and matches(want.labels, self._nodes[index].labels)

    def take(self, want: Want, index: int, sign: int = 1) -> None:
        for name, amount in want.amounts.items():
            self._left[index][name] -= sign * _units(amount)


def _filled(wants: Sequence[Want], nodes: Sequence[RayNode], room: Room) -> list[Want]:
    """Those that find no room when each takes the first that it finds."""
    rooms, left = _Rooms(nodes, room), []
    for want in wants:
        index = next((index for index in range(len(nodes)) if rooms.holds(want, index)), None)
        if index is None:
            left.append(want)
        else:
            rooms.take(want, index)
    return left


def _is_too_much(wants: Sequence[Want], nodes: Sequence[RayNode], room: Room) -> bool:
    """More of something is wanted in all, or with the same labels, than there is."""
    for labels in [{}, *(want.labels for want in wants)]:
        ours = [want for want in wants if not labels or want.labels == labels]
        there = [node for node in nodes if matches(labels, node.labels)]
        for name in {name for want in ours for name in want.amounts}:
            if sum(_units(want.amounts.get(name, 0.0)) for want in ours) > _units(_sum(there, name, room)):
                return True
    return False


def _is_hopeless(wants: Sequence[Want], nodes: Sequence[RayNode], room: Room) -> bool:
    """No arrangement holds them all. False also where the search would be too long."""
    return len(wants) <= SEARCHED_MAX and _Arrangements(wants, nodes, room).fits(0, 0) is False


class _Arrangements:
    """Every arrangement, one node after another for each child."""

    def __init__(self, wants: Sequence[Want], nodes: Sequence[RayNode], room: Room) -> None:
        self._wants = wants
        self._nodes = range(len(nodes))
        self._rooms = _Rooms(nodes, room)
        self._steps = 0

    def __repr__(self) -> str:
        return f"<_Arrangements: {self._steps} of {STEPS_MAX} steps>"

    def fits(self, at: int, first: int) -> bool | None:
        """Whether those from `at` on do, that one on a node from `first` on; None after too many steps."""
        if at == len(self._wants):
            return True
        want = self._wants[at]
        # Alike ones need not be tried in each other's place.
        alike = self._wants[at + 1 : at + 2] == [want]
        for index in self._nodes[first:]:
            self._steps += 1
            if self._steps > STEPS_MAX:
                return None
            if not self._rooms.holds(want, index):
                continue
            self._rooms.take(want, index)
            found = self.fits(at + 1, index if alike else 0)
            self._rooms.take(want, index, -1)
            if found is not False:
                return found
        return False


# ---- in words


def told(found: Unplaced, nodes: Sequence[RayNode]) -> str:
    """What has no room, and what each node has instead, those first that come nearest."""
    want = found.want
    what = f"no node has {want} for a replica of {want.name}"
    if not found.alone:
        what = (
            f"no room for {found.left} of {found.all} replicas of {want.name}, each {want}, beside what else there is"
        )
    near = sorted(nodes, key=lambda node: (not matches(want.labels, node.labels), -_share(want, node)))
    said = [f"node {node} {_has(want, node)}" for node in near[:NODES_TOLD_MAX]]
    more = [f"and {len(near) - NODES_TOLD_MAX} more"] if len(near) > NODES_TOLD_MAX else []
    return "; ".join([what, *said, *more])


def _share(want: Want, node: RayNode) -> float:
    return min((node.total.get(name, 0.0) / amount for name, amount in want.amounts.items()), default=0.0)


def _has(want: Want, node: RayNode) -> str:
    wrong = [
        f"{key}={node.labels[key]}" if key in node.labels else f"no label {key}"
        for key, value in sorted(want.labels.items())
        if not _accepts(value, node.labels.get(key))
    ]
    amounts = [
        f"{node.total.get(name, 0.0):g} {name}, {node.free.get(name, 0.0):g} of it free"
        if node.total.get(name)
        else f"no {name}"
        for name in sorted(want.amounts)
    ]
    return f"{'is drained by Ray, ' * node.leaves}has {', '.join([*wrong, *amounts])}"
