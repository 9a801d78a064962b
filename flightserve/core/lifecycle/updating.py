"""How a running app changes (scaled, or new code): which replicas there are to be, step by step. Pure.

A *layout* says which deployments clients are served (name, version, number of replicas), and, while a change is under
way, its target. Every change takes the same way:

1. **Surge.** What is new in the target starts beside what is served, which is left as it is. Of a new version one
   replica comes first, because it shows whether the code works at all; then `2 * ready + 1`.
2. **Switch.** When all that is new is ready, and every router was told of it, the target is what is served. This is
   one step for the whole app: clients see either the deployments, methods and schemas of before or those of after.
3. **Going.** Versions that are not served any more go on with the requests they were sent; when none is left, and
   nobody sends any more, their replicas are not wanted either and drain.

`undo` is possible until the switch, and leaves what was there before: that was never touched. So at no time are
fewer replicas wanted for what is served than the smaller of before and after.

A change *in place* is for machines whose resources are all reserved, where nothing can start beside what is served:

1. One replica of each deployment that gets a new version drains, and the first of the new version takes its resources.
2. When it is ready the switch is made: the one serves, and the old version finishes what it has.
3. When the old version has gone, the rest of the new one starts.

So fewer replicas serve meanwhile: none between a lone replica's end and its successor's start, when requests wait.

Two versions of a deployment never share a place: ordinals of a new version begin where the old one's do not lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from flightserve.core.lifecycle.reconciling import REPLICA, Slot


class Deployed(NamedTuple):
    """One version of a deployment, and how many replicas of it: they have the ordinals from `first` on."""

    name: str
    version: str
    replicas: int
    first: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Name and version: what tells it from all others."""
        return self.name, self.version

    def slots(self, count: int | None = None) -> list[Slot]:
        """The places of its replicas, or of the first `count`."""
        return [Slot(REPLICA, self.name, self.first + i) for i in range(self.replicas if count is None else count)]


@dataclass(frozen=True, slots=True)
class Layout:
    """What is served, what a change leads to (None: none is under way, or it has switched), and what is going."""

    served: tuple[Deployed, ...]
    target: tuple[Deployed, ...] | None = None
    going: tuple[Deployed, ...] = ()
    in_place: bool = False

    @property
    def coming(self) -> tuple[Deployed, ...]:
        """Versions in the target that are not served yet."""
        keys = {each.key for each in self.served}
        return tuple(each for each in self.target or () if each.key not in keys)

    @property
    def fresh(self) -> frozenset[Slot]:
        """Places that the target has and the layout before it has not: all must be ready before the switch, or in place
        the first of each new version."""
        slots = [slot for each in self.target or () for slot in each.slots(self._first_of(each))]
        return frozenset(slots) - frozenset(_slots(self.served))

    def _first_of(self, coming: Deployed) -> int | None:
        return 1 if self.replaces(coming) else None

    def replaces(self, coming: Deployed) -> bool:
        """In place, another version of the same name has the resources that this one is to get."""
        others = (*self.served, *self.going)
        return self.in_place and any(each.name == coming.name and each.version != coming.version for each in others)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the supervisor sees. `held`: places with a living child. `ready`: those whose child is ready. `told`: every
    process that routes or sends requests has a routing table of this layout. `quiet`: no request of a version that
    is going is left, nor has come for a while."""

    ready: frozenset[Slot] = frozenset()
    held: frozenset[Slot] = frozenset()
    told: bool = False
    quiet: bool = False


def begin(layout: Layout, target: Iterable[tuple[str, str, int]], in_place: bool = False) -> Layout:
    """The layout with a change under way to these deployments (name, version, replicas). There must be none yet."""
    assert layout.target is None
    assert not layout.going
    before = {each.name: each for each in layout.served}
    placed = tuple(_place(*wish, before.get(wish[0])) for wish in target)
    return replace(layout, target=placed, in_place=in_place)


def _place(name: str, version: str, replicas: int, before: Deployed | None) -> Deployed:
    if before is None:
        return Deployed(name, version, replicas)
    if before.version == version:
        return before._replace(replicas=replicas)
    # Below the old ones where there is room, so that ordinals do not grow with every change.
    return Deployed(name, version, replicas, 0 if before.first >= replicas else before.first + before.replicas)


def wanted(layout: Layout, seen: Observed) -> dict[Slot, str]:
    """Every replica's place there should be now, with its version."""
    out = {slot: each.version for each in layout.going for slot in each.slots()}
    for each in layout.served:
        out.update(dict.fromkeys(each.slots(_serving(layout, each)), each.version))
    keys = {each.key for each in layout.served}
    for each in layout.target or ():
        # More of what is served already need not be tried out.
        count = each.replicas if each.key in keys else _coming(layout, each, seen)
        out.update(dict.fromkeys(each.slots(count), each.version))
    return out


