"""Every benchmark in its small size, on one flightserve that all of them share. Nothing is said about times."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from benchmarks import report
from benchmarks.console import NAME as BROWSERS
from benchmarks.figures import Figure
from benchmarks.harness import Bench, Settings
from benchmarks.memory import tier_names, tree_pss_mb
from benchmarks.micro_batch import counts, measure
from benchmarks.sql import SLOW_READER
from benchmarks.suite import SUITE, Benchmark
from flightserve.cli.loading import load_app
from flightserve.cli.main import make_parser
from tests.benchmarks import together

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WITHOUT_CALLS = {"startup", "scale"}
# What these measure may well be nothing: nothing missed, and on a busy machine nothing answered in time.
OVERLOADED = {"simulation", "overload", "adaptive"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with together.Together(Settings.small()) as bench:
        yield bench


def test_each_benchmark_starts_an_app_that_is_there() -> None:
    """As for themselves, although all of them are served together here."""
    names = set()
    for command in together.APART:
        arguments = make_parser().parse_args(command[2:])
        names |= {bound.name for bound in load_app(arguments.app)}
    assert names == {bound.name for bound in together.app}


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda b: b.name)
def test_a_benchmark_measures_both_sides_and_checks_the_answers(bench: Bench, benchmark: Benchmark) -> None:
    figures = benchmark.run(bench)
    assert figures
    for figure in figures:
        check(figure, benchmark.name)
    document = json.loads(json.dumps(report.as_json(figures, {})))
    assert [f["name"] for f in document["figures"]] == [f.name for f in figures]
    assert len(report.table(figures).splitlines()) >= 2 + len(figures)


def check(figure: Figure, name: str) -> None:
    """Both sides were measured, every call was answered, and what had to be was compared."""
    samples = (*figure.subject, *figure.baseline)
    assert figure.subject
    assert all(sample.answered == sample.verified for sample in samples) or name == "memory"
    if name in OVERLOADED:
        return
    assert figure.result() is not None
    assert figure.verdict() in {"pass", "MISS", "reported"}
    # A reader may cost less than the kernel took back meanwhile, browsers less than a frontend varies by.
    assert all(sample.value > 0 for sample in figure.subject) or figure.name in {SLOW_READER, BROWSERS}
    assert bool(figure.baseline) == (figure.compare != "value")
    if name == "memory":
        assert sum(s.answered for s in figure.subject) > 0
    elif name not in WITHOUT_CALLS:
        assert all(sample.answered > 0 for sample in samples)


def test_memory_is_measured_of_every_tier(bench: Bench) -> None:
    measured = tree_pss_mb(bench.flightserve().process.pid, tier_names())
    names = {name for _, name in measured}
    assert {"frontend-0", "router-0", "replica-Identity-0", "supervisor", "flightserve", "raylet"} <= names
    assert all(pss > 0 for pss in measured.values())


def test_rows_are_counted_by_the_replica(bench: Bench) -> None:
    base = bench.http_url("counted").removesuffix("/counted")
    calls, rows = counts(base)
    sample = measure(bench)
    calls_after, rows_after = counts(base)
    assert rows_after - rows >= sample.answered
    assert 0 < calls_after - calls <= rows_after - rows
    assert sample.value >= 1


def test_flightserve_ends_with_success_when_told_to(bench: Bench) -> None:
    server = bench.flightserve()
    assert server.stop() == 0
