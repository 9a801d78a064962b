"""Numbers of replicas that follow the load, on a roster without processes: reports in, another layout out."""

from __future__ import annotations

from typing import Any

import pytest

import flightserve as fs
from flightserve.control.autoscaling import Autoscaling
from flightserve.control.changes import OK
from flightserve.control.messages import CommandResult, Deploy, Report, Scale
from flightserve.core.lifecycle.autoscaling import PLACE_AGAIN_NS
from flightserve.core.lifecycle.reconciling import NS_PER_S
from flightserve.errors import InvalidArgument, NotFound, kind_of
from tests.control.standins import plan, spec
from tests.control.test_change_steps import World, deploy, version

LOOK_S = 0.5


class Elastic(World):
    """A deployment A whose number follows the load; its router says what `load` is told."""

    def __init__(self, low: int = 1, high: int = 4, down_after_s: float = 5.0, **options: Any) -> None:
        follows = fs.autoscale(low, high, target_queue_ms=50, down_after_s=down_after_s)
        super().__init__(plan(spec("A", replicas=follows.start, autoscale=follows, **options)))
        self.changed = 0
        self.autoscaling = Autoscaling(self.desired, self.roster, self._changed)
        self.counts: dict[str, float] = {"uptime_s": 0.0}

    def _changed(self) -> None:
        self.changed += 1

    def load(self, rounds: int, per_s: float = 0.0, wait_ms: float = 0.0, **gauges: float) -> None:
        """So many looks, with requests of 10 ms each that wait so long."""
        for _ in range(rounds):
            count = per_s * LOOK_S
            grown = {
                "arrived": count, "completed": count, "queue_waits": count,
                "queue_wait_ns": count * wait_ms * 1e6, "busy_ns": count * 1e7,
            }  # fmt: skip
            for name, by in grown.items():
                self.counts[f"A.{name}"] = self.counts.get(f"A.{name}", 0.0) + by
            self.counts["uptime_s"] += LOOK_S
            now = self.counts | {f"A.{name}": value for name, value in gauges.items()}
            self.roster.reported(self.record("router-0"), Report(True, dict(now), self.version), self.now_ns)
            self.autoscaling.step(self.now_ns)
            self.turn(1, LOOK_S)

    @property
    def view(self) -> Any:
        (view,) = self.roster.view(1, 1, self.now_ns).deployments
        return view


def test_more_and_fewer_replicas_without_a_change_under_way() -> None:
    world = Elastic()
    world.load(20, 300, 400)
    assert len(world.replicas()) == 4
    assert world.desired.layout.target is None
    assert (world.view.desired, world.view.ready, world.view.bounds) == (4, 4, "1 to 4")
    assert "requests wait 400 ms" in world.view.why
    entry = world.roster.table(world.version + 1).deployments[0]
    assert (entry.wanted, entry.ready, entry.may_rest) == (4, 4, False)
    assert world.roster.table(world.version + 2).metrics["supervisor"] == {
        "A.replicas_wanted": 4,
        "A.replicas_ready": 4,
    }
    world.load(200, 1)
    assert world.replicas() == {"replica-A-0": "1"}
    assert world.changed >= 4


def test_an_app_is_ready_while_more_replicas_start_and_with_none_where_that_may_be() -> None:
    world = Elastic(low=0)
    world.stuck = {"replica-A-1", "replica-A-2", "replica-A-3"}
    world.load(20, 300, 400)
    assert world.roster.all_ready()
    assert world.view.desired > world.view.ready == 1
    world.load(100)
    assert world.replicas() == {}
    assert world.roster.all_ready()
    assert world.roster.table(world.version + 1).deployments[0].may_rest
    world.stuck = {"replica-A-0"}
    world.load(2, live_requests=1, queued_requests=1)
    assert world.replicas() == {"replica-A-0": "1"}
    assert world.roster.all_ready(), "the first request waits, and nothing is wrong"


def test_the_first_start_shows_that_a_replica_can_start() -> None:
    world = Elastic(low=0)
    world.roster.was_ready = False
    world.roster.reported(world.record("replica-A-0"), Report(False, {}, 1), world.now_ns)
    assert not world.roster.all_ready()


def test_what_a_change_is_about_is_left_alone_and_the_rest_is_not() -> None:
    world = Elastic()
    world.stuck = {"replica-A-1"}
    world.ask(deploy(version("A", "2", replicas=1)))
    world.load(20, 300, 400)
    assert len(world.replicas()) == 2
    world.stuck = set()
    world.turn(40)
    assert [answer.kind for answer in world.answers] == [OK]


def test_another_deployment_grows_while_one_is_changed() -> None:
    world = Elastic()
    planned = world.desired.planned("A", "1")
    assert planned is not None
    world.stuck = {"replica-B-0"}
    world.ask(deploy(planned.spec, version("B", "1", replicas=1)))
    world.load(20, 300, 400)
    assert sum(name.startswith("replica-A") for name in world.replicas()) == 4
    world.stuck = set()
    world.turn(10)
    assert [answer.kind for answer in world.answers] == [OK]
    assert {each.name: each.replicas for each in world.desired.layout.served} == {"A": 4, "B": 1}


def test_a_number_by_hand_within_the_bounds_is_where_it_goes_on_from() -> None:
    world = Elastic(down_after_s=20)
    world.load(4, 1)
    world.ask(Scale("s", {"A": 3}, 10.0))
    world.turn(4)
    assert [answer.message for answer in world.answers] == ["A from 1 to 3 replicas"]
    world.load(30, 1)
    assert len(world.replicas()) == 3
    world.load(20, 1)
    assert len(world.replicas()) == 2


