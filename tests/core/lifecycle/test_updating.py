"""Changes of a running app: examples, and a world in which replicas start, die and are replaced at random."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.lifecycle.reconciling import REPLICA, Slot
from flightserve.core.lifecycle.updating import Deployed, Layout, Observed, advance, begin, dismiss, undo, wanted

OLD = Layout((Deployed("A", "1", 2), Deployed("B", "1", 1)))


def _slots(name: str, *ordinals: int) -> frozenset[Slot]:
    return frozenset(Slot(REPLICA, name, ordinal) for ordinal in ordinals)


def test_without_a_change_exactly_what_is_served_is_wanted() -> None:
    assert wanted(OLD, Observed()) == dict.fromkeys([*_slots("A", 0, 1), *_slots("B", 0)], "1")
    assert advance(OLD, Observed(told=True, quiet=True)) is OLD


def test_more_of_what_is_served_starts_at_once_and_less_of_it_is_not_wanted_any_more() -> None:
    growing = begin(OLD, [("A", "1", 4), ("B", "1", 1)])
    assert wanted(growing, Observed()).keys() == _slots("A", 0, 1, 2, 3) | _slots("B", 0)
    assert advance(growing, Observed(ready=_slots("A", 2), told=True)) is growing
    grown = advance(growing, Observed(ready=_slots("A", 2, 3), told=True))
    assert grown == Layout((Deployed("A", "1", 4), Deployed("B", "1", 1)))
    shrunk = advance(begin(grown, [("A", "1", 1), ("B", "1", 1)]), Observed(told=True))
    assert wanted(shrunk, Observed()).keys() == _slots("A", 0) | _slots("B", 0)


def test_a_new_version_starts_with_one_replica_and_then_in_waves() -> None:
    layout = begin(OLD, [("A", "2", 6), ("B", "1", 1)])
    new = [Slot(REPLICA, "A", 2 + i) for i in range(6)]

    def begun(seen: Observed) -> set[Slot]:
        return {slot for slot, version in wanted(layout, seen).items() if version == "2"}

    assert begun(Observed()) == set(new[:1])
    assert begun(Observed(held=frozenset(new[:1]))) == set(new[:1])
    assert begun(Observed(ready=frozenset(new[:1]), held=frozenset(new[:1]))) == set(new[:3])
    assert begun(Observed(ready=frozenset(new[:3]), held=frozenset(new[:3]))) == set(new)
    # The first died after others had begun: they stay, and it is replaced.
    assert begun(Observed(held=frozenset(new[1:3]))) == set(new[:3])


def test_the_switch_waits_for_every_new_replica_and_for_every_router() -> None:
    layout = begin(OLD, [("A", "2", 2), ("C", "1", 1)])
    assert layout.coming == (Deployed("A", "2", 2, 2), Deployed("C", "1", 1))
    all_new = _slots("A", 2, 3) | _slots("C", 0)
    assert advance(layout, Observed(ready=all_new)) is layout
    assert advance(layout, Observed(ready=all_new - _slots("A", 3), told=True)) is layout
    switched = advance(layout, Observed(ready=all_new, told=True))
    assert switched.served == (Deployed("A", "2", 2, 2), Deployed("C", "1", 1))
    assert switched.going == OLD.served


def test_what_goes_is_kept_until_nothing_of_it_is_left_or_the_limit_has_passed() -> None:
    new = Deployed("A", "2", 1, 2)
    switched = Layout((new,), None, OLD.served)
    assert wanted(switched, Observed()).keys() == _slots("A", 0, 1, 2) | _slots("B", 0)
    for seen in (Observed(told=True), Observed(quiet=True)):
        assert advance(switched, seen) is switched
    assert advance(switched, Observed(told=True, quiet=True)) == dismiss(switched) == Layout((new,))
    assert wanted(Layout((new,)), Observed()) == {Slot(REPLICA, "A", 2): "2"}


def test_undo_leaves_what_was_there() -> None:
    assert undo(begin(OLD, [("A", "2", 3), ("C", "1", 1)])) == OLD


def test_ordinals_do_not_grow_with_every_change() -> None:
    layout, seen = OLD, []
    for version in range(2, 6):
        layout = begin(layout, [("A", str(version), 2)])
        layout = advance(layout, Observed(ready=layout.fresh, told=True))
        layout = advance(layout, Observed(told=True, quiet=True))
        seen.append(layout.served[0].first)
    assert seen == [2, 0, 2, 0]


# ---- in place


def test_in_place_the_first_of_a_new_version_waits_for_one_of_the_old_to_go() -> None:
    layout = begin(OLD, [("A", "2", 2), ("B", "1", 1), ("C", "1", 2)], in_place=True)
    kept = _slots("A", 0) | _slots("B", 0)
    # C is new and has resources of its own: it starts as ever.
    assert wanted(layout, Observed(held=_slots("A", 0, 1))).keys() == kept | _slots("C", 0)
    assert wanted(layout, Observed(held=_slots("A", 0))).keys() == kept | _slots("A", 2) | _slots("C", 0)
    assert advance(layout, Observed(ready=_slots("A", 2) | _slots("C", 0), told=True)) is layout
    switched = advance(layout, Observed(ready=_slots("A", 2) | _slots("C", 0, 1), told=True))
    assert switched.served == (Deployed("A", "2", 2, 2), Deployed("B", "1", 1), Deployed("C", "1", 2))
    assert wanted(switched, Observed()).keys() == _slots("A", 0, 2) | _slots("B", 0) | _slots("C", 0, 1)
    gone = advance(switched, Observed(told=True, quiet=True))
    assert gone == Layout(switched.served)
    assert wanted(gone, Observed()).keys() == _slots("A", 2, 3) | _slots("B", 0) | _slots("C", 0, 1)


def test_a_change_in_place_that_is_undone_has_the_old_ones_start_again() -> None:
    layout = begin(OLD, [("A", "2", 1), ("B", "1", 1)], in_place=True)
    assert undo(layout) == OLD


# ---- properties

VERSIONS = st.sampled_from(["1", "2", "3"])
DEPLOYED = st.dictionaries(st.sampled_from("ABC"), st.tuples(VERSIONS, st.integers(1, 5)), min_size=1)
ROUNDS_MAX = 500


class World:
    """Places with children of a version that start, become ready and die, as the supervisor keeps them."""

    def __init__(self, layout: Layout, rng: random.Random) -> None:
        self.layout = layout
        self.rng = rng
        self.children: dict[Slot, tuple[str, bool]] = {
            slot: (v, True) for slot, v in wanted(layout, Observed()).items()
        }

    def seen(self) -> Observed:
        ready = frozenset(slot for slot, (_, is_ready) in self.children.items() if is_ready)
        return Observed(ready, frozenset(self.children), self.rng.random() < 0.7, self.rng.random() < 0.7)

    def round(self, faults: bool) -> None:
        seen = self.seen()
        self.layout = advance(self.layout, seen)
        places = wanted(self.layout, seen)
        for slot, (version, _) in list(self.children.items()):
            if places.get(slot) != version:
                del self.children[slot]
        for slot, version in places.items():
            self.children.setdefault(slot, (version, False))
        for slot, (version, _) in list(self.children.items()):
            chance = self.rng.random()
            if faults and chance < 0.1:
                del self.children[slot]
            elif chance > 0.5:
                self.children[slot] = (version, True)

    def ready(self, name: str) -> int:
        """Replicas of the version that clients are sent to, that are ready."""
        (deployed,) = [each for each in self.layout.served if each.name == name]
        return sum(self.children.get(slot) == (deployed.version, True) for slot in deployed.slots())


def _layout(deployed: dict[str, tuple[str, int]], first: int) -> Layout:
    return Layout(tuple(Deployed(name, version, count, first) for name, (version, count) in deployed.items()))


@given(DEPLOYED, DEPLOYED, st.integers(0, 5), st.integers(0, 2**32))
def test_without_faults_no_deployment_ever_has_fewer_ready_than_the_smaller_of_before_and_after(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]], first: int, seed: int
) -> None:
    world = World(_layout(before, first), random.Random(seed))
    target = [(name, *wish) for name, wish in after.items()]
    world.layout = begin(world.layout, target)
    for _ in range(ROUNDS_MAX):
        world.round(faults=False)
        for name in before.keys() & after.keys():
            assert world.ready(name) >= min(before[name][1], after[name][1])
        if world.layout.target is None and not world.layout.going:
            break
    assert [each[:3] for each in world.layout.served] == target
    world.round(faults=False)
    assert {slot: version for slot, (version, _) in world.children.items()} == wanted(world.layout, world.seen())


@given(DEPLOYED, DEPLOYED, st.integers(0, 5), st.integers(0, 2**32))
def test_with_faults_a_change_still_ends_with_what_was_asked_for(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]], first: int, seed: int
) -> None:
    world = World(_layout(before, first), random.Random(seed))
    target = [(name, *wish) for name, wish in after.items()]
    world.layout = begin(world.layout, target)
    for _ in range(ROUNDS_MAX):
        switched_before = world.layout.target is None
        ready_before, fresh = world.seen().ready, world.layout.fresh
        world.round(faults=True)
        if world.layout.target is None and not switched_before:
            assert ready_before >= fresh
        if world.layout.target is None and not world.layout.going:
            break
    world.round(faults=False)
    assert [each[:3] for each in world.layout.served] == target
    assert {slot: version for slot, (version, _) in world.children.items()} == wanted(world.layout, world.seen())


@given(DEPLOYED, DEPLOYED, st.integers(0, 5), st.integers(0, 12), st.integers(0, 2**32))
def test_an_undone_change_leaves_the_very_children_that_were_there(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]], first: int, rounds: int, seed: int
) -> None:
    world = World(_layout(before, first), random.Random(seed))
    children = dict(world.children)
    layout = world.layout
    world.layout = begin(layout, [(name, *wish) for name, wish in after.items()])
    for _ in range(rounds):
        if world.layout.target is None:
            return
        kept = world.layout
        seen = world.seen()
        world.round(faults=False)
        if world.layout.target is not None:
            assert children.items() <= world.children.items()
        else:
            assert advance(kept, Observed(seen.ready, seen.held, True)).target is None
    if world.layout.target is not None:
        world.layout = undo(world.layout)
        world.round(faults=False)
        assert world.layout == layout
        assert world.children == children


@given(DEPLOYED, DEPLOYED, st.integers(0, 5))
def test_two_versions_never_share_a_place(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]], first: int
) -> None:
    layout = begin(_layout(before, first), [(name, *wish) for name, wish in after.items()])
    switched = advance(layout, Observed(ready=layout.fresh, told=True))
    for each in (layout, switched):
        versions: dict[Slot, str] = {}
        for deployed in (*each.served, *each.going, *(each.target or ())):
            for slot in deployed.slots():
                assert versions.setdefault(slot, deployed.version) == deployed.version


@given(DEPLOYED, DEPLOYED, st.integers(0, 5), st.integers(0, 2**32), st.booleans())
def test_in_place_never_more_children_of_a_name_live_than_before_or_after(
    before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]], first: int, seed: int, faults: bool
) -> None:
    world = World(_layout(before, first), random.Random(seed))
    target = [(name, *wish) for name, wish in after.items()]
    world.layout = begin(world.layout, target, in_place=True)
    for _ in range(ROUNDS_MAX):
        world.round(faults)
        for name in before.keys() & after.keys():
            living = sum(slot.deployment == name for slot in world.children)
            assert living <= max(before[name][1], after[name][1])
            if not faults:
                assert world.ready(name) >= min(before[name][1] - 1, 1)
        if world.layout.target is None and not world.layout.going:
            break
    world.round(faults=False)
    assert [each[:3] for each in world.layout.served] == target
    assert {slot: version for slot, (version, _) in world.children.items()} == wanted(world.layout, world.seen())
