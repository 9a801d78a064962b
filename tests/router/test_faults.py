"""Replicas that are killed, stopped, engrossed or slow, as processes of their own behind a real router."""

from __future__ import annotations

import collections
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flightserve import errors
from flightserve.config import FabricLimits
from flightserve.contracts.service import Reply
from flightserve.fabric.transport.processes import look_at
from tests.plane import Plane, meta, plane, receive_all
from tests.router.replica_process import Mortal, ReplicaProcess
from tests.support import eventually

# So long that nothing in a test can be due to a heartbeat.
NO_HEARTBEATS = FabricLimits(heartbeat_s=600.0)
# A call that holds the interpreter for some seconds, which is many heartbeats.
ENGROSSING = 600_000_000
# One that does so asleep, in microseconds.
DREAMING = 1_000_000


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": pa.array(values, pa.int64())})


class Killable:
    """A plane whose replicas are processes. `gate` lets the methods that wait go on."""

    def __init__(self, running: Plane, directory: Path, replicas: list[ReplicaProcess]) -> None:
        self.plane = running
        self.directory = directory
        self.replicas = replicas

    def open_gate(self) -> None:
        (self.directory / "gate").touch()

    @property
    def ran(self) -> list[tuple[int, int]]:
        """What ran so far, as (value, process)."""
        path = self.directory / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(key), int(pid)) for key, pid in map(str.split, lines)]

    def count(self, name: str) -> float:
        return self.plane.router.statistics()[f"Mortal.{name}"]

    def victim(self) -> ReplicaProcess:
        """One that runs something."""
        eventually(lambda: self.ran, what="a method runs")
        pid = self.ran[0][1]
        return next(replica for replica in self.replicas if replica.pid == pid)


@contextmanager
def killable(
    directory: Path, count: int = 2, limits: FabricLimits = NO_HEARTBEATS, **options: Any
) -> Iterator[Killable]:
    bound = Mortal.bind(str(directory)).options(**options)
    with plane(bound, 0, limits) as running, ExitStack() as stack:
        started = [stack.enter_context(ReplicaProcess(running, directory)) for _ in range(count)]
        yield Killable(running, directory, [replica.wait_ready() for replica in started])


def submit(system: Killable, requests: dict[int, str]) -> Any:
    """A lane with these requests on it, by key and method; the key is the row too."""
    lane = system.plane.client.open_lane()
    for key, method in requests.items():
        lane.submit(key, "Mortal", method, rows(key), meta())
    return lane


def answers(lane: Any, count: int) -> tuple[dict[int, int], dict[int, errors.FlightserveError]]:
    """The next replies: by key the process that answered, or the error."""
    replies: list[Reply] = list(receive_all(lane, count))
    ok: dict[int, int] = {}
    for reply in replies:
        if reply.result is not None:
            answered = reply.result.batch().to_pydict()
            assert answered["x"] == [reply.key]
            ok[reply.key] = answered["pid"][0]
    return ok, {reply.key: reply.error for reply in replies if reply.error is not None}


# ---- SIGKILL


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_a_killed_replica_ran_is_answered_by_another_and_only_once_methods_are_unavailable(
    tmp_path: Path, concurrency: int
) -> None:
    with killable(tmp_path, concurrency=concurrency) as system:
        requests = {key: "held_once" if key % 3 == 0 else "held" for key in range(60)}
        lane = submit(system, requests)
        eventually(lambda: system.count("in_flight_batches") == 2 * 2 * concurrency)
        victim = system.victim()
        eventually(lambda: len({pid for _, pid in system.ran}) == 2)
        victim.send(signal.SIGKILL)
        # At once, by the end of its connections: no heartbeat is due for ten minutes.
        eventually(lambda: system.count("lanes") == concurrency)
        system.open_gate()
        ok, failed = answers(lane, len(requests))
        assert not {key for key in failed if requests[key] == "held"}, failed
        assert failed, "the killed replica had some that may run only once"
        assert all(isinstance(error, errors.Unavailable) for error in failed.values())
        assert "not idempotent" in next(iter(failed.values())).message
        assert victim.pid not in ok.values()
        ran = collections.Counter(key for key, _ in system.ran)
        assert {key for key, times in ran.items() if times > 1 and requests[key] == "held_once"} == set()
        assert system.count("retries") >= 1
        lane.close()


def test_lanes_of_one_process_die_together_and_nothing_is_given_from_one_to_the_next(tmp_path: Path) -> None:
    with killable(tmp_path, concurrency=8) as system:
        lane = system.plane.client.open_lane()
        for key in range(16):
            lane.submit(key, "Mortal", "held", rows(key), meta())
            # One for each lane; all could take another.
            eventually(lambda key=key: system.count("in_flight_batches") == key + 1)
        eventually(lambda: len(system.ran) == 16)
        system.victim().send(signal.SIGKILL)
        eventually(lambda: system.count("lanes") == 8)
        assert system.count("retries") == 8
        system.open_gate()
        ok, failed = answers(lane, 16)
        assert failed == {}
        assert len(ok) == 16
        lane.close()


