"""What /metrics says of the tiers: every statistic once, under its conventional name where it has one."""

from __future__ import annotations

import pyarrow as pa
from prometheus_client.parser import text_string_to_metric_families

import flightserve as fs
from flightserve import metrics as names
from flightserve.core.routing.statistics import Counters
from flightserve.metrics import Metrics
from tests.plane import plane


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_a_routers_statistics_have_conventional_names_by_deployment() -> None:
    metrics = Metrics()
    metrics.set_tiers(
        {
            "router-0": {
                "a.b.queued_requests": 4,
                "a.b.expired_queued": 5,
                "a.b.expired_in_flight": 6,
                "a.b.retries": 7,
                "a.b.retries_refused": 12,
                "a.b.shed": 20,
                "a.b.shed_wait": 21,
                "a.b.shed_limit": 22,
                "a.b.would_miss": 23,
                "a.b.would_miss_queued": 24,
                "a.b.queue_waits": 3,
                "a.b.queue_wait_ns": 1_500_000_000,
                "a.b.ejected_slow": 10,
                "a.b.ejected_silent": 11,
                "a.b.dispatched_batches": 2,
                "a.b.dispatched_rows": 90,
                "connections": 3,
            },
            "replica-a.b-0": {"a.b.expired_at_door": 9},
            "frontend-0": {"leases": 1, "shared_memory_bytes": 64, "in_flight": 8},
        }
    )
    got = samples(metrics)
    of_router = (("deployment", "a.b"), ("process", "router-0"))
    assert got["flightserve_queue_depth", of_router] == 4
    assert got["flightserve_deadline_exceeded_total", (*of_router, ("stage", "queued"))] == 5
    assert got["flightserve_deadline_exceeded_total", (*of_router, ("stage", "in_flight"))] == 6
    of_replica = (("deployment", "a.b"), ("process", "replica-a.b-0"))
    assert got["flightserve_deadline_exceeded_total", (*of_replica, ("stage", "door"))] == 9
    assert got["flightserve_retries_total", of_router] == 7
    assert got["flightserve_shed_total", (*of_router, ("reason", "retry_budget"))] == 12
    reasons = ["queue_full", "queue_wait", "adaptive_limit", "would_miss", "would_miss_queued"]
    shed = [got["flightserve_shed_total", (*of_router, ("reason", reason))] for reason in reasons]
    assert shed == [20, 21, 22, 23, 24]
    assert got["flightserve_queue_wait_seconds_sum", of_router] == 1.5
    assert got["flightserve_queue_wait_seconds_count", of_router] == 3
    assert got["flightserve_replica_ejections_total", (*of_router, ("reason", "slow"))] == 10
    assert got["flightserve_replica_ejections_total", (*of_router, ("reason", "silent"))] == 11
    assert got["flightserve_micro_batch_rows_sum", of_router] == 90
    assert got["flightserve_micro_batch_rows_count", of_router] == 2
    assert got["flightserve_tier_dispatched_batches_total", of_router] == 2
    assert got["flightserve_tier_connections", (("process", "router-0"),)] == 3
    of_frontend = (("process", "frontend-0"),)
    assert got["flightserve_leases", of_frontend] == 1
    assert got["flightserve_shared_memory_bytes", of_frontend] == 64
    assert got["flightserve_in_flight", of_frontend] == 8


def test_answers_are_counted_by_code_and_their_times_by_method() -> None:
    metrics = Metrics()
    for code, seconds in ((0, 0.0004), (0, 0.003), (5, 90.0)):
        metrics.answered("http", "a", "m", code, seconds)
    got = samples(metrics)
    where = (("deployment", "a"), ("frontend", "http"), ("method", "m"))
    assert got["flightserve_requests_total", (("code", "OK"), *where)] == 2 == metrics.answers("http", "a", "m", 0)
    assert got["flightserve_requests_total", (("code", "NOT_FOUND"), *where)] == 1
    assert metrics.answers("http", "a", "other", 0) == 0
    duration = "flightserve_request_duration_seconds"
    buckets = {
        le: got[f"{duration}_bucket", (where[0], where[1], ("le", le), where[2])] for le in ("0.0005", "60.0", "+Inf")
    }
    assert buckets == {"0.0005": 1, "60.0": 2, "+Inf": 3}
    assert got[f"{duration}_count", where] == 3
    assert got[f"{duration}_sum", where] == 0.0004 + 0.003 + 90.0


def test_new_statistics_replace_the_old() -> None:
    metrics = Metrics()
    metrics.set_tiers({"router-0": {"frames": 1}})
    metrics.set_tiers({"router-1": {"frames": 2}})
    tiers = {key: value for key, value in samples(metrics).items() if key[0] == "flightserve_tier_frames_total"}
    assert tiers == {("flightserve_tier_frames_total", (("process", "router-1"),)): 2}


UNITS = {"ns", "us", "ms", "s", "b", "kb", "mb", "gb", "seconds", "bytes"}


def test_names_and_kinds_keep_the_conventions() -> None:
    """As `promtool check metrics` wants them: counters end in _total and nothing else does, _sum and _count are those
    of summaries and histograms, units are seconds and bytes, and everything has a help text of its own."""
    metrics = Metrics()
    metrics.answered("http", "a", "m", 0, 0.1)
    metrics.prefetched("a", True)
    fields = [*Counters.__dataclass_fields__, "queued_requests", "in_flight_batches"]
    own = [*names._TIER_TOTALS, *names._TIER_GAUGES, "shared_memory_bytes", "leases", "in_flight", "of_tomorrow"]
    statistics = dict.fromkeys([*(f"a.{name}" for name in fields), *own], 1.0)
    metrics.set_tiers({"router-0": statistics, "router-1": statistics})
    text = metrics.text().decode()
    families = [f for f in text_string_to_metric_families(text) if not f.name.endswith("_created")]
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.documentation, family.name
        assert family.documentation != family.name
        words = family.name.split("_")
        assert not UNITS & set(words[:-1]), family.name
        assert words[-1] not in UNITS - {"seconds", "bytes"}, family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name
            elif family.type == "gauge":
                assert not sample.name.endswith(("_total", "_sum", "_count", "_bucket")), sample.name
    kinds = {family.name: family.type for family in families}
    grows = [*names._TIER_TOTALS]
    assert {kinds[f"flightserve_tier_{name}"] for name in grows} == {"counter"}
    assert kinds["flightserve_tier_uptime_seconds"] == "gauge"


@fs.deployment(name="Echo")
class Echo:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def test_all_that_the_tiers_say_is_known() -> None:
    with plane(Echo.bind()) as running:
        running.call("echo", pa.record_batch({"a": [1]}))
        told = [running.router.statistics(), running.replicas[0].statistics(), running.client.statistics()]
    statistics = {name.rpartition(".")[2] for each in told for name in each}
    assert {"arrived", "busy_seconds", "leases"} <= statistics
    unknown = sorted(name for name in statistics if not names.known(name))
    assert not unknown, f"{unknown}: say in flightserve/metrics.py whether they only grow, and what they are"


def test_where_each_process_is() -> None:
    metrics = Metrics()
    metrics.set_tiers({}, nodes={"replica-a-0": "node-1", "router-0": "node-2"})
    info = {labels: value for (name, labels), value in samples(metrics).items() if name == "flightserve_process_info"}
    assert info == {
        (("node", "node-1"), ("process", "replica-a-0"), ("tier", "replica")): 1,
        (("node", "node-2"), ("process", "router-0"), ("tier", "router")): 1,
    }
