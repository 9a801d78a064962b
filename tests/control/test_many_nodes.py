"""Placement on a real Ray of three nodes, of two CPUs each, and what of it needs no Ray."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import pytest

from flightserve.clock import NEVER_NS
from flightserve.config import FrontendOptions
from flightserve.control.desired import Desired
from flightserve.control.messages import Announce
from flightserve.control.nodes import Nodes, place
from flightserve.control.plan import Assignment, ControlLimits
from flightserve.control.processes import Processes
from flightserve.control.roster import Record, Roster
from flightserve.control.told import peer_of
from flightserve.core.lifecycle.phases import Event, Phase
from flightserve.core.lifecycle.placement import PACK, SPREAD, RayNode, Want
from flightserve.core.lifecycle.reconciling import CARRIER, FRONTEND, NS_PER_S, REPLICA, ROUTER, STANDBY, Slot
from flightserve.errors import ConfigError
from flightserve.running import make_plan
from flightserve.tiers import flight_locations, frontend_options, reached_at
from flightserve.wire.table import Peer, RoutingTable
from tests.control import pricing, standins
from tests.control.served import ROOT
from tests.control.test_trouble import Cluster
from tests.support import eventually


def ray_node(name: str, cpus: float = 2.0) -> RayNode:
    return RayNode(name, "127.0.0.1", {"CPU": cpus}, {"CPU": cpus})


THREE = [ray_node("home"), ray_node("far"), ray_node("further")]


def nodes_of(*names: str, frontends: bool = True) -> Nodes:
    nodes = Nodes(frontends)
    nodes.are(map(ray_node, names))
    return nodes


# ---- what each node has one of


def test_a_node_keeps_its_number_whoever_comes_and_goes() -> None:
    nodes = nodes_of("home", "far", "further")
    assert list(nodes.carriers(begun=True)) == [Slot(CARRIER, "", number) for number in range(3)]
    nodes.are(map(ray_node, ("home", "further", "new")))
    assert list(nodes.frontends()) == [Slot(FRONTEND, "", 2), Slot(FRONTEND, "", 3)]
    assert [nodes.of(Slot(CARRIER, "", number)) for number in range(4)] == ["home", "far", "further", "new"]
    assert nodes.of(Slot(ROUTER, "", 1)) == nodes.of(Slot(REPLICA, "A", 1)) == ""


def test_a_supervisor_that_came_back_learns_the_numbers_from_those_that_have_them() -> None:
    nodes = Nodes(frontends=True)
    nodes.heard(Slot(FRONTEND, "", 0), "home")
    nodes.heard(Slot(CARRIER, "", 2), "further")
    nodes.are(map(ray_node, ("home", "new", "further")))
    assert nodes.of(Slot(CARRIER, "", 2)) == "further"
    assert set(nodes.frontends()) == {Slot(FRONTEND, "", 2), Slot(FRONTEND, "", 3)}


def leaving(name: str, left_ns: int | None = None) -> RayNode:
    return ray_node(name)._replace(leaves=True, left_ns=left_ns)


def test_a_node_that_leaves_keeps_its_carrier_until_nobody_else_is_there() -> None:
    nodes = nodes_of("home", "far", "further")
    assert [each.id for each in nodes.are([ray_node("home"), leaving("far"), ray_node("further")], 5)] == ["far"]
    assert nodes.are([ray_node("home"), leaving("far"), ray_node("further")], 6) == [], "it is told once"
    place, router = Slot(REPLICA, "A", 0), Slot(ROUTER, "", 0)
    assert nodes.leaves_ns(place, "far") == nodes.leaves_ns(router, "far") == NEVER_NS
    assert nodes.leaves_ns(place, "home") == nodes.leaves_ns(Slot(CARRIER, "", 1), "far") == 0
    assert list(nodes.frontends()) == [Slot(FRONTEND, "", 2)]
    held = Record(1, place, "1", "actor", Phase.SERVING, 0, 0, 0, node="far")
    assert len(nodes.carriers(begun=True, records=[held])) == 3
    left = [dataclasses.replace(held, slot=Slot(CARRIER, "", 1))]
    assert list(nodes.carriers(begun=True, records=left)) == [Slot(CARRIER, "", 0), Slot(CARRIER, "", 2)]


def test_a_node_of_which_its_end_is_told_later_drains_before_that() -> None:
    nodes, place = nodes_of("home", "far"), Slot(REPLICA, "A", 0)
    told = []
    for now_ns, left_ns in ((5, None), (6, 100), (16, 90), (20, 10), (21, None)):
        nodes.are([ray_node("home"), leaving("far", left_ns)], now_ns)
        told.append(nodes.leaves_ns(place, "far"))
    assert told == [NEVER_NS, 106, 106, 30, 30]


def test_the_supervisors_own_node_is_not_left_and_that_is_told() -> None:
    nodes = Nodes()
    nodes.are([leaving("home"), ray_node("far")], 5)
    assert nodes.leaves_ns(Slot(REPLICA, "A", 0), "home") == 0
    assert nodes.choose(Want("A", {}), PACK, {}, {}) == "far"
    assert "Ray drains the supervisor's node 127.0.0.1 (home), and the app ends with it" in nodes.end_of_home()


def test_of_an_app_on_one_node_nothing_is_bound() -> None:
    nodes = nodes_of("home", frontends=False)
    assert nodes.carriers(begun=True) == nodes.frontends() == {}


def supervised(options: FrontendOptions | None = None, **limits: float) -> tuple[Processes, Desired, Roster, Cluster]:
    """A supervisor's parts on a Ray of three nodes that answers at once."""
    plan = standins.plan(
        standins.spec("Echo", replicas=3, num_cpus=2.0, placement="spread"), options=options, routers=3,
        limits=ControlLimits(**limits),  # type: ignore[arg-type]
    )  # fmt: skip
    desired = Desired(dataclasses.replace(plan, spans=True))
    cluster = Cluster()
    cluster.answers.set()
    cluster.nodes = lambda: THREE  # type: ignore[method-assign]
    desired.nodes.are(THREE)
    roster = Roster(dataclasses.replace(plan, spans=True), "home", desired)
    processes = Processes(dataclasses.replace(plan, spans=True), desired, cluster, roster, lambda at_once: None)
    return processes, desired, roster, cluster