def test_a_number_by_hand_beyond_the_bounds_is_refused() -> None:
    world = Elastic(low=0)
    world.ask(Scale("s", {"A": 5}, 10.0))
    message = (
        "5 replicas of A: their number follows the load, from 0 to 4. "
        "Other bounds are set by a scale to LOW-HIGH, as in A=0-5"
    )
    assert world.answers == [CommandResult("s", kind_of(InvalidArgument("")), message)]
    world.ask(Scale("t", {"A": 0}, 10.0))
    world.turn(3)
    assert world.replicas() == {}


def test_other_bounds_while_it_runs() -> None:
    world = Elastic(low=1)
    world.ask(Scale("s", {"A": (2, 6)}, 10.0))
    world.turn(4)
    assert world.answers == [CommandResult("s", OK, "A to 2 to 6 replicas, by the load")]
    assert len(world.replicas()) == 2
    world.load(40, 600, 800)
    assert len(world.replicas()) == 6
    world.ask(Scale("t", {"A": (1, 3)}, 10.0))
    world.turn(6)
    assert len(world.replicas()) == 3
    world.ask(Scale("u", {"A": (1, 3)}, 10.0))
    world.ask(Scale("v", {"A": (3, 1)}, 10.0))
    world.ask(Scale("w", {"B": (1, 3)}, 10.0))
    unchanged, upside_down, unknown = world.answers[2:]
    assert unchanged.message == "nothing to change"
    assert "low is 3" in upside_down.message and upside_down.kind == kind_of(InvalidArgument(""))
    assert unknown.kind == kind_of(NotFound(""))


def test_bounds_that_cannot_be_are_as_before() -> None:
    world = Elastic(low=1)
    world.stuck = {"replica-A-1", "replica-A-2"}
    world.ask(Scale("s", {"A": (3, 6)}, 5.0))
    world.turn(20)
    (answer,) = world.answers
    assert "taken back" in answer.message
    assert str(world.desired.following()["A"]) == "1 to 4"
    assert len(world.replicas()) == 1


def test_new_code_keeps_the_number_of_now_and_one_at_least() -> None:
    world = Elastic(low=0)
    world.load(20, 300, 400)
    before = world.desired.planned("A", "1")
    assert before is not None
    new = version("A", "2", replicas=1, autoscale=before.spec.options.autoscale)
    world.ask(deploy(new))
    world.turn(20)
    assert set(world.replicas().values()) == {"2"}
    assert len(world.replicas()) == 4
    world.load(100)
    assert world.replicas() == {}
    world.ask(deploy(version("A", "3", replicas=1, autoscale=before.spec.options.autoscale), id="e"))
    world.turn(20)
    assert [answer.kind for answer in world.answers] == [OK, OK]
    assert list(world.replicas().values()) == ["3"]


@pytest.mark.parametrize("in_place", [False, True])
def test_new_code_for_a_deployment_that_has_none(in_place: bool) -> None:
    world = Elastic(low=0, num_gpus=1)
    world.load(60)
    assert world.replicas() == {}
    before = world.desired.planned("A", "1")
    assert before is not None
    message = deploy(version("A", "2", replicas=1, autoscale=before.spec.options.autoscale))
    world.ask(Deploy(message.id, message.deployments, {}, 60.0, in_place))
    world.turn(20)
    assert [answer.kind for answer in world.answers] == [OK]
    assert list(world.replicas().values()) == ["2"]


def test_what_cannot_be_placed_is_said_and_the_app_goes_on() -> None:
    world = Elastic(num_gpus=1)
    world.load(2, 1)
    world.load(6, 300, 400)
    assert world.desired.layout.served[0].replicas > 2
    for name in ("replica-A-2", "replica-A-3"):
        for record in list(world.roster.records.values()):
            if record.slot.name == name:
                del world.roster.records[record.peer_id]
                record.pid = 0
                world.roster.started(record.peer_id, record.slot, "1", "actor", world.now_ns)
    world.roster.placement_problem = "placement cannot be satisfied: 4 GPU wanted, the node has 2"
    world.load(2, 300, 400)
    assert world.view.desired == 2
    assert "more cannot be placed, which is tried again in" in world.view.why
    assert world.view.why.endswith("; placement cannot be satisfied: 4 GPU wanted, the node has 2")
    world.roster.placement_problem = ""
    world.load(int(PLACE_AGAIN_NS / NS_PER_S / LOOK_S) - 2, 300, 400)
    assert world.view.desired == 2
    world.load(4, 300, 400)
    assert world.view.desired > 2


def test_why_one_beyond_the_least_died_is_said() -> None:
    from flightserve.core.lifecycle.phases import Event

    world = Elastic()
    world.load(20, 300, 400)
    record = world.record("replica-A-3")
    record.last_words = "ValueError: no more memory"
    world.roster.happened(record, Event.EXITED, world.now_ns)
    world.roster.note_ready()
    assert "replica-A-3 died: ValueError: no more memory" in world.view.why
    world.turn(4)
    world.roster.note_ready()
    assert "died" not in world.view.why


def test_a_supervisor_after_this_one_goes_on_from_the_number_of_now() -> None:
    world = Elastic()
    world.load(20, 300, 400)
    after = Elastic()
    after.changes.restore(world.changes.state())
    assert after.desired.layout.served[0].replicas == 4
