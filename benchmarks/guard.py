"""`make bench-check`: whether a change made something slower, by more than the measurement's own noise.

Ratios are compared, never times: each figure's flightserve against its bare baseline in the same run, in logarithms.
`benchmarks/baseline.json` has, for a machine as it is and for one slowed to half, what some runs gave; `--record` adds
a run. A figure is held to have fallen where it lies below what was recorded by more than three standard errors, of its
rounds and of the runs that were recorded, and does so again when it is measured once more.

`--slowed 0.5` runs everything in a group of processes that gets half of each core: what is tuned to one machine's speed
shows there. That needs a cgroup that this user may write to. `--slower 2` runs everything by a Python that takes so
many times longer, each function by some of it, with the kernel as fast as ever: a machine that is slower as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import suite
from benchmarks.figures import Figure
from benchmarks.harness import Bench, Settings
from benchmarks.slowing import SlowingFailed, machine_of

BASELINE: Final = Path(__file__).with_name("baseline.json")
# What has a bare baseline, and takes minutes.
GUARDED: Final = ("data_plane", "flight", "grpc_call", "http_json", "http_arrow")
# Of a normal distribution, one in 700 lies beyond on one side; a figure has to twice.
ERRORS_MAX: Final = 3.0
RUNS_MAX: Final = 9
# Less of a difference than that nobody sees; the file has no more digits.
RESOLUTION: Final = 0.001
# The median's standard error against that of a mean, and a median deviation's against a standard deviation.
_OF_MEDIAN: Final = 1.2533
_OF_DEVIATION: Final = 1.4826


@dataclass(frozen=True, slots=True)
class Standing:
    """How a figure stands in one run: the logarithm of its ratio, greater is better, and that one's standard error."""

    log_ratio: float
    error: float

    @classmethod
    def of(cls, figure: Figure) -> Standing | None:
        """None where a side was not measured."""
        pairs = zip(figure.subject, figure.baseline, strict=True)
        logs = [math.log(ours.value / theirs.value) for ours, theirs in pairs if ours.value > 0 < theirs.value]
        if not logs or figure.compare == "value":
            return None
        middle = statistics.median(logs)
        deviation = _OF_DEVIATION * statistics.median(abs(each - middle) for each in logs)
        sign = 1 if greater_is_better(figure) else -1
        return cls(sign * middle, _OF_MEDIAN * deviation / math.sqrt(len(logs)))


def greater_is_better(figure: Figure) -> bool:
    """Whether a figure's samples are the better the greater they are: rates are, times are not."""
    return figure.unit.endswith("/s")


def fallen_by(runs: Sequence[Standing], now: Standing) -> float:
    """How many standard errors the run lies below those that were recorded; 0 where it does not, or there are none."""
    if not runs:
        return 0.0
    logs = [run.log_ratio for run in runs]
    # Runs differ by more than their rounds: another hour, another neighbour.
    between = statistics.stdev(logs) if len(logs) > 1 else 0.0
    within = math.hypot(now.error, statistics.median(run.error for run in runs))
    error = max(between, within, RESOLUTION)
    below = statistics.median(logs) - now.log_ratio
    return max(0.0, below / error)


class Baseline:
    """What was recorded, in a file, by machine ("as it is", "slowed to 0.5") and figure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, dict[str, list[list[float]]]] = json.loads(path.read_text()) if path.exists() else {}

    def runs(self, machine: str, figure: str) -> list[Standing]:
        """Those of a figure, the oldest first."""
        return [Standing(*each) for each in self._runs.get(machine, {}).get(figure, [])]

    def record(self, machine: str, standings: Mapping[str, Standing]) -> None:
        """Add a run, and write the file."""
        figures = self._runs.setdefault(machine, {})
        for name, standing in standings.items():
            runs = figures.setdefault(name, [])
            runs.append([round(standing.log_ratio, 3), round(standing.error, 3)])
            del runs[:-RUNS_MAX]
        self._path.write_text(json.dumps(self._runs, indent=1, sort_keys=True) + "\n")


class Verdict(NamedTuple):
    """Of one run: how each figure stands, and those that fell, both times that they were measured."""

    standings: dict[str, Standing]
    fallen: list[str]


def measure(names: Sequence[str], settings: Settings) -> dict[str, Standing]:
    """The standing of every figure of these benchmarks that the settings want."""
    with Bench(settings) as bench:
        figures = [figure for each in suite.chosen(list(names)) for figure in each.run(bench)]
    standings = {figure.name: Standing.of(figure) for figure in figures}
    return {name: standing for name, standing in standings.items() if standing is not None}


def judge(baseline: Baseline, machine: str, measured: Callable[[Sequence[str]], dict[str, Standing]]) -> Verdict:
    """Measure, and measure once more what seems to have fallen. `measured` takes the names of figures, none for all."""

    def fell(name: str, now: Standing) -> bool:
        return fallen_by(baseline.runs(machine, name), now) > ERRORS_MAX

    standings = measured(())
    suspects = [name for name, now in standings.items() if fell(name, now)]
    again = measured(suspects) if suspects else {}
    return Verdict(standings | again, [name for name in suspects if name not in again or fell(name, again[name])])


def line(name: str, runs: Sequence[Standing], now: Standing, fell: bool) -> str:
    """Ratio as recorded, ratio now (over 1: better than the bare baseline), standard errors below, and what that is."""
    before = f"{math.exp(statistics.median(run.log_ratio for run in runs)):8.3f}" if runs else f"{'-':>8}"
    word = "FELL" if fell else "" if runs else "not recorded"
    return f"{name:60} {before} {math.exp(now.log_ratio):8.3f} {fallen_by(runs, now):6.1f}  {word}".rstrip()


def main() -> int:
    """Run the command: 1 where a figure fell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this benchmark (repeatable)")
    parser.add_argument("--slowed", type=float, metavar="SHARE", help="of each core that everything gets, as 0.5")
    parser.add_argument("--slower", type=float, metavar="TIMES", help="that Python is to be, as 2")
    parser.add_argument("--record", action="store_true", help="add this run to what later ones are compared with")
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE", help="what was recorded")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one side of a round")
    arguments = parser.parse_args()
    names, baseline = arguments.only or GUARDED, Baseline(arguments.baseline)
    settings = Settings(rounds=arguments.rounds, seconds=arguments.seconds, peers=False)
    try:
        machine, made = machine_of(arguments.slowed, arguments.slower)
        with made:
            verdict = judge(
                baseline, machine, lambda wanted: measure(names, dataclasses.replace(settings, figures=tuple(wanted)))
            )
    except SlowingFailed as error:
        parser.error(str(error))
    print(f"{f'machine {machine}':60} {'recorded':>8} {'now':>8} {'errors':>6}")
    for name, now in verdict.standings.items():
        print(line(name, baseline.runs(machine, name), now, name in verdict.fallen))
    if arguments.record:
        baseline.record(machine, verdict.standings)
    return 1 if verdict.fallen else 0


if __name__ == "__main__":
    sys.exit(main())