def test_a_stream_whose_replica_is_killed_is_unavailable(tmp_path: Path) -> None:
    with killable(tmp_path) as system:
        lane = submit(system, {7: "parts"})
        ok, _ = answers(lane, 1)
        system.victim().send(signal.SIGKILL)
        _, failed = answers(lane, 1)
        assert isinstance(failed[7], errors.Unavailable)
        assert "part of the reply" in failed[7].message
        assert [pid for _, pid in system.ran] == [ok[7]], "it did not run again"
        lane.close()


# ---- SIGSTOP


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_stopped_replica_is_ejected_and_comes_back_as_another_session(tmp_path: Path, concurrency: int) -> None:
    with killable(tmp_path, limits=FabricLimits(heartbeat_s=0.1), concurrency=concurrency) as system:
        requests = {key: "held_once" if key % 3 == 0 else "held" for key in range(60)}
        lane = submit(system, requests)
        eventually(lambda: system.count("in_flight_batches") == 2 * 2 * concurrency)
        eventually(lambda: len({pid for _, pid in system.ran}) == 2)
        victim = system.victim()
        victim.send(signal.SIGSTOP)
        eventually(lambda: system.count("ejected_silent") == 1, what="it is ejected")
        assert system.count("lanes") == concurrency
        system.open_gate()
        ok, failed = answers(lane, len(requests))
        assert not {key for key in failed if requests[key] == "held"}, failed
        assert failed
        assert all(isinstance(error, errors.Unavailable) for error in failed.values())
        assert all("stopped" in error.message for error in failed.values())
        assert victim.pid not in ok.values()
        # Its answers to what others have answered since come now, and count for nothing.
        victim.send(signal.SIGCONT)
        eventually(lambda: system.count("lanes") == 2 * concurrency, what="it is back")
        seen: set[int] = set()

        def asked_of_both() -> bool:
            (batch,) = system.plane.call("pid", rows(1))
            seen.add(batch.column("pid")[0].as_py())
            return len(seen) == 2

        eventually(asked_of_both, what="both answer again")
        ran = collections.Counter(key for key, _ in system.ran if key != 1)
        assert {key for key, times in ran.items() if times > 1 and requests[key] == "held_once"} == set()
        assert system.count("late") == 0, "what it said late was never read"
        lane.close()


def test_a_replica_whose_method_holds_the_interpreter_is_given_nothing_new_and_not_ejected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with killable(tmp_path, count=1, limits=FabricLimits(heartbeat_s=0.2)) as system:
        lane = submit(system, {ENGROSSING: "engross"})
        eventually(lambda: "it gets nothing new" in caplog.text)
        assert system.count("in_flight_batches") == 1
        lane.submit(2, "Mortal", "pid", rows(2), meta())
        ok, failed = answers(lane, 2)
        assert failed == {}
        assert set(ok) == {ENGROSSING, 2}
        assert system.count("ejected_silent") == 0
        lane.close()


def test_a_call_that_lets_nothing_else_run_and_does_nothing_runs_once(tmp_path: Path) -> None:
    with killable(tmp_path, count=1, limits=FabricLimits(heartbeat_s=0.05), concurrency=2) as system:
        lane = submit(system, {DREAMING: "dream"})
        ok, failed = answers(lane, 1)
        assert failed == {}
        assert [key for key, _ in system.ran] == [DREAMING] == list(ok)
        assert system.count("ejected_silent") == system.count("retries") == 0
        lane.close()


# ---- forks


def test_a_replica_that_forked_is_known_to_be_dead_at_once_and_its_child_goes_with_it(tmp_path: Path) -> None:
    with killable(tmp_path, count=1) as system:
        lane = submit(system, {1: "fork_and_hold"})
        victim = system.victim()
        child = int((tmp_path / "child").read_text())
        victim.send(signal.SIGKILL)
        ok, failed = answers(lane, 1)
        assert ok == {}
        assert isinstance(failed[1], errors.Unavailable)
        eventually(lambda: look_at(child) is None, what="the child is gone")
        lane.close()


def test_the_kernel_tells_of_a_death_that_a_child_hides_by_holding_all_connections(tmp_path: Path) -> None:
    with killable(tmp_path, count=1) as system:
        lane = submit(system, {1: "fork_unheard_and_hold"})
        victim = system.victim()
        try:
            victim.send(signal.SIGKILL)
            ok, failed = answers(lane, 1)
            assert ok == {}
            assert "its process died" in failed[1].message
        finally:
            os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
        lane.close()
