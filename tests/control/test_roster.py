"""The roster: what happened to children, and the table, the view and the failures that follow."""

from __future__ import annotations

from dataclasses import replace

from flightserve.config import FrontendOptions
from flightserve.control.desired import Desired
from flightserve.control.messages import Announce, Report
from flightserve.control.roster import RETIRED_GRACE_NS, STABLE_NS, START_ATTEMPTS, Record, Roster
from flightserve.core.lifecycle.phases import Event, Phase
from flightserve.core.lifecycle.reconciling import NS_PER_S, Slot, Start
from flightserve.core.lifecycle.updating import Observed
from flightserve.types import MetricFamily
from tests.control.standins import plan, spec

NOW = 1_000 * NS_PER_S
SLOTS = [Slot("router", "", 0), Slot("frontend", "", 0), Slot("replica", "Echo", 0), Slot("replica", "Echo", 1)]
STANDBY = Slot("standby", "", 0)


def _roster(*, standby: bool = False) -> Roster:
    planned = plan()
    factories = {tier: factory for tier, factory in planned.factories.items() if standby or tier != "standby"}
    return Roster(replace(planned, factories=factories), "node")


def _announce(slot: Slot, peer_id: int, *, serving: bool = True, addresses: dict[str, str] | None = None) -> Announce:
    return Announce(
        peer_id=peer_id, slot=slot, version="1", actor="actor", node="node", pid=100 + peer_id, endpoint="\0e",
        serving=serving, addresses=addresses or {},
    )  # fmt: skip


def _serve_all(roster: Roster) -> list[Record]:
    records = []
    for peer_id, slot in enumerate(SLOTS, 1):
        record = roster.announced(_announce(slot, peer_id), NOW)
        roster.reported(record, Report(ready=True), NOW)
        records.append(record)
    return records


def test_an_empty_roster_starts_every_slot_once() -> None:
    roster = _roster()
    assert roster.plan_actions(NOW) == [Start(slot, "1") for slot in Desired(plan()).serving()]
    assert roster.view(0, 1, NOW).phase == "starting"
    assert "replica-Echo-1" in roster.problem()


def test_children_of_a_supervisor_before_us_are_adopted_and_nothing_is_started() -> None:
    roster = _roster()
    _serve_all(roster)
    assert roster.plan_actions(NOW) == []
    assert roster.all_ready()
    assert roster.view(0, 1, NOW).phase == "ready"


def test_the_table_names_the_owner_and_counts_ready_replicas() -> None:
    roster = _roster()
    records = _serve_all(roster)
    table = roster.table(5)
    (entry,) = table.deployments
    assert (entry.router_id, entry.ready, entry.wanted) == (records[0].peer_id, 2, 2)
    assert roster.reported(records[2], Report(ready=False), NOW)
    assert roster.table(6).deployments[0].ready == 1
    roster.happened(records[0], Event.DRAIN, NOW)
    table = roster.table(7)
    assert table.deployments[0].router_id == 0
    assert records[0].peer_id in {peer.id for peer in table.peers}
    roster.happened(records[0], Event.EXITED, NOW)
    assert records[0].peer_id not in {peer.id for peer in roster.table(8).peers}


def test_a_deployment_that_moves_begins_a_new_epoch_and_one_that_stays_does_not() -> None:
    roster = Roster(plan(routers=2), "node")
    routers = [roster.announced(_announce(Slot("router", "", n), 10 + n), NOW) for n in (0, 1)]
    first = roster.table(5).deployments[0]
    assert first.epoch == 5
    assert roster.table(6).deployments[0] == first
    owner, other = sorted(routers, key=lambda record: record.peer_id != first.router_id)
    roster.happened(owner, Event.EXITED, NOW)
    moved = roster.table(7).deployments[0]
    assert (moved.router_id, moved.epoch) == (other.peer_id, 7)
    roster.announced(_announce(owner.slot, 30), NOW)
    assert (roster.table(8).deployments[0].router_id, roster.table(9).deployments[0].epoch) == (30, 8)


def test_a_router_that_was_replaced_and_comes_back_owns_nothing() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.happened(records[0], Event.SILENT, NOW)
    assert roster.table(5).deployments[0].router_id == records[0].peer_id, "better a slow router than none"
    roster.announced(_announce(SLOTS[0], 30), NOW)
    assert roster.table(6).deployments[0].router_id == 30


