"""What `flightserve top` shows, as numbers: views of apps in, figures out. Pure: views come with what processes last
said of themselves, `uptime_s` among it, and rates are between two things that one process said, by its own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from flightserve.cli.nodes import node_names
from flightserve.clock import NS_PER_S
from flightserve.control.messages import ChildView, DeploymentView, View
from flightserve.measures import QUEUE_WAIT, REQUEST_DURATION, quantile
from flightserve.types import MetricFamily

# Names of a router's counts of requests that it refused to protect the others.
SHED: Final = (
    "shed", "shed_wait", "shed_limit", "over_target", "would_miss", "would_miss_queued", "retries_refused"
)  # fmt: skip
_EXPIRED: Final = ("expired_at_arrival", "expired_queued", "expired_in_flight")
UPTIME: Final = "uptime_s"

Numbers = Mapping[str, float]


class Spread(NamedTuple):
    """Below what half of some durations were, and below what 99 in a hundred; None where there were none."""

    p50_ms: float | None = None
    p99_ms: float | None = None


UNKNOWN: Final = Spread()


@dataclass(frozen=True, slots=True)
class DeploymentFigures:
    """One version of a deployment. Rates are by second. `took` is how long requests took at the frontends until the
    answer, `waited` how long they waited for their turn, `run_ms` how long a micro-batch ran, in the mean; None where
    none did."""

    view: DeploymentView
    requests_s: float = 0.0
    rows_s: float = 0.0
    queued: float = 0.0
    took: Spread = UNKNOWN
    waited: Spread = UNKNOWN
    run_ms: float | None = None
    shed_s: float = 0.0
    failed_s: float = 0.0

    @property
    def latency_ms(self) -> float:
        """What is known of how long they take, at worst."""
        return self.took.p99_ms or (self.waited.p99_ms or 0.0) + (self.run_ms or 0.0)


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One process. `load` is the share of its lanes that ran, `cpu` of a core that it used; None where nobody knows.
    `in_flight`: requests of a frontend, micro-batches of the others."""

    view: ChildView
    node: str = ""
    load: float | None = None
    cpu: float | None = None
    in_flight: float | None = None
    shared_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class AppFigures:
    """One app. `problem` is why there is no newer view, "" where this is the newest."""

    view: View
    deployments: Sequence[DeploymentFigures]
    processes: Sequence[ProcessFigures]
    problem: str = ""

    def tiers(self) -> Iterator[tuple[str, int, int]]:
        """Of each tier how many are ready, and how many there are."""
        by_tier: dict[str, list[bool]] = {}
        for each in self.processes:
            by_tier.setdefault(each.view.tier, []).append(each.view.ready)
        for tier in sorted(by_tier):
            yield tier, sum(by_tier[tier]), len(by_tier[tier])

    def nodes(self) -> Iterator[tuple[str, int, int, float | None]]:
        """Of each node: its name, processes, replicas, and the mean load of these. None of an app that is on one."""
        by_node: dict[str, list[ProcessFigures]] = {}
        for each in self.processes:
            by_node.setdefault(each.node, []).append(each)
        for node in sorted(by_node) if len(by_node) > 1 else ():
            loads = [each.load for each in by_node[node] if each.load is not None]
            replicas = sum(each.view.tier == "replica" for each in by_node[node])
            yield node, len(by_node[node]), replicas, sum(loads) / len(loads) if loads else None


class _Rates:
    """How fast a process's counts grow, between the last two things that it said."""

    def __init__(self) -> None:
        self._before: Numbers = {}
        self.by_name: dict[str, float] = {}

    def take(self, now: Numbers) -> None:
        elapsed = now.get(UPTIME, 0.0) - self._before.get(UPTIME, 0.0)
        if elapsed <= 0:
            # It has said nothing new.
            return
        if self._before:
            self.by_name = {
                name: max(0.0, value - self._before.get(name, 0.0)) / elapsed for name, value in now.items()
            }
        self._before = now


# What a process says of itself, and how much of the processor it used; by app, name and pid.
_ByProcess = dict[tuple[str, str, int], tuple[_Rates, _Rates]]


class Figures:
    """The figures of apps, look after look. `cpu_of` gives the processor seconds of a process of ours, None where it
    cannot be known."""

    def __init__(self, cpu_of: Callable[[View, ChildView], float | None] = lambda view, child: None) -> None:
        self._cpu_of = cpu_of
        self._rates: _ByProcess = {}
        self._last: dict[str, AppFigures] = {}

    def look(self, views: Mapping[str, View | str], now_s: float) -> list[AppFigures]:
        """Of each app its view, or why there is none: then the last figures stand, if there are any. An app that is not
        named is gone."""
        found: dict[str, AppFigures] = {}
        alive: _ByProcess = {}
        for app, view in views.items():
            if isinstance(view, View):
                found[app] = self._figures(view, alive, now_s)
            elif app in self._last:
                last = self._last[app]
                found[app] = AppFigures(last.view, last.deployments, last.processes, view)
                alive |= {key: rates for key, rates in self._rates.items() if key[0] == app}
        self._last, self._rates = found, alive
        return list(found.values())

    def _figures(self, view: View, alive: _ByProcess, now_s: float) -> AppFigures:
        nodes = node_names(view)
        routers: list[tuple[Numbers, Numbers]] = []
        spreads = _Spreads()
        processes = []
        for child in view.children:
            key = (view.app_id, child.name, child.pid)
            said, used = alive[key] = self._rates.get(key) or (_Rates(), _Rates())
            said.take({**child.statistics, **_flat(child.families)})
            spreads.take(child.families, said.by_name)
            cpu = self._cpu_of(view, child)
            if cpu is not None:
                # By our clock: it is we who look.
                used.take({UPTIME: now_s, "cpu": cpu})
            if child.tier == "router":
                routers.append((child.statistics, said.by_name))
            rates = {**said.by_name, **used.by_name}
            processes.append(_process(child, nodes.get(child.node, child.node[:8]), rates))
        deployments = [_deployment(each, routers, spreads) for each in view.deployments]
        return AppFigures(view, deployments, processes)


