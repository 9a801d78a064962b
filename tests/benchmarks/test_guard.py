"""The guard against what makes us slower: what it takes for noise, and what not."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.figures import Figure, Sample
from benchmarks.guard import (
    ERRORS_MAX,
    RUNS_MAX,
    Baseline,
    Standing,
    fallen_by,
    judge,
    line,
)

MACHINE = "as it is"


def figure(unit: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    return Figure("f", unit, tuple(map(Sample, ours)), tuple(map(Sample, theirs)))


def run(ratio: float, noise: float, seed: int, rounds: int = 7) -> Standing:
    """A run whose rounds scatter by so much around a ratio."""
    draw = random.Random(seed)
    standing = Standing.of(
        figure("calls/s", [ratio * 1000 * math.exp(draw.gauss(0, noise)) for _ in range(rounds)], [1000] * rounds)
    )
    assert standing is not None
    return standing


def test_the_ratio_is_of_rounds_and_greater_is_better() -> None:
    rate = Standing.of(figure("calls/s", [10, 20, 40], [100, 100, 100]))
    latency = Standing.of(figure("us", [10, 20, 40], [100, 100, 100]))
    assert rate is not None and latency is not None
    assert math.exp(rate.log_ratio) == pytest.approx(0.2)
    assert math.exp(latency.log_ratio) == pytest.approx(5)
    assert 0 < rate.error == pytest.approx(latency.error)


def test_what_was_not_measured_has_no_standing() -> None:
    assert Standing.of(figure("us", [], [])) is None
    assert Standing.of(Figure("f", "MB", (Sample(1.0),), (Sample(2.0),), compare="value")) is None


def test_the_same_code_seldom_seems_to_have_fallen_and_never_twice() -> None:
    suspected = [
        fallen_by([run(0.5, 0.1, 10 * seed + each) for each in range(5)], run(0.5, 0.1, -seed)) > ERRORS_MAX
        for seed in range(1, 400)
    ]
    assert sum(suspected) < len(suspected) * 0.05


@pytest.mark.parametrize(("noise", "loss"), [(0.02, 0.15), (0.05, 0.3), (0.1, 0.5)])
def test_a_loss_beyond_the_noise_is_seen(noise: float, loss: float) -> None:
    seen = [
        fallen_by([run(0.5, noise, 10 * seed + each) for each in range(5)], run(0.5 * (1 - loss), noise, -seed))
        > ERRORS_MAX
        for seed in range(1, 200)
    ]
    assert sum(seen) > len(seen) * 0.9


def test_what_is_better_has_not_fallen() -> None:
    assert fallen_by([run(0.5, 0.0, 1)], run(0.9, 0.0, 2)) == 0
    assert fallen_by([], run(0.1, 0.0, 2)) == 0
    assert fallen_by([run(0.5, 0.0, 1)], run(0.4, 0.0, 2)) > 100


def test_what_fell_once_is_measured_again(tmp_path: Path) -> None:
    baseline = Baseline(tmp_path / "baseline.json")
    good, bad = run(0.5, 0.0, 1), run(0.3, 0.0, 2)
    baseline.record(MACHINE, {"a": good, "b": good, "c": good})
    asked: list[tuple[str, ...]] = []

    def measured(wanted: Sequence[str]) -> dict[str, Standing]:
        asked.append(tuple(wanted))
        return {"a": good, "b": bad, "c": bad} if not wanted else {"b": good, "c": bad}

    verdict = judge(baseline, MACHINE, measured)
    assert asked == [(), ("b", "c")]
    assert verdict.fallen == ["c"]
    assert verdict.standings["b"] == good
    assert line("c", baseline.runs(MACHINE, "c"), bad, True).split()[-1] == "FELL"


def test_what_is_recorded_is_kept_by_machine_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    for number in range(RUNS_MAX + 3):
        Baseline(path).record(MACHINE, {"a": Standing(float(number), 0.01)})
    Baseline(path).record("slowed to 0.5", {"a": Standing(-1.0, 0.5)})
    runs = Baseline(path).runs(MACHINE, "a")
    assert [each.log_ratio for each in runs] == [float(number) for number in range(3, RUNS_MAX + 3)]
    assert Baseline(path).runs("slowed to 0.5", "a") == [Standing(-1.0, 0.5)]
    assert Baseline(path).runs(MACHINE, "b") == []