def _serving(layout: Layout, served: Deployed) -> int:
    """How many replicas of what is served there are to be: in place one less while its successor starts, and one alone
    while its predecessor goes."""
    if layout.target is None:
        return 1 if layout.replaces(served) else served.replicas
    gives_way = any(each.name == served.name and layout.replaces(each) for each in layout.target)
    return max(0, served.replicas - gives_way)


def _coming(layout: Layout, coming: Deployed, seen: Observed) -> int:
    if not layout.replaces(coming):
        return _wave(coming, seen)
    # Not before the place of the one that drains for it is free.
    (before,) = [each for each in layout.served if each.name == coming.name]
    return 0 if any(slot in seen.held for slot in before.slots()[-1:]) else 1


def _wave(coming: Deployed, seen: Observed) -> int:
    places = coming.slots()
    ready = sum(slot in seen.ready for slot in places)
    # One that dies takes no other's place away.
    begun = max((index for index, slot in enumerate(places, 1) if slot in seen.held), default=0)
    return min(coming.replicas, max(begun, 2 * ready + 1))


def advance(layout: Layout, seen: Observed) -> Layout:
    """The layout of now: the same, or one step further."""
    if layout.target is not None:
        if not (seen.told and seen.ready >= layout.fresh):
            return layout
        keys = {each.key for each in layout.target}
        # In place one of each has gone already.
        left = [each._replace(replicas=_serving(layout, each)) for each in layout.served if each.key not in keys]
        going = tuple(each for each in left if each.replicas)
        return Layout(layout.target, None, going, layout.in_place and bool(going))
    if layout.going and seen.told and seen.quiet:
        return dismiss(layout)
    return layout


def dismiss(layout: Layout) -> Layout:
    """What is going is not wanted any more, whatever it still has to do."""
    return replace(layout, going=(), in_place=False)


def resize(layout: Layout, name: str, replicas: int) -> Layout:
    """The layout with that many replicas of what is served by that name, at once; the same one where it has as many,
    where a change is about that deployment, or where its version before is still going. For numbers that follow the
    load: nothing waits for what starts."""
    served = next((each for each in layout.served if each.name == name), None)
    others = (*layout.going, *(layout.target or ()))
    settled = served is not None and all(each == served for each in others if each.name == name)
    goes = layout.target is not None and served not in layout.target
    if served is None or served.replicas == replicas or layout.in_place or goes or not settled:
        return layout

    def changed(all_: tuple[Deployed, ...]) -> tuple[Deployed, ...]:
        return tuple(each._replace(replicas=replicas) if each == served else each for each in all_)

    return replace(layout, served=changed(layout.served), target=layout.target and changed(layout.target))


def undo(layout: Layout) -> Layout:
    """The layout before the change, which has not switched yet."""
    return replace(layout, target=None, in_place=False)


def _slots(deployed: Iterable[Deployed]) -> list[Slot]:
    return [slot for each in deployed for slot in each.slots()]