def test_suspects_stay_in_the_table_because_breaking_what_is_in_flight_helps_nobody() -> None:
    roster = _roster()
    records = _serve_all(roster)
    before = roster.table(5)
    for record in records:
        roster.happened(record, Event.SILENT, NOW)
    after = roster.table(5)
    assert after.peers == before.peers
    assert [entry.router_id for entry in after.deployments] == [entry.router_id for entry in before.deployments]
    # But nobody is told that they answer.
    assert [entry.ready for entry in before.deployments] == [2]
    assert [entry.ready for entry in after.deployments] == [0]
    assert roster.reported(records[0], Report(ready=True), NOW)
    assert records[0].phase is Phase.SERVING


def test_a_report_that_changes_nothing_does_not_ask_for_a_new_table() -> None:
    roster = _roster()
    records = _serve_all(roster)
    assert not roster.reported(records[0], Report(ready=True, statistics={"x": 1.0}), NOW)
    assert roster.table(1).metrics["router-0"] == {"x": 1.0}


def test_what_a_replica_does_not_serve_makes_the_app_degraded_and_not_less_ready() -> None:
    roster = _roster()
    records = _serve_all(roster)
    noted = [record for record in records if record.slot.deployment]
    for record in noted:
        assert roster.reported(record, Report(ready=True, note="left out: a.csv"), NOW)
        assert not roster.reported(record, Report(ready=True, note="left out: a.csv"), NOW)
    view = roster.view(1, 1, NOW)
    assert (view.phase, view.problem) == ("degraded", f"{noted[0].slot.deployment}: left out: a.csv")
    assert roster.all_ready() and roster.table(1).notes == (view.problem,)
    for record in noted:
        assert roster.reported(record, Report(ready=True), NOW)
    assert (roster.view(1, 1, NOW).phase, roster.table(1).notes) == ("ready", ())


def test_what_has_no_room_is_told_while_what_it_is_to_replace_still_serves() -> None:
    """Of a node that leaves."""
    roster = _roster()
    _serve_all(roster)
    roster.placement_problem = "placement cannot be satisfied: no node has 2 CPU"
    roster.note_ready()
    view = roster.view(1, 0, 0)
    assert (view.phase, view.problem) == ("ready", "placement cannot be satisfied: no node has 2 CPU")


def test_a_child_that_dies_is_replaced_at_once_and_then_with_backoff() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.note_ready()
    roster.happened(records[2], Event.EXITED, NOW)
    assert roster.plan_actions(NOW) == [Start(SLOTS[2], "1")]
    assert roster.view(0, 1, NOW).phase == "degraded"
    again = roster.started(50, SLOTS[2], "1", "actor", NOW)
    roster.happened(again, Event.EXITED, NOW)
    assert roster.plan_actions(NOW) == []
    assert roster.plan_actions(NOW + NS_PER_S) == [Start(SLOTS[2], "1")]


def test_requests_that_kill_one_replica_after_another_are_not_waited_for_longer_and_longer() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.note_ready()
    now = NOW + NS_PER_S
    roster.happened(records[2], Event.EXITED, now)
    for peer_id in range(50, 58):
        record = roster.announced(_announce(SLOTS[2], peer_id), now)
        roster.reported(record, Report(ready=True), now)
        now += NS_PER_S
        roster.happened(record, Event.EXITED, now)
    assert Start(SLOTS[2], "1") not in roster.plan_actions(now)
    assert Start(SLOTS[2], "1") in roster.plan_actions(now + 2 * NS_PER_S)


def test_a_child_that_served_long_does_not_count_its_slots_old_failures() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.note_ready()
    for peer_id in (50, 51, 52):
        roster.happened(roster.started(peer_id, SLOTS[2], "1", "actor", NOW), Event.EXITED, NOW)
    later = NOW + 100 * NS_PER_S
    roster.unheard(later)
    roster.happened(records[2], Event.EXITED, later)
    assert roster.plan_actions(later) == [Start(SLOTS[2], "1")]


def test_a_start_that_fails_is_given_up_and_says_why() -> None:
    roster = _roster()
    record = roster.announced(_announce(SLOTS[2], 3, serving=False), NOW)
    roster.failed(record, "replica-Echo-0: ValueError: the model file is missing", "Traceback")
    roster.happened(record, Event.EXITED, NOW)
    view = roster.view(0, 1, NOW)
    assert (view.phase, view.problem) == ("failed", "replica-Echo-0: ValueError: the model file is missing")
    assert view.detail == "Traceback"
    assert roster.plan_actions(NOW + 100 * NS_PER_S) == []


def test_deaths_without_a_word_end_the_start_after_a_few() -> None:
    roster = _roster()
    for attempt in range(START_ATTEMPTS):
        assert roster.view(0, 1, NOW).phase == "starting"
        roster.happened(roster.started(10 + attempt, SLOTS[2], "1", "actor", NOW), Event.EXITED, NOW)
    assert roster.view(0, 1, NOW).phase == "failed"


