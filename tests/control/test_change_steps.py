"""A change of a running app, step by step, on a roster without processes."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from flightserve.control.changes import OK, UNAVAILABLE, WITHDRAWN, Changes
from flightserve.control.desired import Desired
from flightserve.control.messages import Announce, CommandResult, Deploy, Report, Scale
from flightserve.control.plan import Plan, PlannedDeployment
from flightserve.control.roster import QUIET_NS, START_ATTEMPTS, Record, Roster
from flightserve.core.lifecycle.phases import Event, Phase
from flightserve.core.lifecycle.reconciling import NS_PER_S, Drain, Start
from flightserve.errors import InvalidArgument, NotFound, kind_of
from tests.control.standins import plan, spec

NOW = 1_000 * NS_PER_S


class World:
    """A roster whose children come up, and leave, as they are told."""

    def __init__(self, what: Plan) -> None:
        self.plan = what
        self.desired = Desired(what)
        self.roster = Roster(what, "node", self.desired)
        self.changes = Changes(self.desired, self.roster, what.options.drain_timeout_s, lambda: None)
        self.answers: list[CommandResult] = []
        self.now_ns = NOW
        self.version = 0
        self.going_requests = 0.0
        self.peers = 0
        # Places whose children do not become ready.
        self.stuck: set[str] = set()
        self.turn()
        self.roster.note_ready()

    def turn(self, rounds: int = 1, seconds: float = 0.5) -> None:
        """The supervisor's rounds, and what the children make of them."""
        for _ in range(rounds):
            self.now_ns += int(seconds * NS_PER_S)
            self.changes.step(self.now_ns)
            for action in self.roster.plan_actions(self.now_ns):
                if isinstance(action, Start):
                    self._start(action)
                elif isinstance(action, Drain):
                    record = self.roster.records[action.peer_id]
                    self.roster.happened(record, Event.DRAIN, self.now_ns)
                    self.roster.happened(record, Event.EXITED, self.now_ns)
            self.version += 1
            self.roster.table(self.version)
            for record in list(self.roster.records.values()):
                ready = record.slot.name not in self.stuck
                statistics = {"going_requests": self.going_requests} if record.slot.tier == "router" else {}
                self.roster.reported(record, Report(ready, statistics, self.version), self.now_ns)

    def _start(self, action: Start) -> None:
        self.peers += 1
        announce = Announce(
            peer_id=self.peers, slot=action.slot, version=action.version, actor="actor", node="node",
            pid=self.peers, serving=True,
        )  # fmt: skip
        self.roster.announced(announce, self.now_ns)

    def ask(self, message: Scale | Deploy) -> None:
        self.changes.ask(message, self.answers.append, self.now_ns)

    def replicas(self) -> dict[str, str]:
        return {
            record.slot.name: record.version for record in self.roster.records.values() if record.slot.tier == "replica"
        }

    def record(self, name: str) -> Record:
        (found,) = [record for record in self.roster.records.values() if record.slot.name == name]
        return found


def deployed(*specs: Any, declared: int | None = None) -> bytes:
    return pickle.dumps(tuple(PlannedDeployment(each, b"", declared or each.options.replicas) for each in specs))


def deploy(*specs: Any, id: str = "d", declared: int | None = None, in_place: bool = False, **replicas: int) -> Deploy:
    return Deploy(id, deployed(*specs, declared=declared), replicas, 60.0, in_place)


def version(name: str, number: str, **options: object) -> Any:
    return dataclasses.replace(spec(name, **options), version=number)


@pytest.fixture
def world() -> World:
    return World(plan(spec("A", replicas=2)))


def test_scaling_is_answered_when_all_are_ready_and_what_is_too_many_is_gone(world: World) -> None:
    world.stuck = {"replica-A-2"}
    world.ask(Scale("s", {"A": 3}, 60.0))
    world.turn(4)
    assert world.answers == []
    assert world.changes.progress() == "A from 2 to 3 replicas: 0 of 1 new replicas ready"
    world.stuck = set()
    world.turn(4)
    assert world.answers == [CommandResult("s", OK, "A from 2 to 3 replicas")]
    world.ask(Scale("t", {"A": 1}, 60.0))
    world.turn(4)
    assert world.answers[1:] == [CommandResult("t", OK, "A from 3 to 1 replica")]
    assert world.replicas() == {"replica-A-0": "1"}
    assert world.changes.progress() == ""


def test_a_new_version_is_served_when_ready_and_the_old_goes_when_it_is_quiet(world: World) -> None:
    world.going_requests = 1.0
    world.ask(deploy(version("A", "2", replicas=2)))
    world.turn(8)
    assert [(each.version, each.state) for each in world.roster.view(0, 1, 0).deployments] == [
        ("1", "going"),
        ("2", "served"),
    ]
    world.turn(8)
    assert world.replicas() == {f"replica-A-{i}": "1" if i < 2 else "2" for i in range(4)}
    assert world.answers == []
    world.going_requests = 0.0
    world.turn(int(QUIET_NS / NS_PER_S * 2) + 4)
    assert world.replicas() == {"replica-A-2": "2", "replica-A-3": "2"}
    assert [answer.kind for answer in world.answers] == [OK]


