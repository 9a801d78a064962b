"""The faults: each breaks something of the running app on purpose, and sees it whole again.

A fault runs on a thread of the runner's: it begins, waits until the system has recovered or `GIVE_UP_S` have passed,
and returns what it did as a `Fault`. Signals go through pidfds, so that a pid that was used again is never hit, and
only to processes of the app under test, as its supervisor names them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from flightserve.clock import monotonic_ns
from flightserve.control import commands
from flightserve.control.messages import ChildView
from flightserve.errors import FlightserveError
from flightserve.running import plan_deployments
from tests.chaos.allowed import TABLE
from tests.chaos.app import make_app
from tests.chaos.history import Fault
from tests.chaos.system import LoadProcess, System
from tests.control.served import ROOT

# Shorter than anybody would notice, around three heartbeats, and until long after.
STOPS_S: Final = (0.3, 1.5, 4.0, 60.0)
# Nodes: shorter than the links between them wait, and longer.
AWAY_S: Final = (1.0, 3.0, 7.0)
SLOW_S: Final = 4.0
STRANGE_S: Final = 3.0
POLL_S: Final = 0.02
BUSY_S: Final = 1.0
# Nothing takes so long to recover on any machine. (Errors are excused for the table's bound, which is less.)
GIVE_UP_S: Final = 45.0
SUPERVISOR: Final = "supervisor"
CHANGE: Final = "change"
CHANGE_S: Final = 50.0


@dataclass(slots=True)
class Chance:
    """What a fault has to work with: the system, a seed of its own, where clients may connect, and ids nobody uses."""

    system: System
    rng: random.Random
    addresses: list[dict[str, str]]
    first_id: int
    # What other faults have in hand now.
    held: frozenset[str] = frozenset()

    def target(self, tier: str) -> ChildView:
        """A child of a tier that may be broken: well, and with a companion that is well and stays so. Raises NotNow."""
        children = [
            child for child in self.system.view().children if child.tier == tier and child.name not in self.held
        ]
        well = [child for child in children if child.ready and child.phase == "serving"]
        may = [c for c in well if any(o.deployment == c.deployment and o.name != c.name for o in well)]
        if not may:
            raise NotNow(tier)
        return self.rng.choice(sorted(may, key=lambda child: child.name))


class NotNow(Exception):
    """The fault cannot be made without breaking the last one of a tier; another one is due."""


@dataclass(slots=True)
class Planned:
    """A fault that was decided on: what it holds (names of children) and how to make it."""

    kind: str
    target: str
    run: Callable[[], Fault]
    holds: frozenset[str] = field(default_factory=frozenset)


def plan(kind: str, chance: Chance) -> Planned:
    """Choose the target. Raises NotNow."""
    return _PLANS[kind](kind, chance)


# ---- processes


def _on_child(kind: str, chance: Chance) -> Planned:
    tier = kind.partition("-")[0]
    if SUPERVISOR in chance.held:
        raise NotNow(kind)
    child = chance.target(tier)
    return _planned(kind, chance, child.name, child.pid)


def _on_supervisor(kind: str, chance: Chance) -> Planned:
    # While something else is to be replaced, the supervisor is needed.
    if chance.held:
        raise NotNow(kind)
    return _planned(kind, chance, SUPERVISOR, chance.system.view().supervisor_pid)


def _planned(kind: str, chance: Chance, name: str, pid: int) -> Planned:
    system, stop_s = chance.system, chance.rng.choice(STOPS_S)
    make = _kill if kind.endswith("-kill") else _stop
    return Planned(kind, name, lambda: make(system, kind, name, pid, stop_s), frozenset({name}))


def _kill(system: System, kind: str, name: str, pid: int, _: float) -> Fault:
    with _pidfd(pid) as pidfd:
        if kind == "replica-kill":
            _wait_busy(system, pid)
        begin_ns = monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return _recovered(system, kind, name, pid, begin_ns, lambda: system.is_whole(name, without=pid))


def _stop(system: System, kind: str, name: str, pid: int, stop_s: float) -> Fault:
    """SIGSTOP, and SIGCONT after a while, where it still lives by then."""
    with _pidfd(pid) as pidfd:
        begin_ns = monotonic_ns()
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        until = time.monotonic() + stop_s
        note = f"stopped for {stop_s:g} s"
        while time.monotonic() < until and not system.is_whole(name, without=pid):
            threading.Event().wait(POLL_S)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except ProcessLookupError:
            note += ", killed meanwhile"
    return _recovered(system, kind, name, pid, begin_ns, lambda: system.is_whole(name), note)


def _wait_busy(system: System, pid: int) -> None:
    """Until the replica begins a micro-batch, or has had `BUSY_S` to do so: a death shall meet a request."""
    (journal,) = system.records.glob(f"exec-{pid}-*.jsonl")
    before, until = journal.stat().st_size, time.monotonic() + BUSY_S
    while journal.stat().st_size == before and time.monotonic() < until:
        threading.Event().wait(0.001)


def _recovered(
    system: System, kind: str, name: str, pid: int, begin_ns: int, whole: Callable[[], bool], note: str = ""
) -> Fault:
    last_ns = begin_ns + int(max(TABLE[kind].bound_s, GIVE_UP_S) * 1e9)
    while not whole():
        if monotonic_ns() > last_ns:
            said = system.problem()
            return Fault(kind, name, pid, begin_ns, monotonic_ns(), False, f"{note} {said}".strip())
        threading.Event().wait(POLL_S)
    return Fault(kind, name, pid, begin_ns, monotonic_ns(), True, note)


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


# ---- nodes


def _on_node(kind: str, chance: Chance) -> Planned:
    """A node with replicas: all of its processes die at once, or Ray is told to end it, and it is started again; or its
    network is cut."""
    system, nodes = chance.system, chance.system.nodes
    # What runs on it is unknown until then: nothing else is broken meanwhile.
    if nodes is None or chance.held or (kind == "node-cut" and not nodes.apart):
        raise NotNow(kind)
    node = chance.rng.randrange(1, nodes.count)
    away_s = chance.rng.choice(AWAY_S)
    breaks = {"node-kill": nodes.kill, "node-drain": nodes.drain}.get(kind, nodes.cut)
    mends = nodes.mend if kind == "node-cut" else nodes.start

    def run() -> Fault:
        # After a cut those that were there may be there again.
        dead = system.on(nodes.ip(node)) if kind != "node-cut" else frozenset[int]()
        begin_ns = monotonic_ns()
        breaks(node)
        threading.Event().wait(away_s)
        mends(node)
        note = f"away for {away_s:g} s"
        return _recovered(system, kind, f"node {node}", 0, begin_ns, lambda: system.is_complete(dead), note)

    return Planned(kind, f"node {node}", run, frozenset({SUPERVISOR, CHANGE, f"node {node}"}))


def _on_gcs(kind: str, chance: Chance) -> Planned:
    """Ray's own memory dies, then a replica, for which nobody can be started until that is there again."""
    system, nodes = chance.system, chance.system.nodes
    if nodes is None or chance.held:
        raise NotNow(kind)
    replica, away_s = chance.target("replica"), chance.rng.choice(AWAY_S)

    def run() -> Fault:
        with _pidfd(replica.pid) as pidfd:
            begin_ns = monotonic_ns()
            nodes.kill_gcs()
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        threading.Event().wait(away_s)
        nodes.start_gcs()
        note = f"away for {away_s:g} s, and {replica.name} died"
        dead = frozenset({replica.peer_id})
        return _recovered(system, kind, "GCS", 0, begin_ns, lambda: system.is_complete(dead), note)

    return Planned(kind, "GCS", run, frozenset({SUPERVISOR, CHANGE, replica.name}))