def test_a_failed_restart_of_an_app_that_was_ready_is_tried_again() -> None:
    roster = _roster()
    _serve_all(roster)
    roster.note_ready()
    record = roster.started(50, Slot("replica", "Echo", 0), "1", "actor", NOW)
    roster.failed(record, "replica-Echo-0: OSError: later", "Traceback")
    roster.happened(record, Event.EXITED, NOW)
    assert roster.view(0, 1, NOW).phase != "failed"


def test_a_frontends_addresses_outlive_it() -> None:
    roster = _roster()
    record = roster.announced(_announce(SLOTS[1], 2, addresses={"http": "http://127.0.0.1:41"}), NOW)
    roster.happened(record, Event.EXITED, NOW)
    assert roster.addresses_of(SLOTS[1]) == {"http": "http://127.0.0.1:41"}
    other = _roster()
    other.attached(True, {SLOTS[1].name: roster.addresses_of(SLOTS[1])})
    assert other.addresses_of(SLOTS[1]) == {"http": "http://127.0.0.1:41"}
    assert other.was_ready


def _with_standby() -> tuple[Roster, list[Record], Record]:
    roster = _roster(standby=True)
    records = _serve_all(roster)
    roster.note_ready()
    assert roster.plan_actions(NOW) == [Start(STANDBY, "1")]
    standby = roster.announced(_announce(STANDBY, 60), NOW)
    roster.reported(standby, Report(ready=True), NOW)
    assert roster.plan_actions(NOW) == []
    return roster, records, standby


def test_a_standby_starts_when_all_else_is_ready_and_stays_when_that_changes() -> None:
    roster = _roster(standby=True)
    assert Start(STANDBY, "1") not in roster.plan_actions(NOW)
    roster, records, _ = _with_standby()
    roster.happened(records[2], Event.EXITED, NOW)
    assert roster.plan_actions(NOW) == [Start(SLOTS[2], "1")]
    assert roster.surplus() == []


def test_a_standby_has_no_part_in_the_data_plane_and_the_app_is_ready_without_it() -> None:
    roster, _, standby = _with_standby()
    table = roster.table(5)
    assert standby.peer_id not in {peer.id for peer in table.peers}
    assert "standby-0" not in table.metrics
    roster.happened(standby, Event.EXITED, NOW)
    assert roster.all_ready()


def test_a_standby_takes_the_place_of_a_router_that_died() -> None:
    roster, records, standby = _with_standby()
    roster.happened(records[0], Event.EXITED, NOW)
    assert roster.plan_actions(NOW) == [Start(SLOTS[0], "1")]
    assert roster.assigned(SLOTS[0], "1", {1, 2, 3}, NOW) is None, "it is not connected"
    assert roster.assigned(SLOTS[0], "1", {60}, NOW) is standby
    assert roster.plan_actions(NOW) == [], "the next one waits until the app is ready again"
    assert roster.assigned(SLOTS[1], "1", {60}, NOW) is None, "it is taken"
    # What it said before it heard of its new place says nothing of that.
    roster.announced(_announce(STANDBY, 60), NOW)
    roster.reported(standby, Report(ready=True), NOW)
    assert (standby.phase, roster.table(5).deployments[0].router_id) == (Phase.STARTING, 0)
    roster.announced(_announce(SLOTS[0], 60), NOW)
    assert roster.table(6).deployments[0].router_id == 60
    assert not roster.all_ready()
    roster.reported(standby, Report(ready=True), NOW)
    assert roster.plan_actions(NOW) == [Start(STANDBY, "1")]


def test_a_standby_that_is_silent_or_drains_is_given_no_place() -> None:
    for event in (Event.SILENT, Event.DRAIN, Event.KILL):
        roster, _, standby = _with_standby()
        roster.happened(standby, event, NOW)
        assert roster.assigned(SLOTS[0], "1", {60}, NOW) is None


def test_a_child_that_served_long_before_it_was_killed_is_replaced_at_once() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.note_ready()
    for peer_id in (50, 51):
        roster.happened(roster.started(peer_id, SLOTS[2], "1", "actor", NOW), Event.EXITED, NOW)
    later = NOW + 2 * STABLE_NS
    roster.unheard(later)
    roster.happened(records[2], Event.KILL, later)
    roster.happened(records[2], Event.EXITED, later + NS_PER_S)
    assert Start(SLOTS[2], "1") in roster.plan_actions(later + NS_PER_S)