def test_all_that_a_node_has_counts_as_wanted() -> None:
    """A change ends when nothing is left that nobody wants."""

    async def main() -> None:
        processes, _, roster, _ = supervised(FrontendOptions(http_port=0, frontends="node"))
        for action in roster.plan_actions(0):
            processes.act(action, 0)
        names = Counter(record.slot.tier for record in roster.records.values())
        assert names == {ROUTER: 3, FRONTEND: 3, REPLICA: 3, CARRIER: 1}
        assert roster.surplus() == []
        where = {record.slot.name: record.node for record in roster.records.values()}
        assert [where[f"frontend-{number}"] for number in range(3)] == ["home", "far", "further"]
        for tier in ("router", "replica-Echo"):
            assert {where[f"{tier}-{number}"] for number in range(3)} == {"home", "far", "further"}

    asyncio.run(main())


def test_a_standby_does_not_become_the_frontend_of_another_node() -> None:
    async def main() -> None:
        processes, _, roster, _ = supervised(FrontendOptions(http_port=0, frontends="node"))
        for number in (1, 2):
            announce = Announce(number, Slot(STANDBY, "", 0), "1", "standby", "home", os.getpid(), serving=True)
            record = roster.announced(announce, 0)
            record.ready = True
            writer = processes._writers[number] = mock.Mock()
            writer.transport.is_closing.return_value = False
            writer.transport.get_write_buffer_size.return_value = 0
        processes._start(Slot(FRONTEND, "", 2), "1", 0)
        assert [record.slot.name for record in roster.records.values()] == ["standby-0", "standby-0", "frontend-2"]
        processes._start(Slot(FRONTEND, "", 0), "1", 0)
        assert sorted(record.slot.name for record in roster.records.values()) == [
            "frontend-0",
            "frontend-2",
            "standby-0",
        ]

    asyncio.run(main())


