"""Figures: medians, spread, ratios and bars; the table and the JSON made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Bar, Figure, Sample, Spread
from benchmarks.memory import figure as memory_figure


def samples(*values: float) -> tuple[Sample, ...]:
    return tuple(Sample(v, answered=10, verified=10) for v in values)


def test_spread_is_the_quartiles_and_for_few_values_the_range() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([9.0, 1.0, 2.0]) == Spread(2.0, 1.0, 9.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("compare", "bar", "result", "verdict"),
    [
        ("of_baseline", Bar("at_least", 0.5), 0.5, "pass"),
        ("of_baseline", Bar("at_least", 0.51), 0.5, "MISS"),
        ("of_baseline", Bar("at_most", 0.5), 0.5, "pass"),
        ("of_baseline", Bar("at_most", 0.49), 0.5, "MISS"),
        ("speedup", Bar("at_least", 2), 2.0, "pass"),
        ("value", Bar("at_most", 9), 10.0, "MISS"),
        ("of_baseline", None, 0.5, "reported"),
    ],
)
def test_the_ratio_of_medians_is_held_against_the_bar(
    compare: str, bar: Bar | None, result: float, verdict: str
) -> None:
    figure = Figure("f", "us", samples(1, 10, 100), samples(20, 2, 200), bar, compare)  # type: ignore[arg-type]
    assert figure.result() == result
    assert figure.verdict() == verdict


def test_a_side_that_was_not_measured_gives_no_verdict() -> None:
    figure = Figure("f", "us", (), samples(1, 2), Bar("at_least", 0.1))
    assert figure.result() is None
    assert figure.verdict() == "-"
    assert figure.as_dict()["subject"] is None


def test_memory_that_grows_misses_its_bar_and_warm_up_does_not_count() -> None:
    steady = memory_figure("replica", [10.0, 90.0, 100.0, 100.0, 101.0, 100.0], 60, "")
    growing = memory_figure("replica", [10.0, 90.0, 100.0, 110.0, 120.0, 130.0], 60, "")
    assert (steady.verdict(), growing.verdict()) == ("pass", "MISS")
    assert sum(s.answered for s in steady.subject) == 60


def test_the_table_has_a_line_per_figure_with_its_notes_below() -> None:
    figures = [
        Figure("first", "us", samples(1234.5), samples(617.25), Bar("at_most", 1.6), notes=("a note",)),
        Figure("second", "calls/s", samples(1), samples(2), Bar("at_least", 0.5)),
    ]
    lines = report.table(figures).splitlines()
    assert [line.split()[0] for line in lines] == ["measure", lines[1].split()[0], "first", "a", "second"]
    assert "1,234 (1,234-1,234)" in lines[2] or "1,235" in lines[2]
    assert lines[2].endswith("MISS")
    assert lines[4].endswith("pass")


def test_the_json_holds_every_sample(tmp_path: Path) -> None:
    figure = Figure("f", "us", samples(1, 2, 3), samples(4, 5, 6), Bar("at_least", 0.1))
    path = report.write_json(report.as_json([figure], {"rounds": 3}), tmp_path / "deep" / "out.json")
    document = json.loads(path.read_text())
    assert document["settings"] == {"rounds": 3}
    (only,) = document["figures"]
    assert [s["value"] for s in only["subject"]["samples"]] == [1, 2, 3]
    assert only["baseline"]["answered"] == 30
    assert only["verdict"] == "pass"