def _deployment(
    view: DeploymentView, routers: Sequence[tuple[Numbers, Numbers]], spreads: _Spreads
) -> DeploymentFigures:
    if view.state != "served":
        # Routers count by name; what comes and what goes has no figures of its own.
        return DeploymentFigures(view)

    def total(names: Iterable[str], of: int = 1) -> float:
        return sum(router[of].get(f"{view.name}.{name}", 0.0) for router in routers for name in names)

    batches = total(["dispatched_batches"])
    return DeploymentFigures(
        view,
        requests_s=total(["completed", "failed"]),
        rows_s=total(["dispatched_rows"]),
        queued=total(["queued_requests"], 0),
        took=spreads.of(REQUEST_DURATION, view.name),
        waited=spreads.of(QUEUE_WAIT, view.name),
        run_ms=total(["busy_ns"]) / batches / NS_PER_S * 1000 if batches else None,
        shed_s=total(SHED),
        failed_s=total(["failed", "lost", *_EXPIRED]),
    )


def _flat(families: Sequence[MetricFamily]) -> dict[str, float]:
    """The buckets of histograms as counts that grow, each with a name of its own."""
    return {
        name: number
        for family in families
        for values, numbers in family.samples
        for name, number in zip(_names(family, values), numbers, strict=False)
    }


def _names(family: MetricFamily, values: Sequence[str]) -> list[str]:
    return [f"{'.'.join(values)}.{family.name}.{bucket}" for bucket in range(len(family.bounds) + 1)]


class _Spreads:
    """Histograms of several processes, of what they observed lately, added up by deployment."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], tuple[Sequence[float], list[float]]] = {}

    def take(self, families: Sequence[MetricFamily], rates: Numbers) -> None:
        """Those of one more process, whose buckets grow so fast."""
        for family in families:
            for values, _ in family.samples:
                grown = [rates.get(name, 0.0) for name in _names(family, values)]
                bounds, before = self._counts.get((family.name, values[0]), (family.bounds, [0.0] * len(grown)))
                if bounds == family.bounds:
                    self._counts[family.name, values[0]] = bounds, list(map(sum, zip(before, grown, strict=True)))

    def of(self, family: str, deployment: str) -> Spread:
        """That of the deployment's."""
        bounds, counts = self._counts.get((family, deployment), ((), ()))
        if not sum(counts):
            return UNKNOWN
        return Spread(*(quantile(bounds, counts, share) * 1000 for share in (0.5, 0.99)))


def _process(child: ChildView, node: str, rates: Numbers) -> ProcessFigures:
    said = child.statistics
    load = None
    if child.tier == "replica" and UPTIME in rates:
        load = rates.get("busy_seconds", 0.0) / max(1.0, said.get("lanes", 1.0))
    in_flight = {"frontend": said.get("in_flight"), "replica": said.get("running")}.get(child.tier)
    if child.tier == "router":
        in_flight = sum(value for name, value in said.items() if name.endswith(".in_flight_batches"))
    return ProcessFigures(child, node, load, rates.get("cpu"), in_flight, said.get("shared_memory_bytes", 0.0))


# ---- order


SORTS: Final = ("name", "load", "queue", "latency", "shed")
_OF_DEPLOYMENTS: Final[Mapping[str, Callable[[DeploymentFigures], float]]] = {
    "load": lambda each: each.requests_s,
    "queue": lambda each: each.queued,
    "latency": lambda each: each.latency_ms,
    "shed": lambda each: each.shed_s + each.failed_s,
}
_OF_PROCESSES: Final[Mapping[str, Callable[[ProcessFigures], float]]] = {
    "load": lambda each: max(each.load or 0.0, each.cpu or 0.0),
    "queue": lambda each: each.in_flight or 0.0,
    "latency": lambda each: each.load or 0.0,
    "shed": lambda each: float(each.view.restarts),
}


def sorted_deployments(figures: AppFigures, by: str) -> list[DeploymentFigures]:
    """The greatest first; by name where that is asked for, and among equals."""
    rank = _OF_DEPLOYMENTS.get(by)
    named = sorted(figures.deployments, key=lambda each: (each.view.name, each.view.version))
    return named if rank is None else sorted(named, key=rank, reverse=True)


def sorted_processes(figures: AppFigures, by: str) -> list[ProcessFigures]:
    """The same of processes."""
    rank = _OF_PROCESSES.get(by)
    named = sorted(figures.processes, key=lambda each: each.view.name)
    return named if rank is None else sorted(named, key=rank, reverse=True)