def test_what_has_no_room_may_wait_for_another_node() -> None:
    async def main() -> None:
        processes, _, roster, cluster = supervised(nodes_wait_s=60.0)
        cluster.nodes = lambda: THREE[:2]  # type: ignore[method-assign]
        await processes.check_placement(NS_PER_S)
        assert roster.placement_problem == ""
        assert roster.problem().startswith(
            "waiting up to 60 s for another node: placement cannot be satisfied: no room"
        )
        assert roster.plan_actions(NS_PER_S)
        await processes.check_placement(62 * NS_PER_S)
        assert roster.problem().startswith("placement cannot be satisfied: no room for 1 of 3 replicas of Echo")
        cluster.nodes = lambda: THREE  # type: ignore[method-assign]
        await processes.check_placement(63 * NS_PER_S)
        assert not roster.placement_problem
        assert not roster.nodes_awaited

    asyncio.run(main())


def test_what_was_given_room_and_is_slow_to_start_is_not_said_to_have_none() -> None:
    async def main() -> None:
        processes, desired, roster, cluster = supervised()
        for ordinal in range(3):
            processes._start(Slot(REPLICA, "Echo", ordinal), "1", 0)
        taken = [each._replace(free={}) for each in THREE]
        cluster.nodes = lambda: taken  # type: ignore[method-assign]
        await processes.check_placement(9 * NS_PER_S)
        assert not roster.problem().startswith("placement")
        desired.nodes.are(taken)
        processes._start(Slot(REPLICA, "Echo", 3), "1", 0)
        await processes.check_placement(9 * NS_PER_S)
        assert roster.problem().startswith("placement cannot be satisfied: no node has 2 CPU for a replica of Echo")
        assert roster.problem().count("has 2 CPU, 0 of it free") == 3

    asyncio.run(main())


def test_what_waits_on_a_node_that_is_lost_is_started_elsewhere() -> None:
    async def main() -> None:
        processes, desired, roster, _ = supervised()
        now_ns = time.monotonic_ns()
        processes._start(Slot(REPLICA, "Echo", 0), "1", now_ns)
        processes._start(Slot(REPLICA, "Echo", 1), "1", now_ns)
        second = next(record for record in roster.records.values() if record.slot.ordinal == 1)
        assert second.node == "far"
        desired.nodes.gone(Slot(CARRIER, "", 1), "far", Want("carrier-1", {}))
        processes.check_spawning(now_ns + 1)
        await asyncio.to_thread(eventually, lambda: second.peer_id not in roster.records)
        again = [record.node for record in roster.records.values() if record.slot == Slot(REPLICA, "Echo", 1)]
        assert again == ["further"]
        desired.nodes.heard(Slot(CARRIER, "", 1), "far")
        assert not desired.nodes.lost("far")

    asyncio.run(main())


def test_a_successor_goes_where_the_one_before_it_was() -> None:
    """Ray says only a while later that what it had is free."""
    nodes = nodes_of("home", "far")
    want = Want("A", {"CPU": 2.0})
    slot = Slot(REPLICA, "A", 0)
    assert place(nodes, slot, "1", want, PACK, []) == "home"
    assert place(nodes, slot, "1", want, PACK, []) == "far"
    assert place(nodes, slot, "1", want, PACK, []) == ""
    nodes.gone(slot, "home", want)
    assert place(nodes, slot, "1", want, PACK, []) == "home"
    assert place(nodes, slot, "1", Want("A", {}), SPREAD, []) == "home"


# ---- where the frontends of other nodes listen


