"""What user code measures: bounded, checked, and shown by deployment and version."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

import flightserve as fs
from flightserve import measures
from flightserve.errors import ConfigError
from flightserve.metrics import Metrics
from flightserve.types import MetricFamily
from flightserve.wire.table import Measured
from tests.plane import plane


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_metrics", {})


def shown(*measured: Measured) -> dict[tuple[str, ...], float]:
    metrics = Metrics()
    metrics.set_tiers({}, measured)
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, *sorted(f"{k}={v}" for k, v in s.labels.items())): s.value for f in families for s in f.samples}


def of_replica(version: str = "v1") -> Measured:
    return Measured("replica-Model-0", "Model", version, measures.families())


WHERE = ("deployment=Model", "process=replica-Model-0", "version=v1")


def test_a_counter_a_gauge_and_a_histogram_are_shown_as_prometheus_has_them() -> None:
    scored = fs.metrics.counter("rows_scored_total", "Rows scored", ["kind"])
    scored.inc(3, kind="new")
    scored.inc(kind="new")
    drift = fs.metrics.gauge("drift", "How far off")
    drift.set(-1.5)
    drift.inc(0.5)
    spread = fs.metrics.histogram("error_minutes", "Errors", buckets=(1, 5))
    for value in (1, 2, 100):
        spread.observe(value)
    got = shown(of_replica())
    assert got["rows_scored_total", "deployment=Model", "kind=new", *WHERE[1:]] == 4 == scored.value(kind="new")
    assert got["drift", *WHERE] == -1.0 == drift.value()
    buckets = [got["error_minutes_bucket", WHERE[0], f"le={le}", *WHERE[1:]] for le in ("1.0", "5.0", "+Inf")]
    assert buckets == [1, 2, 3]
    assert (got["error_minutes_count", *WHERE], got["error_minutes_sum", *WHERE]) == (3, 103) and spread.count() == 3


def test_versions_are_told_apart_and_a_name_that_means_another_thing_elsewhere_is_shown_once() -> None:
    fs.metrics.counter("seen", "Seen").inc()
    other = Measured("replica-Other-0", "Other", "v9", (MetricFamily("gauge", "seen", "S", (), (), (((), (7.0,)),)),))
    got = shown(of_replica(), of_replica("v2"), other)
    assert {key[-1] for key in got if key[0] == "seen_total"} == {"version=v1", "version=v2"}
    assert not [key for key in got if key[0] == "seen"]


def test_the_same_metric_asked_for_again_is_the_same_and_another_is_refused() -> None:
    first = fs.metrics.counter("seen", "Seen", ["kind"])
    assert fs.metrics.counter("seen", "Seen", "kind") is first
    for make in (lambda: fs.metrics.gauge("seen", "Seen", ["kind"]), lambda: fs.metrics.counter("seen", "Seen")):
        with pytest.raises(ConfigError, match="there is a counter 'seen'"):
            make()


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("flightserve_x", ()), ("9x", ()), ("x-y", ()), ("", ()), ("x_sum", ()), ("x" * 129, ()), ("x\n", ()),
        ("x", ["version"]), ("x", ["le"]), ("x", ["a", "a"]), ("x", ["__a"]), ("x", list("abcdefghi")), ("x", [""]),
    ],
)  # fmt: skip
def test_names_that_prometheus_has_not_are_refused(name: str, labels: Any) -> None:
    with pytest.raises(ConfigError):
        fs.metrics.gauge(name, "About", labels)


@pytest.mark.parametrize("buckets", [(), (1, 1), (2, 1), (math.nan,), (-math.inf, 1), range(65)])
def test_buckets_ascend(buckets: Any) -> None:
    with pytest.raises(ConfigError, match="buckets"):
        fs.metrics.histogram("x", "About", buckets=buckets)


def test_a_help_text_is_needed() -> None:
    with pytest.raises(ConfigError, match="help text"):
        fs.metrics.counter("x", " ")


def test_wrong_use_is_an_error_of_the_methods_and_none_of_its_caller() -> None:
    seen = fs.metrics.counter("seen", "Seen", ["kind"])
    for by in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="grows by 0 or more"):
            seen.inc(by, kind="a")
    for labels in ({}, {"sort": "a"}, {"kind": "a", "more": "b"}):
        with pytest.raises(TypeError, match="its labels are kind"):
            seen.inc(**labels)
    with pytest.raises(TypeError, match="it has no labels"):
        fs.metrics.gauge("now", "Now").set(1, kind="a")
    with pytest.raises(ValueError, match="NaN"):
        fs.metrics.histogram("h", "H").observe(math.nan)


def test_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "LABEL_SETS_MAX", 3)
    monkeypatch.setattr(measures, "METRICS_MAX", 2)
    seen, plain = fs.metrics.counter("seen", "Seen", ["kind"]), fs.metrics.counter("plain", "Plain")
    for kind in ("a", "b", "c", "d", "e" * 1000, "a"):
        seen.inc(kind=kind)
    plain.inc()
    assert dict(seen.family().samples) == {("a",): (2,), ("b",): (1,), ("c",): (1,), ("-",): (2,)}
    assert plain.value() == 1
    with pytest.raises(ConfigError, match="2 metrics already"):
        fs.metrics.gauge("third", "Third")
    fs.metrics.counter("seen", "Seen", ["kind"])


def test_values_of_labels_are_cut_and_escaped() -> None:
    fs.metrics.counter("seen", "Seen", ["kind"]).inc(kind='a"\n\\' + "b" * 1000)
    (key,) = [key for key in shown(of_replica()) if key[0] == "seen_total"]
    assert key[2].startswith('kind=a"\n\\b') and len(key[2]) == len("kind=") + 128


class Model:
    def __init__(self) -> None:
        self.scored = fs.metrics.counter("rows_scored", "Rows scored")

    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.scored.inc(batch.num_rows)
        return batch


def test_a_replica_reports_its_code_s_metrics_and_how_long_its_methods_take() -> None:
    with plane(fs.bind(Model)) as running:
        running.call("predict", pa.record_batch({"x": [1, 2]}))
        times, own = running.replicas[0].families()
        got = shown(Measured("replica-Model-0", "Model", "v1", (times, own)))
    assert got["rows_scored_total", *WHERE] == 2
    where = ("deployment=Model", "method=predict", *WHERE[1:])
    assert got["flightserve_method_seconds_count", *where] == 1
    assert 0 < got["flightserve_method_seconds_sum", *where] < 20
