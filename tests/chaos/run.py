"""One chaos run: an app is served, loaded and broken again and again; then it rests, and its history is checked.

In order: the capacity is measured with as many clients as keep it busy; misbehaving clients stretch what pools and
allocators will ever hold; the baseline is taken at rest. Then the load, at half of that capacity or at a given rate,
with a fault every so often; an end without faults, in which the counters must agree to the last request; and rest.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from flightserve.clock import monotonic_ns
from tests.chaos import checker, faults, history, report
from tests.chaos.faults import Chance, NotNow, Planned
from tests.chaos.history import Count, Fault, Journal
from tests.chaos.schedule import CALM
from tests.chaos.system import LoadProcess, System, counted

# Beyond this the generator itself, on two cores, becomes what is measured.
RATE_MAX: Final = 120.0
# Ids of requests begin at a multiple of this for each load generator.
IDS: Final = 10_000_000
STORIES_MAX: Final = 5
# A run goes on for so long at the most to see a fault of every kind.
UNDEALT_S: Final = 60.0
STRETCH: Final = ("memory-full", "slow-readers")


@dataclass(frozen=True, slots=True)
class Options:
    """What run is wanted. `rate` 0: half of the capacity. `kinds`: which faults, by default all."""

    seconds: float = 600.0
    fault_every_s: float = 5.0
    seed: int = 1
    rate: float = 0.0
    replicas: int = 2
    routers: int = 2
    frontends: int = 2
    capacity_s: float = 5.0
    concurrency: int = 16
    calm_s: float = 5.0
    kinds: Sequence[str] = faults.KINDS
    nodes: int = 1


class Run:
    """Use once: `execute`."""

    def __init__(self, options: Options, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._rng = random.Random(options.seed)
        self._next_ids = IDS
        self._deck: list[str] = []
        self._undealt = set(options.kinds)
        self._pause = threading.Event()
        self._active: dict[Future[Fault], Planned] = {}
        self._journal: Journal
        # A fault takes as long as a process is stopped, or until the system is whole: several may be under way.
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="chaos-fault")
        self._counts: list[Count] = []
        self._notes: list[str] = []
        self._span_ns = (0, 0)

    def execute(self) -> report.Result:
        """The whole run; what it found is in the result. Raises where the app cannot be served at all."""
        options = self._options
        with System(self._directory, options.replicas, options.routers, options.frontends, options.nodes) as system:
            self._journal = Journal(system.records / "runner.jsonl")
            addresses = system.addresses()
            capacity = self._capacity(system, addresses)
            rate = options.rate or min(RATE_MAX, capacity / 2)
            for kind in STRETCH:
                if kind in options.kinds:
                    self._inject(system, addresses, kind)
            self._drain_faults()
            baseline, busy = system.settle()
            self._journal.write(busy)
            self._break(system, addresses, rate)
            self._count_calm(system, addresses, rate)
            _, leaks = system.settle(baseline)
            self._journal.write([*leaks, *system.balances(), *self._counts])
        self._threads.shutdown()
        self._journal.close()
        return self._judge(capacity, rate)

    # ---- the load

    def _orders(self, name: str, addresses: list[dict[str, str]], **changes: Any) -> dict[str, Any]:
        first_id, self._next_ids = self._next_ids, self._next_ids + IDS
        return {
            "directory": str(self._directory / "records"),
            "name": name,
            "addresses": addresses,
            "seed": self._rng.randrange(1 << 30),
            "first_id": first_id,
            **changes,
        }

    def _capacity(self, system: System, addresses: list[dict[str, str]]) -> float:
        """Requests a second that the system answers when clients wait for nothing but answers."""
        options = self._options
        orders = self._orders(
            "capacity", addresses, concurrency=options.concurrency, seconds=options.capacity_s, mix=asdict(CALM)
        )
        said = LoadProcess(orders).wait()
        return float(said["codes"].get("OK", 0) / said["seconds"])

    def _break(self, system: System, addresses: list[dict[str, str]], rate: float) -> None:
        """The load, and a fault every so often; the faults end before the load does."""
        before, begin_ns = system.counts(), monotonic_ns()
        load = LoadProcess(self._orders("main", addresses, rate=rate))
        try:
            self._inject_all(system, addresses)
            self._drain_faults()
        finally:
            said = load.stop()
        self._notes.append(f"the load generator was at most {said['lag_ms_max']:.0f} ms behind its schedule")
        self._span_ns = (begin_ns, monotonic_ns())
        system.settle()
        self._counts += counted(before, system.counts(), *self._span_ns)

    def _count_calm(self, system: System, addresses: list[dict[str, str]], rate: float) -> None:
        begin_ns, before = monotonic_ns(), system.counts()
        orders = self._orders("calm", addresses, rate=rate, seconds=self._options.calm_s, mix=asdict(CALM))
        LoadProcess(orders).wait()
        system.settle()
        self._counts += counted(before, system.counts(), begin_ns, monotonic_ns())

    # ---- faults

    def _inject_all(self, system: System, addresses: list[dict[str, str]]) -> None:
        """Faults for as long as is wanted, and until there was one of every kind."""
        every_s = self._options.fault_every_s
        due, end = time.monotonic() + min(2.0, every_s), time.monotonic() + self._options.seconds
        while due < end or (self._undealt and due < end + UNDEALT_S):
            self._pause.wait(max(0.0, due - time.monotonic()))
            self._inject(system, addresses)
            due += every_s
        self._pause.wait(max(0.0, end - time.monotonic()))

    def _inject(self, system: System, addresses: list[dict[str, str]], kind: str = "") -> None:
        """Begin a fault: the first in the deck that may be made now. Decks hold every kind, in an order of the seed."""
        self._collect()
        if len(self._deck) < len(self._options.kinds):
            self._deck += self._rng.sample(list(self._options.kinds), len(self._options.kinds))
        held = frozenset().union(*(planned.holds for planned in self._active.values()))
        first_id, self._next_ids = self._next_ids, self._next_ids + IDS
        for each in [kind] if kind else list(self._deck):
            chance = Chance(system, random.Random(self._rng.randrange(1 << 30)), addresses, first_id, held)
            try:
                planned = faults.plan(each, chance)
            except NotNow:
                continue
            if not kind:
                self._deck.remove(each)
                self._undealt.discard(each)
            self._active[self._threads.submit(planned.run)] = planned
            return
        self._notes.append("no fault could be made at a time: all were waiting for the system to be whole")

    def _collect(self) -> None:
        for done in [future for future in self._active if future.done()]:
            del self._active[done]
            self._journal.write([done.result()])

    def _drain_faults(self) -> None:
        for future in list(self._active):
            future.exception()
        self._collect()

    # ---- the end

    def _judge(self, capacity: float, rate: float) -> report.Result:
        records = history.read(self._directory / "records")
        violations = checker.check(records)
        books = checker.Books(records)
        named = [violation.request for violation in violations if violation.request]
        found = report.recoveries(records)
        return report.Result(
            self._options.seed,
            self._options.seconds,
            capacity,
            rate,
            report.requests_by_code(records),
            report.faults_by_kind(records, found),
            report.latencies_ms(records, self._span_ns),
            report.bars(found),
            self._notes,
            [str(violation) for violation in violations],
            [books.story(request_id) for request_id in list(dict.fromkeys(named))[:STORIES_MAX]],
        )
