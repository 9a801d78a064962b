"""What Prometheus sees of one process, under the names of the observability conventions.

One `Metrics` is made by the composition root and passed to every frontend; there is no global registry. Recording
a request takes two dictionary look-ups and two increments: the children of each label set are kept.

The other tiers have no HTTP port of their own. Their statistics come with the routing table, and `set_tiers` shows
the latest ones as gauges named `flightserve_tier_<statistic>{process="router-0"}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from flightserve.wire.status import Code

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")
_CODE_NAMES: Final = {int(code): code.name for code in Code}
# Bound on label sets: an unknown deployment or method is counted as "-", never under the caller's text.
UNKNOWN: Final = "-"


class _TierCollector(Collector):
    """Gauges of the other tiers, as they were published last."""

    def __init__(self) -> None:
        self.tiers: Mapping[str, Mapping[str, float]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for process, statistics in self.tiers.items():
            for name, value in statistics.items():
                metric = f"flightserve_tier_{_NOT_IN_A_NAME.sub('_', name)}"
                family = families.get(metric)
                if family is None:
                    family = families[metric] = GaugeMetricFamily(
                        metric, f"{name}, as each process of the tiers says of itself", labels=["process"]
                    )
                family.add_metric([process], float(value))
        yield from families.values()


class Metrics:
    """The metrics of one process, in a registry of their own. Any thread."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._tiers = _TierCollector()
        registry.register(self._tiers)
        where = ["frontend", "deployment", "method"]
        self.requests = Counter("flightserve_requests", "Requests answered", [*where, "code"], registry=registry)
        self.request_duration = Histogram(
            "flightserve_request_duration_seconds",
            "From arrival to the answer handed to the socket",
            where,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "flightserve_queue_wait_seconds",
            "From arrival at the router to dispatch",
            ["deployment"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge("flightserve_queue_depth", "Requests queued", ["deployment"], registry=registry)
        self.micro_batch_rows = Histogram(
            "flightserve_micro_batch_rows",
            "Rows of each micro-batch",
            ["deployment"],
            buckets=_COUNTS,
            registry=registry,
        )
        self.micro_batch_requests = Histogram(
            "flightserve_micro_batch_requests",
            "Requests of each micro-batch",
            ["deployment"],
            buckets=_COUNTS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "flightserve_in_flight", "Requests without an answer yet", ["frontend"], registry=registry
        )
        self.shed = Counter("flightserve_shed", "Requests refused to protect the others", ["reason"], registry=registry)
        self.retries = Counter("flightserve_retries", "Requests sent again after a failure", registry=registry)
        self.replica_ejections = Counter("flightserve_replica_ejections", "Replicas ejected", registry=registry)
        self.deadline_exceeded = Counter(
            "flightserve_deadline_exceeded", "Requests that ran out of time", ["stage"], registry=registry
        )
        self.shared_memory_bytes = Gauge("flightserve_shared_memory_bytes", "Bytes of segments", registry=registry)
        self.leases = Gauge("flightserve_leases", "Leases held on regions", registry=registry)
        self._counters: dict[tuple[str, str, str, int], Counter] = {}
        self._durations: dict[tuple[str, str, str], Histogram] = {}

    def answered(self, frontend: str, deployment: str, method: str, code: int, seconds: float) -> None:
        """Count one answer. `deployment` and `method` are names that exist, or `UNKNOWN`."""
        key = (frontend, deployment, method, code)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self.requests.labels(*key[:3], _CODE_NAMES.get(code, str(code)))
        counter.inc()
        place = key[:3]
        duration = self._durations.get(place)
        if duration is None:
            duration = self._durations[place] = self.request_duration.labels(*place)
        duration.observe(seconds)

    def set_tiers(self, tiers: Mapping[str, Mapping[str, float]]) -> None:
        """Statistics of the other tiers' processes, by process; replaces what was there."""
        self._tiers.tiers = tiers

    def text(self) -> bytes:
        """Everything in Prometheus' text format (`CONTENT_TYPE`)."""
        rendered: bytes = generate_latest(self.registry)
        return rendered