# ---- slowness, and clients


def _slow_replica(kind: str, chance: Chance) -> Planned:
    child = chance.target("replica")

    def run() -> Fault:
        switch = chance.system.records / f"slow-{child.pid}"
        begin_ns = monotonic_ns()
        switch.touch()
        threading.Event().wait(SLOW_S)
        switch.unlink()
        return Fault(kind, child.name, child.pid, begin_ns, monotonic_ns())

    return Planned(kind, child.name, run, frozenset({child.name}))


def _clients_gone(kind: str, chance: Chance) -> Planned:
    """A process full of clients is killed while their requests are queued, running and streaming."""
    orders = {
        "directory": str(chance.system.records),
        "name": f"doomed-{chance.first_id}",
        "addresses": chance.addresses,
        "seed": chance.rng.randrange(1 << 30),
        "first_id": chance.first_id,
        "rate": 60.0,
        "doomed": True,
    }
    alive_s = chance.rng.uniform(0.2, 1.0)

    def run() -> Fault:
        load = LoadProcess(orders)
        journal = chance.system.records / f"client-{orders['name']}.jsonl"
        while not (journal.exists() and journal.stat().st_size):
            threading.Event().wait(POLL_S)
        begin_ns = monotonic_ns()
        threading.Event().wait(alive_s)
        load.kill()
        return Fault(kind, "", 0, begin_ns, monotonic_ns())

    return Planned(kind, "", run)