def test_while_draining_nothing_is_started_and_the_end_is_stopped() -> None:
    roster = _roster()
    records = _serve_all(roster)
    roster.draining = True
    assert roster.table(1).draining
    for record in records:
        roster.happened(record, Event.DRAIN, NOW)
        assert roster.view(0, 1, NOW).phase == "draining"
        roster.happened(record, Event.EXITED, NOW)
    assert roster.plan_actions(NOW) == []
    assert roster.view(0, 1, NOW).phase == "stopped"


def test_a_pause_of_our_own_is_nobodys_silence() -> None:
    roster = _roster()
    _serve_all(roster)
    later = NOW + 60 * NS_PER_S
    assert roster.plan_actions(later)
    roster.unheard(later)
    assert roster.plan_actions(later) == []


def test_demands_and_slots_follow_the_options() -> None:
    desired = Desired(
        plan(
            spec("A", replicas=2, num_cpus=1.5, resources={"disk": 1.0}), spec("B"),
            options=FrontendOptions(frontends=2), routers=3,
        )
    )  # fmt: skip
    slots = desired.wanted(Observed())
    assert len(slots) == 3 + 2 + 2 + 1
    assert desired.serving() == slots
    assert desired.everything() == slots | desired.standby
    assert desired.want(Slot("replica", "A", 1), "1").amounts == {"CPU": 1.5, "disk": 1.0}
    assert desired.want(Slot("replica", "B", 0), "1").amounts == {}
    assert desired.want(Slot("router", "", 2), "1").amounts == {}


def test_phases_of_adopted_children_that_still_start() -> None:
    roster = _roster()
    record = roster.announced(_announce(SLOTS[2], 3, serving=False), NOW)
    assert record.phase is Phase.STARTING
    assert record.pid == 103
    assert roster.unplaced(NOW + 100 * NS_PER_S, 0) == []


def test_one_that_is_retired_is_replaced_at_once_told_of_and_bounded_in_number() -> None:
    roster = _roster()
    records = _serve_all(roster)
    first = records[2]
    assert roster.retired(first, "its engine is broken", NOW + NS_PER_S, NOW) is None
    roster.happened(first, Event.DRAIN, NOW)
    assert roster.plan_actions(NOW) == [Start(first.slot, "1")]
    assert roster.problem() == "waiting for replica-Echo-0 (the one before was replaced: its engine is broken)"
    assert roster.view(0, 1, NOW).children[1].restarts == 1
    # No more of them than there are replicas: the oldest has to go.
    retired = [first]
    for number in range(2):
        record = roster.announced(_announce(first.slot, 10 + number), NOW + number + 1)
        roster.reported(record, Report(ready=True), NOW + number + 1)
        too_many = roster.retired(record, "again", NOW + NS_PER_S, NOW + number + 1)
        assert too_many is (None if number == 0 else retired[0])
        roster.happened(record, Event.DRAIN, NOW + number + 1)
        retired.append(record)


def test_what_a_retired_child_still_waits_for_may_take_less_time_than_it_said_first() -> None:
    roster = _roster()
    record = _serve_all(roster)[2]
    roster.retired(record, "why", NOW + 60 * NS_PER_S, NOW)
    roster.happened(record, Event.DRAIN, NOW)
    roster.reported(record, Report(ready=False, unfit="why", left_ns=NS_PER_S), NOW)
    assert record.until_ns == NOW + NS_PER_S + RETIRED_GRACE_NS


def test_one_that_says_it_is_not_well_is_told_of_and_makes_room_when_the_others_are_there() -> None:
    roster = _roster()
    replicas = [record for record in _serve_all(roster) if record.slot.tier == "replica"]
    for record in replicas:
        assert roster.reported(record, Report(ready=True, ailing="Model.well failed 3 times in a row: no answer"), NOW)
    assert roster.table(1).notes == ("Echo: Model.well failed 3 times in a row: no answer",)
    assert "3 times in a row" in roster.problem()
    assert roster.make_room() == replicas[:1]
    replicas[0].makes_room = True
    assert roster.make_room() == []
    roster.draining = True
    assert roster.make_room() == []


def test_what_replicas_measure_is_in_the_table_once_for_each_place_and_version() -> None:
    roster = _roster()
    replicas = [record for record in _serve_all(roster) if record.slot.tier == "replica"]
    family = MetricFamily("counter", "seen", "Seen", samples=(((), (1.0,)),))
    for record in replicas:
        roster.reported(record, Report(ready=True, families=(family,)), NOW)
    measured = roster.table(1).measured
    assert [(each.process, each.families) for each in measured] == [(r.slot.name, (family,)) for r in replicas]