def assigned(options: FrontendOptions, ordinal: int, node: str, **more: Any) -> Assignment:
    return Assignment(
        "app", 1, Slot(FRONTEND, "", ordinal), "1", node, options, standins.plan().fabric,
        home="home", spans=True, host="10.0.0.7", **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("host", "loopback", "here", "there", "reached"),
    [
        ("127.0.0.1", True, "127.0.0.1", "127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", True, "localhost", "localhost", "http://localhost:80"),
        ("0.0.0.0", False, "0.0.0.0", "0.0.0.0", "http://10.0.0.7:80"),
        ("::", False, "::", "::", "http://10.0.0.7:80"),
        ("10.0.0.1", False, "10.0.0.1", "10.0.0.7", "http://10.0.0.7:80"),
    ],
)
def test_a_frontend_listens_on_its_own_node(host: str, loopback: bool, here: str, there: str, reached: str) -> None:
    options = FrontendOptions(host=host, http_port=80, flight_port=0, grpc_port=None, frontends="node")
    assert frontend_options(assigned(options, 0, "home", loopback=loopback)).host == here
    far = assigned(options, 2, "far", loopback=loopback)
    made = frontend_options(far)
    assert (made.host, made.http_port, made.flight_port, made.grpc_port) == (there, 80, 0, None)
    listening = f"http://{f'[{there}]' if ':' in there else there}:80"
    assert reached_at(far)(listening) == reached


def test_several_frontends_of_one_node_are_as_before() -> None:
    options = FrontendOptions(host="0.0.0.0", http_port=80, grpc_port=None, frontends=3)
    made = frontend_options(assigned(options, 2, "home"))
    assert (made.host, made.http_port) == ("0.0.0.0", 0)
    assert reached_at(assigned(options, 2, "home"))("http://0.0.0.0:80") == "http://0.0.0.0:80"


def located(assignment: Assignment, own: str, **elsewhere: str) -> tuple[str, ...]:
    peers = [Peer(number, FRONTEND, "", "", node, url) for number, (node, url) in enumerate(elsewhere.items(), 2)]
    table = RoutingTable(1, (Peer(1, FRONTEND, "", "", "home", own), *peers, Peer(9, CARRIER, "", "", "home", "h:1")))
    return flight_locations(table, assignment, own)


def test_a_result_names_the_flight_of_frontends_that_can_be_reached_the_own_first() -> None:
    options = FrontendOptions(host="0.0.0.0", flight_locations=True, frontends="node")
    here = assigned(options, 0, "home")
    assert located(here, "grpc://h:2", far="grpc://f:1", further="") == ("grpc://h:2", "grpc://f:1")
    assert located(here, "grpc://0.0.0.0:2", far="grpc://0.0.0.0:1") == ()
    assert located(here, "grpc://[::]:2", far="grpc://[fd00::2]:1") == ("grpc://[fd00::2]:1",)
    at_loopback = assigned(options, 0, "home", loopback=True)
    own, other = "grpc://127.0.0.1:2", "grpc://127.0.0.1:3"
    assert located(at_loopback, own, far=other) == (own,)
    assert located(at_loopback, own, home=other) == (own, other)


