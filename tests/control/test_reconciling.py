"""Reconciling and lifecycle: converges, does nothing at the fixpoint, keeps one live child a slot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.core.lifecycle.leaving import drain_at_ns
from flightserve.core.lifecycle.phases import LIVE, TRANSITIONS, Event, InvalidTransition, Phase, step
from flightserve.core.lifecycle.reconciling import (
    FRONTEND,
    NS_PER_S,
    Action,
    Child,
    Drain,
    Failures,
    Kill,
    ReconcileLimits,
    Retire,
    Slot,
    Start,
    Suspect,
    not_before_ns,
    reconcile,
    shortfalls,
)

LIMITS = ReconcileLimits()
NOW = 1_000 * NS_PER_S

SLOTS = st.builds(
    Slot,
    st.sampled_from(["router", "replica", "frontend"]),
    st.sampled_from(["", "Pricing", "Flights"]),
    st.integers(0, 2),
)
WANTED = st.dictionaries(SLOTS, st.sampled_from(["1", "2"]), max_size=6)


@st.composite
def observed(draw: st.DrawFn) -> list[Child]:
    """Any set of children, also ones that should not be."""
    ids = draw(st.lists(st.integers(1, 10_000), unique=True, max_size=8))
    slots = {peer_id: draw(SLOTS) for peer_id in ids}
    leave = {peer_id: draw(st.sampled_from([0, 0, NOW + 8 * NS_PER_S, NEVER_NS])) for peer_id in ids}
    return [
        Child(
            peer_id=peer_id,
            slot=slots[peer_id],
            version=draw(st.sampled_from(["1", "2"])),
            phase=draw(st.sampled_from(list(Phase))),
            since_ns=NOW - draw(st.integers(0, 400 * NS_PER_S)),
            heard_ns=NOW - draw(st.integers(0, 30 * NS_PER_S)),
            stopped=draw(st.booleans()),
            busy=draw(st.booleans()),
            until_ns=draw(st.sampled_from([0, NOW - NS_PER_S, NOW + 30 * NS_PER_S])),
            ready=draw(st.booleans()),
            # Frontends are of their node.
            leaves_ns=leave[peer_id] if slots[peer_id].tier != FRONTEND else 0,
        )
        for peer_id in ids
    ]


@dataclass
class World:
    """Carries out actions the way the shell does, with children that behave: they start, report and leave."""

    children: dict[int, Child]
    now_ns: int = NOW
    next_id: int = 1_000_000

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(slot, version):
                    self.next_id += 1
                    self.children[self.next_id] = Child(
                        self.next_id, slot, version, Phase.STARTING, self.now_ns, self.now_ns
                    )
                case Suspect(peer_id):
                    self._step(peer_id, Event.SILENT)
                case Retire(peer_id):
                    self._step(peer_id, Event.DRAIN)
                case Drain(peer_id):
                    self._step(peer_id, Event.DRAIN)
                case Kill(peer_id):
                    self._step(peer_id, Event.KILL)

    def pass_time(self) -> None:
        """Two seconds in which starting children come to serve, and draining and killed ones go."""
        self.now_ns += 2 * NS_PER_S
        for peer_id, child in list(self.children.items()):
            if child.phase in (Phase.DRAINING, Phase.KILLED, Phase.GONE):
                del self.children[peer_id]
            elif child.phase is not Phase.SUSPECT:
                event = Event.SERVES if child.phase is Phase.STARTING else Event.HEARD
                phase = step(child.phase, event)
                self.children[peer_id] = replace(child, phase=phase, heard_ns=self.now_ns, ready=True)

    def _step(self, peer_id: int, event: Event) -> None:
        child = self.children[peer_id]
        phase = step(child.phase, event)
        self.children[peer_id] = replace(
            child, phase=phase, since_ns=child.since_ns if phase is Phase.SUSPECT else self.now_ns
        )


@given(WANTED, observed())
def test_applying_the_actions_converges_and_the_fixpoint_is_quiet(wanted: dict[Slot, str], start: list[Child]) -> None:
    world = World({child.peer_id: child for child in start})
    for _ in range(60):
        world.apply(reconcile(wanted, world.children.values(), {}, world.now_ns, LIMITS))
        world.pass_time()
    assert {child.slot: child.version for child in world.children.values()} == wanted
    assert len(world.children) == len(wanted)
    assert all(child.phase is Phase.SERVING for child in world.children.values())
    assert reconcile(wanted, world.children.values(), {}, world.now_ns, LIMITS) == []


@given(WANTED, observed())
def test_actions_name_children_that_exist_once_and_start_only_free_slots(
    wanted: dict[Slot, str], children: list[Child]
) -> None:
    actions = reconcile(wanted, children, {}, NOW, LIMITS)
    by_id = {child.peer_id: child for child in children}
    touched = [action.peer_id for action in actions if not isinstance(action, Start)]
    assert len(touched) == len(set(touched))
    assert all(by_id[peer_id].phase in LIVE for peer_id in touched)
    started = [action.slot for action in actions if isinstance(action, Start)]
    assert len(started) == len(set(started))
    keepers = {
        child.slot
        for child in children
        if child.phase in LIVE and child.phase is not Phase.DRAINING and child.version == wanted.get(child.slot)
        and not child.leaves_ns
    }  # fmt: skip
    assert keepers.isdisjoint(started)


@given(WANTED, observed())
def test_a_frontend_is_never_started_before_its_predecessor_is_gone(
    wanted: dict[Slot, str], children: list[Child]
) -> None:
    there = {child.slot for child in children if child.phase is not Phase.GONE}
    for action in reconcile(wanted, children, {}, NOW, LIMITS):
        if isinstance(action, Start) and action.slot.tier == FRONTEND:
            assert action.slot not in there


@given(WANTED, observed())
def test_a_kept_child_that_reports_is_left_alone(wanted: dict[Slot, str], children: list[Child]) -> None:
    fresh = [replace(child, heard_ns=NOW, since_ns=NOW - NS_PER_S, phase=Phase.SERVING) for child in children]
    slots = [child.slot for child in fresh]
    for action in reconcile(wanted, fresh, {}, NOW, LIMITS):
        if not isinstance(action, Start):
            child = next(child for child in fresh if child.peer_id == action.peer_id)
            assert isinstance(action, Drain)
            assert child.version != wanted.get(child.slot) or slots.count(child.slot) > 1


def _child(phase: Phase, silent_ns: int = 0, age_ns: int = 0, *, stopped: bool = False) -> Child:
    return Child(7, Slot("replica", "Pricing", 0), "1", phase, NOW - age_ns, NOW - silent_ns, stopped)


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        (_child(Phase.SERVING, LIMITS.suspect_ns), None),
        (_child(Phase.SERVING, LIMITS.suspect_ns + 1), Suspect),
        (_child(Phase.SUSPECT, LIMITS.frozen_ns), None),
        (_child(Phase.SUSPECT, LIMITS.frozen_ns + 1), Kill),
        (_child(Phase.SERVING, LIMITS.stopped_ns, stopped=True), None),
        (_child(Phase.SERVING, LIMITS.stopped_ns + 1, stopped=True), Kill),
        (_child(Phase.SUSPECT, LIMITS.stopped_ns + 1, stopped=True), Kill),
        (_child(Phase.STARTING, LIMITS.start_ns, LIMITS.start_ns), None),
        (_child(Phase.STARTING, LIMITS.start_ns, LIMITS.start_ns + 1), Kill),
        (_child(Phase.DRAINING, 0, LIMITS.drain_ns), None),
        (_child(Phase.DRAINING, 0, LIMITS.drain_ns + 1), Kill),
    ],
)
def test_silence_and_age_at_each_bound_and_past_it(child: Child, expected: type[Action] | None) -> None:
    wanted = {child.slot: "1"}
    actions = [action for action in reconcile(wanted, [child], {}, NOW, LIMITS) if not isinstance(action, Start)]
    assert [type(action) for action in actions] == ([expected] if expected else [])


@given(st.integers(1, 200))
def test_backoff_grows_to_its_bound_and_no_further(count: int) -> None:
    delay = not_before_ns(Failures(count, NOW), LIMITS)
    if count == 1:
        assert delay == 0
    else:
        assert LIMITS.backoff_ns <= delay - NOW <= LIMITS.backoff_max_ns
        assert not_before_ns(Failures(count + 1, NOW), LIMITS) >= delay
    slot = Slot("router", "", 0)
    failures = {slot: Failures(count, NOW)}
    assert reconcile({slot: "1"}, [], failures, NOW + LIMITS.backoff_max_ns, LIMITS) == [Start(slot, "1")]
    assert bool(reconcile({slot: "1"}, [], failures, NOW, LIMITS)) == (count == 1)


@given(st.integers(1, 200))
def test_after_one_that_was_in_service_others_wait_for_a_bounded_time(count: int) -> None:
    delay = not_before_ns(Failures(count, NOW, served=True), LIMITS)
    assert delay <= not_before_ns(Failures(count, NOW), LIMITS)
    assert delay <= NOW + LIMITS.served_backoff_max_ns


def test_shortfalls_add_up_and_name_what_is_missing() -> None:
    demands = [{"CPU": 1.5}, {"CPU": 1.0, "GPU": 1.0}]
    assert shortfalls(demands, {"CPU": 2.5, "GPU": 1.0}) == []
    assert shortfalls(demands, {"CPU": 2.0}) == [("CPU", 2.5, 2.0), ("GPU", 1.0, 0.0)]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("event", list(Event))
def test_every_phase_takes_every_event_or_says_that_it_cannot(phase: Phase, event: Event) -> None:
    if (phase, event) in TRANSITIONS:
        assert step(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(InvalidTransition, match=phase.value):
            step(phase, event)


def test_exit_is_possible_from_every_phase_but_gone_and_gone_is_final() -> None:
    assert {phase for phase, event in TRANSITIONS if event is Event.EXITED} == set(Phase) - {Phase.GONE}
    assert not [event for phase, event in TRANSITIONS if phase is Phase.GONE]
    assert {TRANSITIONS[Phase.KILLED, event] for event in Event if (Phase.KILLED, event) in TRANSITIONS} == {
        Phase.KILLED,
        Phase.GONE,
    }


def _silent(seconds: float, phase: Phase = Phase.SUSPECT, tier: str = "replica", **more: Any) -> list[Action]:
    """What is done about a child that has said nothing for so long."""
    slot = Slot(tier, "Pricing" if tier == "replica" else "", 0)
    heard_ns = NOW - int(seconds * NS_PER_S)
    child = Child(1, slot, "1", phase, heard_ns, heard_ns, **more)
    actions = reconcile({slot: "1"}, [child], {}, NOW, LIMITS)
    return [action for action in actions if not isinstance(action, Start)]


def test_a_replica_that_works_in_silence_is_retired_and_others_are_killed() -> None:
    assert _silent(30.0, busy=True) == []
    (retired,) = _silent(30.1, busy=True)
    assert isinstance(retired, Retire)
    assert retired.until_ns == NOW + LIMITS.engrossed_ns
    assert [type(action) for action in _silent(30.1)] == [Kill]
    assert [type(action) for action in _silent(30.1, busy=True, tier="router")] == [Kill]
    assert [type(action) for action in _silent(1.1, busy=True, stopped=True)] == [Kill]


def test_one_that_is_retired_has_its_time_unless_it_is_silent_and_idle() -> None:
    until_ns = NOW + NS_PER_S
    assert _silent(29.0, Phase.DRAINING, until_ns=until_ns) == []
    assert _silent(100.0, Phase.DRAINING, until_ns=until_ns, busy=True) == []
    assert [type(action) for action in _silent(30.1, Phase.DRAINING, until_ns=until_ns)] == [Kill]
    assert [type(action) for action in _silent(100.0, Phase.DRAINING, until_ns=NOW - 1, busy=True)] == [Kill]


def test_another_starts_at_once_beside_one_that_is_retired() -> None:
    slot = Slot("replica", "Pricing", 0)
    child = Child(1, slot, "1", Phase.DRAINING, NOW, NOW, until_ns=NOW + NS_PER_S)
    assert reconcile({slot: "1"}, [child], {}, NOW, LIMITS) == [Start(slot, "1")]


# ---- nodes that leave

PLACE = Slot("replica", "Pricing", 0)


def leaver(leaves_ns: int = NEVER_NS, **other: Any) -> Child:
    return replace(Child(1, PLACE, "1", Phase.SERVING, NOW, NOW, ready=True, leaves_ns=leaves_ns), **other)


def successor(phase: Phase = Phase.SERVING, ready: bool = True) -> Child:
    return Child(2, PLACE, "1", phase, NOW, NOW, ready=ready)


@pytest.mark.parametrize(
    ("children", "actions"),
    [
        ([leaver()], [Start(PLACE, "1")]),
        ([leaver(phase=Phase.SUSPECT)], [Start(PLACE, "1")]),
        ([leaver(), successor(Phase.STARTING, False)], []),
        ([leaver(), successor(ready=False)], []),
        ([leaver(), successor()], [Drain(1, "replaced")]),
        ([leaver(phase=Phase.DRAINING), successor()], []),
        ([leaver(leaves_ns=NOW)], [Drain(1, "replaced"), Start(PLACE, "1")]),
        ([leaver(leaves_ns=NOW), successor(Phase.STARTING, False)], [Drain(1, "replaced")]),
        ([leaver(version="0")], [Drain(1, "replaced"), Start(PLACE, "1")]),
    ],
)
def test_a_child_whose_node_leaves_serves_until_another_is_ready(children: list[Child], actions: list[Action]) -> None:
    assert reconcile({PLACE: "1"}, children, {}, NOW, LIMITS) == actions


def test_what_fails_on_another_node_is_tried_with_patience_while_the_leaver_serves() -> None:
    failed = {PLACE: Failures(5, NOW)}
    assert reconcile({PLACE: "1"}, [leaver()], failed, NOW, LIMITS) == []


@pytest.mark.parametrize(("left_s", "begins_s"), [(None, None), (120, 100), (30, 15), (10, 5), (0, 0), (-5, 0)])
def test_before_a_node_ends_what_is_there_drains(left_s: int | None, begins_s: int | None) -> None:
    at_ns = drain_at_ns(None if left_s is None else left_s * NS_PER_S, NOW, 20 * NS_PER_S)
    assert at_ns == (NEVER_NS if begins_s is None else NOW + begins_s * NS_PER_S)
