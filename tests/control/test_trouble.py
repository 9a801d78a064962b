"""What keeps a supervisor from starting anything is said: Ray is gone or does not answer, the disk is full."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from flightserve.control import processes, ray_calls
from flightserve.control.desired import Desired
from flightserve.control.plan import Assignment
from flightserve.control.processes import DISK_BYTES_MIN, Processes
from flightserve.control.roster import Roster
from flightserve.core.lifecycle.placement import RayNode
from flightserve.core.lifecycle.reconciling import STANDBY, Slot, Start
from tests.control import standins
from tests.support import eventually


class Cluster:
    """A Ray that is as the test says."""

    raylet_pid = 0

    def __init__(self) -> None:
        self.gone = ""
        self.free_bytes = DISK_BYTES_MIN
        self.answers = threading.Event()
        self.on_failure: Any = None

    def start(self, assignment: Assignment, demand: Mapping[str, float], actor: str, on_failure: Any) -> None:
        self.answers.wait(60)
        self.on_failure = on_failure

    def end(self, actor: str) -> None:
        self.answers.wait(60)
        if self.on_failure is not None:
            self.on_failure("ActorDiedError: it was killed by ray.kill")

    def watch(self, actor: str, on_exit: Any) -> None:
        self.answers.wait(60)

    def nodes(self) -> list[RayNode]:
        self.answers.wait(60)
        return [RayNode("node", "127.0.0.1", {"CPU": 1.0}, {"CPU": 1.0})]

    def lost(self) -> str:
        return self.gone

    def disk_bytes(self) -> int:
        return self.free_bytes


def supervised(cluster: Cluster) -> tuple[Processes, Roster]:
    plan = standins.plan(standins.spec("Echo", num_cpus=1.0))
    desired = Desired(plan)
    roster = Roster(plan, "node", desired)
    return Processes(plan, desired, cluster, roster, lambda at_once: None), roster


def test_a_full_disk_and_a_lost_raylet_are_said_beside_what_is_waited_for() -> None:
    async def main() -> None:
        cluster = Cluster()
        watched, roster = supervised(cluster)
        assert watched.trouble() == ""
        cluster.free_bytes -= 1
        assert "the disk with Ray's folder is full" in watched.trouble()
        roster.trouble = watched.trouble()
        assert roster.problem().startswith("waiting for ")
        assert roster.problem().endswith(watched.trouble())
        cluster.gone = "Ray's raylet died"
        assert watched.trouble() == "Ray's raylet died"

    asyncio.run(main())


def test_an_app_that_is_cut_off_ends_when_something_is_missing() -> None:
    async def main() -> None:
        _, roster = supervised(Cluster())
        roster.lost = "Ray's raylet died"
        assert roster.view(1, 1, 0).lost == "Ray's raylet died"
        roster.lost = ""
        assert roster.view(1, 1, 0).lost == ""

    asyncio.run(main())


def test_a_ray_that_does_not_answer_is_said_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_calls, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(processes, "RAY_SILENT_S", 0.1)

    async def main() -> None:
        cluster = Cluster()
        watched, roster = supervised(cluster)
        await watched.check_placement(0)
        await asyncio.to_thread(eventually, watched.trouble)
        assert watched.trouble().startswith("Ray has not answered for ")
        assert roster.placement_problem == ""
        cluster.answers.set()
        await asyncio.to_thread(eventually, lambda: not watched.trouble())

    asyncio.run(main())


def test_what_is_ended_before_it_has_a_process_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    """An app that is stopped when it has just begun."""

    async def main() -> None:
        cluster = Cluster()
        watched, roster = supervised(cluster)
        roster.draining = True
        watched.act(Start(Slot(STANDBY, "", 0), ""), 0)
        (record,) = roster.records.values()
        watched.drain(record, "the app stops", 1.0)
        cluster.answers.set()
        await asyncio.to_thread(eventually, lambda: not roster.records)

    asyncio.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
