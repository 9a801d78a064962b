"""What Prometheus sees of one process, under the names of the observability conventions; and `counter`, `gauge` and
`histogram`, by which user code measures (`measures`).

One `Metrics` is made by the composition root and passed to every frontend; there is no global registry. Recording
a request takes one look-up and two additions (`_Answers`), 0.4 us: prometheus_client's own counter and histogram, which
lock three times, took 1.2 of the 17 that a small HTTP call among many takes in the frontend's code.

The other tiers have no HTTP port of their own. Their statistics come with the routing table, and `set_tiers` shows
the latest ones: under the conventional names where there is one (`flightserve_queue_depth`, ...), others as
`flightserve_tier_<statistic>`, all with the process's name as a label. What only grows is a counter, whose name ends in
`_total`, and starts from 0 with each process, which `rate()` expects; units are bytes and seconds. What replicas
measure of their methods, and what their code does, has the labels `process`, `deployment` and `version` beside its own.
"""

from __future__ import annotations

import bisect
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flightserve.clock import NS_PER_S
from flightserve.measures import QUEUE_WAIT, REQUEST_DURATION, SECONDS, counter, gauge, histogram
from flightserve.tracing.spans import CallSpans
from flightserve.types import MetricFamily
from flightserve.wire.status import name_of
from flightserve.wire.table import Measured