def test_what_does_not_become_quiet_is_cut_off_at_the_drain_limit(world: World) -> None:
    world.going_requests = 1.0
    world.ask(deploy(version("A", "2", replicas=2)))
    world.turn(8)
    world.turn(1, world.plan.options.drain_timeout_s)
    world.turn(3)
    assert world.replicas() == {"replica-A-2": "2", "replica-A-3": "2"}
    assert [answer.kind for answer in world.answers] == [OK]


def test_the_table_names_versions_that_come_and_go_beside_what_is_served(world: World) -> None:
    def table() -> tuple[list[str], list[str]]:
        world.version += 1
        made = world.roster.table(world.version)
        return [entry.spec.key for entry in made.deployments], [entry.spec.key for entry in made.others]

    world.stuck = {"replica-A-2"}
    world.ask(deploy(version("A", "2", replicas=1), spec("B"), declared=1))
    assert table() == (["A@1"], ["A@2", "B@1"])
    world.turn(4)
    world.stuck = set()
    world.going_requests = 1.0
    world.turn(4)
    assert table() == (["A@2", "B@1"], ["A@1"])
    epochs = {entry.spec.key: entry.epoch for entry in world.roster.table(world.version).deployments}
    assert epochs["A@2"] > world.roster.table(world.version).others[0].epoch


@pytest.mark.parametrize("name", ["replica-A-2", "replica-A-3"])
def test_a_new_replica_that_cannot_start_ends_the_change_and_the_old_ones_stay(world: World, name: str) -> None:
    before = world.replicas()
    world.stuck = {name}
    world.ask(deploy(version("A", "2", replicas=2)))
    world.turn(3)
    world.roster.failed(world.record(name), f"{name}: ValueError: no model", "Traceback")
    world.turn()
    assert world.answers == [CommandResult("d", UNAVAILABLE, f"taken back: {name}: ValueError: no model", "Traceback")]
    assert world.roster.failure == ""
    world.turn(2)
    assert world.replicas() == before
    assert world.desired.layout.target is None


def test_a_new_replica_that_dies_now_and_then_is_replaced_and_one_that_always_dies_ends_the_change(
    world: World,
) -> None:
    world.stuck = {"replica-A-2"}
    world.ask(deploy(version("A", "2", replicas=2)))
    for attempt in range(START_ATTEMPTS):
        world.turn(4, 1.0)
        assert world.answers == [], attempt
        world.roster.happened(world.record("replica-A-2"), Event.EXITED, world.now_ns)
    world.turn()
    (answer,) = world.answers
    assert "replica-A-2 died 3 times while starting" in answer.message


def test_what_is_not_ready_in_time_is_taken_back(world: World) -> None:
    world.stuck = {"replica-A-2"}
    world.ask(Scale("s", {"A": 3}, 10.0))
    world.turn(1, 11.0)
    assert [answer.message for answer in world.answers] == ["taken back: not ready after 10 s: waiting for replica-A-2"]
    world.turn(2)
    assert world.replicas() == {"replica-A-0": "1", "replica-A-1": "1"}


def test_a_change_that_nobody_wants_any_more_is_taken_back_and_one_that_has_switched_goes_on(world: World) -> None:
    before = world.replicas()
    world.stuck = {"replica-A-2"}
    world.ask(deploy(version("A", "2", replicas=1)))
    world.turn(3)
    world.changes.withdraw("d", world.answers.append)
    world.changes.withdraw("another", world.answers.append)
    world.turn(4)
    assert [answer.message for answer in world.answers if answer.id == "d"] == [f"taken back: {WITHDRAWN}"] * 2
    assert world.replicas() == before

    world.stuck = set()
    world.going_requests = 1.0
    world.ask(deploy(version("A", "3", replicas=1), id="e"))
    world.turn(4)
    world.changes.withdraw("e", world.answers.append)
    world.going_requests = 0.0
    world.turn(int(QUIET_NS / NS_PER_S * 2) + 4)
    assert [answer.kind for answer in world.answers if answer.id == "e"] == [OK, OK]
    assert set(world.replicas().values()) == {"3"}


def test_a_change_that_comes_after_it_was_withdrawn_does_not_begin(world: World) -> None:
    before = world.replicas()
    world.changes.withdraw("d", world.answers.append)
    world.ask(deploy(version("A", "2")))
    world.turn(4)
    assert world.answers == [CommandResult("d", UNAVAILABLE, f"not made: {WITHDRAWN}")] * 2
    assert world.replicas() == before


def test_what_cannot_be_placed_is_taken_back(world: World) -> None:
    world.stuck = {"replica-A-2"}
    world.ask(Scale("s", {"A": 3}, 60.0))
    world.roster.placement_problem = "placement cannot be satisfied: 3 GPU wanted, the node has 2"
    world.turn()
    assert [answer.message for answer in world.answers] == [f"taken back: {world.roster.placement_problem}"]


