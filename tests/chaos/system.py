"""The app under test from outside: its processes, what they hold, what its frontends and routers count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from flightserve.control.messages import ChildView, View
from flightserve.core.lifecycle.reconciling import REPLICA
from flightserve.core.routing.statistics import OUTCOMES
from flightserve.errors import FlightserveError
from tests.chaos.app import PLACE
from tests.chaos.history import Balance, Count, Leak
from tests.chaos.lasting import LastingNodes
from tests.chaos.schedule import BY_NAME
from tests.control.served import ROOT, Served, wait_until
from tests.served.resting import AT_REST, anonymous_bytes

SETTLE_S: Final = 30.0
AWAY_S: Final = 15.0
POLL_S: Final = 0.05
FDS_MORE_MAX: Final = 16
MEMFDS_MORE_MAX: Final = 16
# Python's and gRPC's allocators keep what they once took.
ANONYMOUS_MORE_MAX: Final = 64 << 20
Counts = Counter[tuple[str, str, str, str]]


class System:
    """The chaos app, served, on so many Ray `nodes`. Use as a context manager; `directory` is for Ray, the histories
    lie in `records`."""

    def __init__(self, directory: Path, replicas: int, routers: int, frontends: int, nodes: int = 1) -> None:
        self.records = directory / "records"
        self.records.mkdir()
        self.replicas = replicas
        # On each node half of all replicas have a place, so that one node less leaves room for all.
        self.nodes = LastingNodes(nodes, {PLACE: replicas}) if nodes > 1 else None
        self._directory = directory
        self._wish = {"directory": str(self.records), "replicas": replicas, "routers": routers, "frontends": frontends}

    def __enter__(self) -> System:
        nodes = self.nodes.__enter__() if self.nodes is not None else None
        wish = {**self._wish, "address": nodes.address if nodes is not None else None}
        self.served = Served(
            self._directory,
            command=("tests.chaos.serve", json.dumps(wish)),
            environment=nodes.variables if nodes is not None else {},
        )
        self.served.__enter__()
        try:
            self.served.wait_ready()
            self._wanted = _places(self.view().children)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: Any) -> None:
        self.served.__exit__(None, None, None)
        if self.nodes is not None:
            self.nodes.stop()

    def view(self) -> View:
        """As `flightserve status`, asked again while the supervisor is away. Raises FlightserveError when that is
        longer than it may be."""
        until = time.monotonic() + AWAY_S
        while True:
            try:
                return self.served.view()
            except FlightserveError:
                if time.monotonic() > until:
                    raise
            threading.Event().wait(POLL_S)

    def well(self) -> list[ChildView]:
        """The children that do their part."""
        return _well(self.view())

    def is_whole(self, name: str, without: int = 0) -> bool:
        """The place ("supervisor", or a child's name) and others like it are taken by as many processes as there were
        at first, all of which do their part, and process `without` is none of them. False while nobody can say."""
        try:
            view = self.served.view()
        except FlightserveError:
            return False
        if name == "supervisor":
            return view.supervisor_pid != without
        if without in (child.pid for child in view.children):
            return False
        return _places(_well(view))[_kind_of(name)] >= self._wanted[_kind_of(name)]

    def on(self, host: str) -> frozenset[int]:
        """The ids of the children on the node with that address."""
        children = self.view().children
        (node,) = {child.node for child in children if child.addresses.get("carrier", "").startswith(f"{host}:")}
        return frozenset(child.peer_id for child in children if child.node == node)

    def is_complete(self, without: frozenset[int] = frozenset()) -> bool:
        """Every place is taken by a process that does its part, as at first, none of them is among those `without`, and
        every node has a carrier. False while nobody can say."""
        try:
            view = self.served.view()
        except FlightserveError:
            return False
        found = _places(_well(view))
        if any(child.peer_id in without for child in view.children):
            return False
        return all(found[place] >= count for place, count in self._wanted.items())

    def problem(self) -> str:
        """What the supervisor says is wrong."""
        try:
            view = self.served.view()
        except FlightserveError as error:
            return error.message
        return f"the app is {view.phase}: {view.problem}"

    def addresses(self) -> list[dict[str, str]]:
        """The frontends' addresses by protocol, each with its `name`; they keep them when they are replaced."""
        children = [child for child in self.view().children if child.tier == "frontend" and child.addresses]
        return [{"name": child.name, **child.addresses} for child in children]

    # ---- counters

    def counts(self) -> dict[int, Counts]:
        """What each frontend counted so far, by pid: requests by protocol, deployment, method and code."""
        found = {}
        for child in self.view().children:
            if child.tier == "frontend" and child.addresses:
                with urllib.request.urlopen(f"{child.addresses['http']}/metrics", timeout=10) as response:
                    found[child.pid] = _requests_total(response.read().decode())
        return found

    def balances(self) -> list[Balance]:
        """The routers' books, as they reported them last."""
        return [
            balance
            for child in self.view().children
            if child.tier == "router"
            for balance in balances_of(child.name, child.statistics)
        ]

    # ---- rest

    def settle(self, baseline: Snapshot | None = None) -> tuple[Snapshot, list[Leak]]:
        """Wait until nothing is queued, running or leased any more and, with a baseline, until all is back at it; at
        most `SETTLE_S`. The state then, and what was not there."""
        first = {child.pid: child.statistics.get("uptime_s", 0.0) for child in self.view().children}
        found: list[tuple[Snapshot, list[Leak]]] = []

        def settled() -> bool:
            view = self.view()
            fresh = all(child.statistics.get("uptime_s", 0.0) != first.get(child.pid) for child in view.children)
            snapshot = self._snapshot(view)
            leaks = busy(snapshot) + (leaks_of(baseline, snapshot) if baseline else [])
            found[:] = [(snapshot, leaks)]
            return fresh and view.phase == "ready" and not leaks

        try:
            wait_until(settled, "at rest", SETTLE_S)
        except AssertionError:
            if not found:
                raise
        return found[0]

    def _snapshot(self, view: View) -> Snapshot:
        children = {child.name: _held(child) for child in view.children}
        return Snapshot(children, len(self.served.processes()))


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds."""

    tier: str
    fds: int
    memfds: int
    anonymous_bytes: int
    statistics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What all processes of the app hold, and how many there are, Ray's included."""

    children: Mapping[str, Held]
    processes: int


def _well(view: View) -> list[ChildView]:
    return [child for child in view.children if child.ready and child.phase == "serving"]


def _places(children: Iterable[ChildView]) -> Counter[str]:
    return Counter(_kind_of(child.name) for child in children)


def _kind_of(name: str) -> str:
    """`replica-Fifo` of `replica-Fifo-0`: a rolling update numbers them anew."""
    return name.rpartition("-")[0]


def _held(child: ChildView) -> Held:
    try:
        links = [_link(entry.path) for entry in os.scandir(f"/proc/{child.pid}/fd")]
        anonymous = anonymous_bytes(child.pid)
    except OSError:  # it ended while we looked: the next look is at its successor
        links, anonymous = [], 0
    memfds = sum(link.startswith("/memfd:") for link in links)
    return Held(child.tier, len(links) - memfds, memfds, anonymous, child.statistics)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed while we looked
        return ""


def busy(snapshot: Snapshot) -> list[Leak]:
    """What still goes on."""
    return [
        Leak(name, statistic, 0, value)
        for name, held in snapshot.children.items()
        for statistic, value in held.statistics.items()
        if value and statistic.rpartition(".")[2] in AT_REST
    ]


def leaks_of(baseline: Snapshot, now: Snapshot) -> list[Leak]:
    """What there is more of than at the baseline. A process is held against the most that one of its tier had then:
    which router owns what, and who is older, may have changed. Routers and frontends are made of standbys, and all
    of these count as one tier."""
    found = []
    for name, held in now.children.items():
        peers = [other for other in baseline.children.values() if (other.tier == REPLICA) == (held.tier == REPLICA)]
        for what, more_max in (
            ("fds", FDS_MORE_MAX),
            ("memfds", MEMFDS_MORE_MAX),
            ("anonymous_bytes", ANONYMOUS_MORE_MAX),
        ):
            before, value = max(getattr(peer, what) for peer in peers), getattr(held, what)
            if value > before + more_max:
                found.append(Leak(name, what, before, value))
    if len(now.children) != len(baseline.children):
        found.append(Leak("the app", "number of children", len(baseline.children), len(now.children)))
    if now.processes > baseline.processes:
        found.append(Leak("the app", "number of processes", baseline.processes, now.processes))
    return found


def balances_of(router: str, statistics: Mapping[str, float]) -> list[Balance]:
    """A router's books by deployment."""
    deployments = [name.rpartition(".")[0] for name in statistics if name.endswith(".arrived")]
    return [
        Balance(
            router,
            deployment,
            int(statistics[f"{deployment}.arrived"]),
            {name: int(statistics[f"{deployment}.{name}"]) for name in OUTCOMES},
        )
        for deployment in deployments
    ]


def _requests_total(text: str) -> Counts:
    counts: Counts = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "flightserve_requests_total":
                labels = sample.labels
                key = (labels["frontend"], labels["deployment"], labels["method"], labels["code"])
                counts[key] += int(sample.value)
    return counts


def counted(before: dict[int, Counts], after: dict[int, Counts], begin_ns: int, end_ns: int) -> list[Count]:
    """What was counted in between, of the methods that histories know. A frontend that was replaced began at zero,
    and what its predecessor counted is not known: then none of it is complete."""
    complete = set(before) == set(after)
    total: Counts = Counter()
    for pid, counts in after.items():
        total += counts - before.get(pid, Counter())
    return [
        Count(protocol, deployment, method, code, number, begin_ns, end_ns, complete)
        for (protocol, deployment, method, code), number in sorted(total.items())
        if method in BY_NAME
    ]


class LoadProcess:
    """A load generator (`tests.chaos.load`), running."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.load", json.dumps(orders)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL, in the middle of things."""
        self._process.kill()
        self._end()

    def stop(self) -> dict[str, Any]:
        """Let it send no more; what it says when all its requests have an outcome."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """The same, for one whose time is limited."""
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        self._end()
        if self._process.returncode:
            raise RuntimeError(f"the load generator ended with {self._process.returncode}")
        result: dict[str, Any] = json.loads(said)
        return result

    def _end(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