def _strange(kind: str, chance: Chance) -> Planned:
    addresses = chance.rng.choice(chance.addresses)

    def run() -> Fault:
        begin_ns = monotonic_ns()
        command = [sys.executable, "-m", "tests.chaos.strangers", kind, json.dumps(addresses), str(STRANGE_S)]
        subprocess.run(command, cwd=ROOT, check=True)
        return Fault(kind, "", 0, begin_ns, monotonic_ns())

    return Planned(kind, "", run)


# ---- changes of the running app


def _change(kind: str, chance: Chance) -> Planned:
    """Scale up and down again, replace the code, or try to with code that does not start: no request may notice."""
    if CHANGE in chance.held or SUPERVISOR in chance.held:
        raise NotNow(kind)
    system, revision = chance.system, chance.first_id
    app_id, replicas = system.served.app_id, system.replicas

    def run() -> Fault:
        begin_ns = monotonic_ns()
        problem = ""
        try:
            if kind == "scale":
                for count in (replicas + 1, replicas):
                    commands.scale(app_id, {"Fifo": count}, CHANGE_S)
            else:
                app = make_app(system.records, replicas, revision, broken=kind == "deploy-broken")
                commands.deploy(app_id, plan_deployments(app), {}, CHANGE_S)
        except FlightserveError as error:
            problem = error.message
        if kind == "deploy-broken":
            problem = "" if "this revision does not start" in problem else f"not taken back: {problem or 'deployed'}"
        return Fault(kind, "", 0, begin_ns, monotonic_ns(), not problem, problem)

    return Planned(kind, "", run, frozenset({CHANGE}))


_PLANS: Final[dict[str, Callable[[str, Chance], Planned]]] = {
    "replica-kill": _on_child,
    "replica-stop": _on_child,
    "replica-slow": _slow_replica,
    "router-kill": _on_child,
    "router-stop": _on_child,
    "frontend-kill": _on_child,
    "frontend-stop": _on_child,
    "supervisor-kill": _on_supervisor,
    "supervisor-stop": _on_supervisor,
    "clients-gone": _clients_gone,
    "slow-readers": _strange,
    "memory-full": _strange,
    "scale": _change,
    "deploy": _change,
    "deploy-broken": _change,
    "node-kill": _on_node,
    "node-cut": _on_node,
    "node-drain": _on_node,
    "gcs-kill": _on_gcs,
}
NODE_KINDS: Final = ("node-kill", "node-cut", "node-drain", "gcs-kill")
KINDS: Final = tuple(kind for kind in _PLANS if kind not in NODE_KINDS)


def kinds(nodes: int) -> tuple[str, ...]:
    """The faults of an app on so many nodes."""
    return (*KINDS, *NODE_KINDS) if nodes > 1 else KINDS