def test_where_there_is_no_room_for_a_deploy_a_way_without_is_named(world: World) -> None:
    world.stuck = {"replica-A-2", "replica-A-3"}
    world.roster.placement_problem = "placement cannot be satisfied: 3 GPU wanted, the node has 2"
    world.ask(deploy(version("A", "2", replicas=2)))
    world.turn()
    (answer,) = world.answers
    assert answer.message.startswith("taken back: placement cannot be satisfied")
    assert "A deploy in place (--in-place) needs no room" in answer.message


def test_a_process_that_has_not_heard_of_the_new_version_holds_up_the_switch(world: World) -> None:
    world.ask(deploy(version("A", "2", replicas=1), declared=1))
    world.turn(2)
    router = world.record("router-0")
    seen = world.roster.seen(world.now_ns)
    assert seen.told
    world.roster.reported(router, Report(True, {}, 0), world.now_ns)
    assert not world.roster.seen(world.now_ns).told
    assert router.phase is Phase.SERVING


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Scale("s", {"B": 1}, 1.0), NotFound("no deployment 'B'; there are: A")),
        (
            Scale("s", {"A": 0}, 1.0),
            InvalidArgument("0 replicas of A: it must be 1 to 1024. A deployment goes by a deploy without it"),
        ),
        (deploy(version("A", "2"), C=1), NotFound("no deployment 'C'; there are: A")),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(world: World, message: Any, error: Any) -> None:
    world.ask(message)
    assert world.answers == [CommandResult(message.id, kind_of(error), error.message)]
    assert world.desired.layout.target is None


def test_one_change_at_a_time_and_the_same_one_asked_for_again_is_the_same(world: World) -> None:
    first = Scale("s", {"A": 3}, 60.0)
    world.ask(first)
    world.ask(Scale("t", {"A": 4}, 60.0))
    world.ask(first)
    (refused,) = world.answers
    assert (refused.id, refused.kind) == ("t", UNAVAILABLE)
    world.turn(4)
    assert [answer.id for answer in world.answers[1:]] == ["s", "s"]
    world.ask(first)
    assert len(world.replicas()) == 3
    assert [answer.id for answer in world.answers[1:]] == ["s", "s", "s"]


def test_counts_stay_unless_asked_for_or_declared_otherwise(world: World) -> None:
    world.ask(Scale("s", {"A": 3}, 60.0))
    world.turn(4)
    for number, (declared, asked, expected) in enumerate([(2, {}, 3), (1, {}, 1), (1, {"A": 2}, 2), (1, {}, 2)], 2):
        world.ask(deploy(version("A", str(number), replicas=declared), id=str(number), **asked))
        world.turn(16)
        assert world.answers[-1].kind == OK
        assert list(world.replicas().values()) == [str(number)] * expected


def test_a_change_that_the_apps_end_overtakes_is_answered_and_no_alarm(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.stuck = {"replica-A-2"}
    world.ask(Scale("s", {"A": 3}, 60.0))
    world.turn()
    world.changes.stop()
    world.changes.stop()
    assert world.answers == [CommandResult("s", UNAVAILABLE, "not made: the app stops")]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_nothing_to_change_is_said_at_once(world: World) -> None:
    world.ask(Scale("s", {"A": 2}, 60.0))
    world.ask(deploy(version("A", "1", replicas=2), declared=2))
    assert [(answer.kind, answer.message) for answer in world.answers] == [(OK, "nothing to change")] * 2


def test_a_supervisor_that_comes_back_goes_on_in_the_middle(world: World) -> None:
    world.stuck = {"replica-A-2"}
    message = deploy(version("A", "2", replicas=2))
    world.ask(message)
    world.turn(2)
    successor = World(world.plan)
    successor.changes.restore(world.changes.state())
    assert successor.changes.progress() == world.changes.progress() != ""
    successor.ask(message)
    successor.turn(16)
    assert [answer.kind for answer in successor.answers] == [OK]
    assert successor.replicas() == {"replica-A-2": "2", "replica-A-3": "2"}


def test_a_deploy_in_place_is_answered_when_the_last_of_the_new_replicas_is_ready(world: World) -> None:
    world.stuck = {"replica-A-3"}
    world.ask(deploy(version("A", "2", replicas=2), in_place=True))
    names = [world.replicas().copy() for _ in range(12) if world.turn() is None]
    assert all(len(each) <= 2 for each in names), "no third replica finds room"
    assert {"replica-A-0": "1", "replica-A-2": "2"} in names
    assert names[-1] == {"replica-A-2": "2", "replica-A-3": "2"}
    assert world.answers == []
    world.stuck = set()
    world.turn(2)
    assert [(answer.kind, answer.message) for answer in world.answers] == [
        (OK, "A from version 1 to 2 with 2 replicas")
    ]