def test_the_flight_of_a_frontend_that_is_not_ready_is_told_nobody() -> None:
    roster = Roster(standins.plan(), "node")
    announce = Announce(1, Slot(FRONTEND, "", 0), "1", "a", "node", 1, "", True, {"flight": "grpc://127.0.0.1:2"})
    record = roster.announced(announce, 0)
    assert peer_of(record).address == ""
    record.ready = True
    assert peer_of(record).address == "grpc://127.0.0.1:2"
    roster.happened(record, Event.DRAIN, 0)
    assert peer_of(record).address == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flight_locations": "all"}, "flight_locations is 'all'; it is True or False"),
        ({"frontends": "nodes"}, "frontends is 'nodes'; it is a whole number, or 'node': one on each node"),
        ({"wait_for_nodes_s": -1}, "wait_for_nodes_s is -1; it is 0 to 86400 seconds"),
        ({"wait_for_nodes_s": "5m"}, "wait_for_nodes_s is '5m'; it is a number of seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    wait_s = options.pop("wait_for_nodes_s", 0.0)
    with pytest.raises(ConfigError, match=f"^{said}$"):
        make_plan(pricing.app, FrontendOptions(**options), {}, 1, wait_for_nodes_s=wait_s)


# ---- a real Ray of three nodes


class Program:
    """`tests.control.many_nodes`, told what to do line by line."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.control.many_nodes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_prestart_worker_first_driver": "0"},
        )  # fmt: skip
        self.hear()

    def do(self, command: str, **arguments: Any) -> Any:
        """What came of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, arguments]) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError("the program ended")

    def end(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    program = Program()
    yield program
    assert program.end() == 0


@pytest.mark.ray
def test_what_fits_no_node_is_said_with_what_each_has(program: Program) -> None:
    said = program.do("refused", num_cpus=3, name="Big")
    assert "no node has 3 CPU for a replica of Big; node " in said["message"]
    assert said["message"].count("has 2 CPU, 2 of it free") == 3
    assert said["seconds"] < 10
    said = program.do("refused", num_cpus=1.5, replicas=4, name="Big")
    assert "no room for 1 of 4 replicas of Big, each 1.5 CPU, beside what else there is" in said["message"]
    said = program.do("refused", labels={"zone": "moon"}, name="Big")
    assert "no node has label zone=moon for a replica of Big; " in said["message"]
    assert "has zone=far;" in said["message"]
    assert said["message"].endswith("; take less for each (num_cpus=, num_gpus=, resources=, labels=)")


@pytest.mark.ray
def test_all_tiers_are_where_they_are_to_be_and_leave_a_node_that_ray_drains(program: Program) -> None:
    served = program.do("serve", frontends="node", routers=3)
    assert served["phase"] == "ready"
    where = {name: zone for name, zone, _ in served["children"]}

    def zones(prefix: str) -> list[str]:
        return sorted(zone for name, zone in where.items() if name.startswith(prefix))

    each_one = ["far", "further", "home"]
    for prefix in ("carrier-", "frontend-", "router-", "replica-Spread-"):
        assert zones(prefix) == each_one, prefix
    assert zones("replica-Far-") == ["far", "far"]
    assert zones("replica-Packed-")[-2:] == ["home", "home"]
    assert where["frontend-0"] == "home"
    frontends = [addresses["http"] for name, _, addresses in served["children"] if name.startswith("frontend-")]
    assert len(set(frontends)) == 3
    for address in frontends:
        for name in ("Spread", "Far", "Packed"):
            answer = httpx.post(f"{address}/v1/{name}/node", json={"columns": {"a": [1]}}, timeout=30)
            assert answer.json()["columns"]["node"][0].split()[0] in zones(f"replica-{name}-")
    assert program.do("scale", Spread=6) == {"said": "Spread from 3 to 6 replicas"}
    where = {name: zone for name, zone, _ in program.do("status")["children"]}
    assert zones("replica-Spread-") == sorted(each_one * 2)
    # Calls that may not be run twice go on all the while.
    drained = program.do("drain", zone="further")
    assert drained["errors"] == []
    assert drained["answered"] > 0
    assert drained["phase"] == "ready"
    where = {name: zone for name, zone, _ in drained["children"]}
    for prefix, count in (("carrier-", 2), ("frontend-", 2), ("router-", 3), ("replica-Spread-", 6)):
        assert len(zones(prefix)) == count, prefix
        assert set(zones(prefix)) == {"far", "home"}, prefix
    assert drained["gone"], "Ray ended the node when nobody was there any more"
    assert program.do("stop") == {}


@pytest.mark.ray
def test_an_app_that_may_wait_starts_when_its_node_comes(program: Program) -> None:
    said = program.do("later", zone="moon")
    assert said["phase"] == "ready"
    assert "no node has 1 moon for a replica of Where" in said["told"][0]