__all__ = ["CONTENT_TYPE", "UNKNOWN", "Metrics", "counter", "gauge", "histogram", "known"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")
PROCESS_INFO: Final = "flightserve_process_info"
# Where a frontend speaks TLS.
CERTIFICATE_EXPIRES: Final = "flightserve_tls_certificate_expires_seconds"
_DURATION: Final = "From arrival to the answer handed to the socket"
# What answers are counted by, beside the code.
_WHERE: Final = ("frontend", "deployment", "method")
# Bound on label sets: an unknown deployment or method is counted as "-", never under the caller's text.
UNKNOWN: Final = "-"


# Statistics that have a conventional name. A router keeps its own by deployment.
_GAUGES: Final = {
    "queued_requests": ("flightserve_queue_depth", "Requests queued"),
    "in_flight_batches": ("flightserve_in_flight_micro_batches", "Micro-batches that replicas have"),
    "in_flight": ("flightserve_in_flight", "Requests of the frontend's event loop without an outcome"),
    "shared_memory_bytes": ("flightserve_shared_memory_bytes", "Bytes of segments"),
    "leases": ("flightserve_leases", "Regions in use"),
    "replicas_wanted": ("flightserve_replicas_wanted", "Replicas that there are to be"),
    "replicas_ready": ("flightserve_replicas_ready", "Replicas that are ready"),
}
_SHED: Final = ("flightserve_shed", "Requests refused to protect the others")
_TOTALS: Final = {
    "shed": (*_SHED, ("reason", "queue_full")),
    "shed_wait": (*_SHED, ("reason", "queue_wait")),
    "shed_limit": (*_SHED, ("reason", "adaptive_limit")),
    "over_target": (*_SHED, ("reason", "latency_target")),
    "would_miss": (*_SHED, ("reason", "would_miss")),
    "would_miss_queued": (*_SHED, ("reason", "would_miss_queued")),
    "retries": ("flightserve_retries", "Requests sent again after a failure", None),
    "retries_refused": (*_SHED, ("reason", "retry_budget")),
    "ejected_slow": ("flightserve_replica_ejections", "Replicas that got nothing for a while", ("reason", "slow")),
    "ejected_silent": ("flightserve_replica_ejections", "Replicas that got nothing for a while", ("reason", "silent")),
    "expired_at_arrival": ("flightserve_deadline_exceeded", "Requests that ran out of time", ("stage", "arrival")),
    "expired_queued": ("flightserve_deadline_exceeded", "Requests that ran out of time", ("stage", "queued")),
    # Of those in flight, the requests that their replica did not run any more. Counted by the replica.
    "expired_at_door": ("flightserve_deadline_exceeded", "Requests that ran out of time", ("stage", "door")),
    "expired_in_flight": ("flightserve_deadline_exceeded", "Requests that ran out of time", ("stage", "in_flight")),
}
# The rest, as flightserve_tier_<statistic>. What only grows since its process began:
_TIER_TOTALS: Final = {
    "frames": "Frames read from other processes",
    "losses": "Threads, loops and servers that ended and were begun again",
    "arrived": "Requests that came to the router",
    "completed": "Requests that were answered",
    "failed": "Requests that were answered with an error",
    "cancelled": "Requests whose caller gave them up",
    "lost": "Requests that a replica that died took with it",
    "moved": "Requests whose deployment went to another router",
    "passed_on": "Requests of pipelines that the router passed on to their next stage",
    "partway": "Requests of pipelines that went back to their caller between two stages, who went on",
    "abandoned": "Micro-batches that were told to end because nobody waited for them",
    "late": "Messages of replicas and micro-batches that were given up before",
    "dispatched_batches": "Micro-batches sent to replicas",
    "queue_waits": "Requests that left the queue for a replica",
    "micro_batches": "Micro-batches run",
    "micro_batch_requests": "Requests in the micro-batches run",
    "micro_batch_rows": "Rows in the micro-batches run",
    "busy_seconds": "Seconds that methods ran, over all lanes",
    "table_changes": "Times that the tables were loaded anew because their files had changed",
    "queries_out_of_memory": "Queries that ended because the replica's memory was used up",
    "cache_hits": "Results answered from those kept",
    "cache_misses": "Results that were not among those kept",
    "cache_evictions": "Results dropped to make room for others",
    "carried_frames": "Frames carried between nodes",
    "spans_sent": "Spans of traces that a collector took",
    "spans_dropped": "Spans of traces that were lost: too many waited, or the collector did not take them",
    "pulled_bytes": "Bytes of rows pulled from other nodes",
}
# What is now, with the name of its unit.
_TIER_GAUGES: Final = {
    "connections": ("connections", "Connections of other processes"),
    "segments": ("segments", "Segments of other processes that are known"),
    "mapped_segments": ("mapped_segments", "Segments of other processes that are mapped"),
    "mirrors": ("mirrors", "Segments of other nodes that are mirrored"),
    "mirror_bytes": ("mirror_bytes", "Bytes of address space of mirrored segments"),
    "going_requests": ("going_requests", "Requests without an outcome of deployments that are moving elsewhere"),
    "early_requests": (
        "early_requests",
        "Requests that came before their deployment did",
    ),
    "queued_bytes": ("queued_bytes", "Bytes of the requests queued"),
    "live_requests": ("live_requests", "Requests without an outcome"),
    "lanes": ("lanes", "Lanes of replicas"),
    "lanes_open": ("lanes_open", "Streams that are open towards routers"),
    "without_router": ("without_router", "Requests that wait for a router"),
    "running": ("running", "Micro-batches that run"),
    "uptime_s": ("uptime_seconds", "Seconds since the process began"),
    "tables_out_of_date": ("tables_out_of_date", "Tables whose files changed and could not be loaded"),
    "files_left_out": ("files_left_out", "Files and tables that could not be read and are not served"),
    "cache_bytes": ("cache_bytes", "Bytes of the results kept"),
    "cache_entries": ("cache_entries", "Results kept"),
}
# Summaries: the statistic that is the sum, that which is the count, and how many of the sum's units make one.
_SUMMARIES: Final = {
    "dispatched_rows": ("flightserve_micro_batch_rows", "Rows of each micro-batch", "dispatched_batches", 1),
    "dispatched_requests": (
        "flightserve_micro_batch_requests",
        "Requests of each micro-batch",
        "dispatched_batches",
        1,
    ),
    "busy_ns": ("flightserve_micro_batch_seconds", "How long micro-batches ran", "dispatched_batches", NS_PER_S),
    "queue_wait_ns": (QUEUE_WAIT, "From arrival to the first run", "queue_waits", NS_PER_S),
}


class _TierCollector(Collector):
    """The other tiers' statistics, as they were published last: under their conventional names where they have one,
    else as they are."""

    def __init__(self) -> None:
        self.tiers: Mapping[str, Mapping[str, float]] = {}
        self.measured: Sequence[Measured] = ()
        # Where each process is.
        self.nodes: Mapping[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for process, node in self.nodes.items():
            labels = {"process": process, "tier": process.partition("-")[0], "node": node}
            _sample(families, "gauge", PROCESS_INFO, "On which node a process is: 1", labels, "", 1)
        for process, statistics in self.tiers.items():
            for name, value in statistics.items():
                deployment, _, statistic = name.rpartition(".")
                labels = {"process": process} | ({"deployment": deployment} if deployment else {})
                if statistic in _GAUGES:
                    _sample(families, "gauge", *_GAUGES[statistic], labels, "", value)
                elif deployment and statistic in _TOTALS:
                    metric, doc, extra = _TOTALS[statistic]
                    _sample(families, "counter", metric, doc, labels | dict([extra] if extra else []), "_total", value)
                elif deployment and statistic in _SUMMARIES:
                    metric, doc, counted, unit = _SUMMARIES[statistic]
                    count = statistics.get(f"{deployment}.{counted}", 0.0)
                    _sample(families, "summary", metric, doc, labels, "_sum", value / unit)
                    _sample(families, "summary", metric, doc, labels, "_count", count)
                else:
                    _tier_sample(families, _NOT_IN_A_NAME.sub("_", statistic), labels, value)
        for replica in self.measured:
            for family in replica.families:
                _measured_samples(families, replica, family)
        yield from families.values()


def _measured_samples(families: dict[str, Metric], replica: Measured, family: MetricFamily) -> None:
    """Those of one replica. Of two deployments that have different metrics of one name, the first is shown."""
    shown = families.setdefault(family.name, Metric(family.name, family.about, family.kind))
    if shown.type != family.kind:
        return
    of_replica = {"process": replica.process, "deployment": replica.deployment, "version": replica.version}
    for values, numbers in family.samples:
        labels = of_replica | dict(zip(family.labels, values, strict=True))
        if family.kind != "histogram":
            shown.add_sample(family.name + "_total" * (family.kind == "counter"), labels, numbers[0])
            continue
        _histogram_samples(shown, labels, family.bounds, numbers)


def _histogram_samples(
    shown: Metric, labels: dict[str, str], bounds: Sequence[float], numbers: Sequence[float]
) -> None:
    """`numbers`: how many there are in each bucket, the last one without a bound; and the sum of what was observed."""
    counts = list(itertools.accumulate(numbers[:-1]))
    for bound, count in zip((*map(floatToGoString, bounds), "+Inf"), counts, strict=True):
        shown.add_sample(f"{shown.name}_bucket", labels | {"le": bound}, count)
    shown.add_sample(f"{shown.name}_sum", labels, numbers[-1])
    shown.add_sample(f"{shown.name}_count", labels, counts[-1])


def _tier_sample(families: dict[str, Metric], statistic: str, labels: dict[str, str], value: float) -> None:
    if statistic in _TIER_TOTALS:
        metric = f"flightserve_tier_{statistic}"
        _sample(families, "counter", metric, _TIER_TOTALS[statistic], labels, "_total", value)
        return
    name, doc = _TIER_GAUGES.get(statistic, (statistic, statistic.replace("_", " ").capitalize()))
    _sample(families, "gauge", f"flightserve_tier_{name}", doc, labels, "", value)


def known(statistic: str) -> bool:
    """Whether there is a help text for it."""
    return any(statistic in names for names in (_GAUGES, _TOTALS, _SUMMARIES, _TIER_TOTALS, _TIER_GAUGES))


def _sample(
    families: dict[str, Metric], kind: str, metric: str, doc: str, labels: dict[str, str], suffix: str, value: float
) -> None:
    family = families.get(metric)
    if family is None:
        family = families[metric] = Metric(metric, doc, kind)
    family.add_sample(metric + suffix, labels, float(value))


class _Answers(Collector):
    """Requests answered, and how long that took, by frontend, deployment, method and code. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # How many took until each of `SECONDS`, and longer, one bucket each; behind them the sum of their seconds.
        self._numbers: dict[tuple[str, str, str, int], list[float]] = {}

    def count(self, key: tuple[str, str, str, int], seconds: float) -> None:
        """Count one answer."""
        place = bisect.bisect_left(SECONDS, seconds)
        with self._lock:
            numbers = self._numbers.get(key)
            if numbers is None:
                numbers = self._numbers[key] = [0.0] * (len(SECONDS) + 2)
            numbers[place] += 1
            numbers[-1] += seconds

    def of(self, key: tuple[str, str, str, int]) -> float:
        """How many answers there were."""
        with self._lock:
            return sum(self._numbers.get(key, (0.0,))[:-1])

    def by_deployment(self) -> dict[str, list[float]]:
        """How many took until each of `SECONDS`, and longer, of all frontends and methods of a deployment; behind them
        the sum of their seconds."""
        with self._lock:
            found = [(key[1], list(numbers)) for key, numbers in self._numbers.items()]
        out: dict[str, list[float]] = {}
        for deployment, numbers in found:
            of_deployment = out.get(deployment)
            out[deployment] = (
                numbers if of_deployment is None else list(map(sum, zip(of_deployment, numbers, strict=True)))
            )
        return out

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            found = {key: list(numbers) for key, numbers in self._numbers.items()}
        requests = Metric("flightserve_requests", "Requests answered", "counter")
        by_place: dict[tuple[str, str, str], list[float]] = {}
        for (*place, code), numbers in found.items():
            labels = dict(zip(_WHERE, place, strict=True))
            requests.add_sample("flightserve_requests_total", labels | {"code": name_of(code)}, sum(numbers[:-1]))
            of_place = by_place.setdefault((place[0], place[1], place[2]), [0.0] * len(numbers))
            of_place[:] = map(sum, zip(of_place, numbers, strict=True))
        yield requests
        durations = Metric(REQUEST_DURATION, _DURATION, "histogram")
        for where, numbers in by_place.items():
            _histogram_samples(durations, dict(zip(_WHERE, where, strict=True)), SECONDS, numbers)
        yield durations


class Metrics:
    """The metrics of one process, in a registry of their own. Any thread."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._tiers = _TierCollector()
        registry.register(self._tiers)
        self._answers = _Answers()
        registry.register(self._answers)
        self.prefetches = Counter(
            "flightserve_sql_prefetches",
            "Queries begun at GetFlightInfo, by whether DoGet came for them",
            ["deployment", "taken"],
            registry=registry,
        )
        self._prefetches: dict[tuple[str, bool], Counter] = {}
        # Who is told of calls that are traced; None: none is.
        self.spans: CallSpans | None = None

    def answered(self, frontend: str, deployment: str, method: str, code: int, seconds: float) -> None:
        """Count one answer. `deployment` and `method` are names that exist, or `UNKNOWN`."""
        self._answers.count((frontend, deployment, method, code), seconds)

    def answers(self, frontend: str, deployment: str, method: str, code: int) -> float:
        """How many of them there were."""
        return self._answers.of((frontend, deployment, method, code))

    def durations(self) -> dict[str, list[float]]:
        """By deployment, how many answers took until each of `measures.SECONDS` (one count for each bucket alone), and
        longer."""
        return {deployment: numbers[:-1] for deployment, numbers in self._answers.by_deployment().items()}

    def families(self) -> tuple[MetricFamily, ...]:
        """The same, for who shows it elsewhere."""
        samples = tuple([((name,), tuple(numbers)) for name, numbers in self._answers.by_deployment().items()])
        return (MetricFamily("histogram", REQUEST_DURATION, _DURATION, ("deployment",), SECONDS, samples),)

    def prefetched(self, deployment: str, taken: bool) -> None:
        """Count one query that was begun before it was asked for."""
        counter = self._prefetches.get((deployment, taken))
        if counter is None:
            counter = self._prefetches[deployment, taken] = self.prefetches.labels(deployment, str(taken).lower())
        counter.inc()

    def show_certificate(self, expires_s: Callable[[], float]) -> None:
        """From now on, when the certificate expires, which changes as it is renewed."""
        about = "When the certificate that is shown expires, in seconds of Unix"
        Gauge(CERTIFICATE_EXPIRES, about, registry=self.registry).set_function(expires_s)

    def set_tiers(
        self,
        tiers: Mapping[str, Mapping[str, float]],
        measured: Sequence[Measured] = (),
        nodes: Mapping[str, str] | None = None,
    ) -> None:
        """Statistics of the other tiers' processes, by process, what replicas measure, and on which node each process
        is, where that is said; replaces what was there."""
        self._tiers.tiers = tiers
        self._tiers.measured = measured
        if nodes is not None:
            self._tiers.nodes = nodes

    def text(self) -> bytes:
        """Everything in Prometheus' text format (`CONTENT_TYPE`)."""
        rendered: bytes = generate_latest(self.registry)
        return rendered
