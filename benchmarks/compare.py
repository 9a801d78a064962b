"""Two checkouts by turns: what a change to the data plane gives, on this machine and on slower ones.

    python -m benchmarks.compare ../other [--slower 2] [--slowed 0.5] [--starts 9]

Of each checkout a router and a replica run, without Ray and without a protocol. Each round measures both: 16 rows and 1
MB by one caller, one request at a time, and 16 rows with 16 in flight. The same code differs by a tenth from one start
of its processes to the next, so they are started anew several times. What counts is the median of the starts' ratios,
over 1 where this checkout is faster.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.payloads import MB
from benchmarks.processes import Load, Server
from benchmarks.slowing import SlowingFailed, machine_of

IN_FLIGHT: Final = 16
# Of 16 rows: what `flow` takes for as many.
SMALL_BYTES: Final = 256


class Measure(NamedTuple):
    """What is compared: a name, the order to the load generator, and what of its answer, better where it is less."""

    name: str
    order: str
    arguments: dict[str, Any]
    keys: tuple[str, ...]


MEASURES: Final = (
    Measure("16 rows, one caller", "call", {"size_bytes": 0}, ("p50_us", "mean_us", "p99_us")),
    Measure("1 MB, one caller", "call", {"size_bytes": MB}, ("p50_us", "mean_us")),
    Measure("16 rows, 16 in flight", "flow", {"size_bytes": SMALL_BYTES, "in_flight": IN_FLIGHT}, ("each_us",)),
)


class Side:
    """A checkout's data plane, and who calls it."""

    def __init__(self, checkout: Path, stack: ExitStack) -> None:
        self._name = f"flightserve-bench-{secrets.token_hex(6)}"
        for role in ("router", "replica"):
            stack.enter_context(Server(("-m", "benchmarks.plane", role, self._name), cwd=checkout))
        self._load = stack.enter_context(Load("benchmarks.load.data_plane", cwd=checkout))

    def take(self, measure: Measure, seconds: float) -> dict[str, float]:
        """The keys of one measurement."""
        answer = self._load.run(measure.order, name=self._name, seconds=seconds, **measure.arguments)
        # A checkout from before them has none.
        answer.setdefault("mean_us", seconds * 1e6 / answer["answered"])
        answer.setdefault("each_us", seconds * 1e6 / answer["answered"])
        return {key: answer[key] for key in measure.keys}


# By name of a measure and key: the samples of this checkout and of the other.
Samples = dict[str, tuple[list[float], list[float]]]


def sample(checkouts: Sequence[Path], rounds: int, seconds: float) -> Samples:
    """Both data planes, started now, by turns."""
    found: Samples = {}
    with ExitStack() as stack:
        sides = [Side(checkout, stack) for checkout in checkouts]
        for side in sides:
            for measure in MEASURES:
                side.take(measure, seconds)
        for number in range(rounds):
            # Whoever comes first finds other caches, so both do.
            for place in (0, 1) if number % 2 else (1, 0):
                for measure in MEASURES:
                    for key, value in sides[place].take(measure, seconds).items():
                        found.setdefault(f"{measure.name}, {key}", ([], []))[place].append(value)
    return found


def table(starts: Sequence[Samples]) -> list[str]:
    """A line for each measure: medians of both sides, and the median of the starts' ratios with the middle half."""
    lines = [f"{'':34} {'this':>9} {'other':>9} {'ratio':>7}   middle half of the starts"]
    for name in starts[0]:
        pairs = [[statistics.median(side) for side in each[name]] for each in starts]
        ratios = sorted(other / this for this, other in pairs)
        quarter = len(ratios) // 4
        this, other = (statistics.median(each) for each in zip(*pairs, strict=True))
        middle = f"{ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
        lines.append(f"{name:34} {this:9.1f} {other:9.1f} {statistics.median(ratios):7.3f}   {middle}")
    return lines


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("other", type=Path, help="another checkout")
    parser.add_argument("--slower", type=float, action="append", default=[], metavar="TIMES", help="repeatable")
    parser.add_argument("--slowed", type=float, action="append", default=[], metavar="SHARE", help="repeatable")
    parser.add_argument("--starts", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5, help="of each start")
    parser.add_argument("--seconds", type=float, default=0.2, help="of one side of a round")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    slow, slowed = ((None, times) for times in arguments.slower), ((share, None) for share in arguments.slowed)
    for share, times in [(None, None), *slow, *slowed]:
        try:
            name, machine = machine_of(share, times)
            with machine:
                checkouts = (here, arguments.other.resolve())
                starts = [sample(checkouts, arguments.rounds, arguments.seconds) for _ in range(arguments.starts)]
        except SlowingFailed as error:
            parser.error(str(error))
        print(f"machine: {name}", *table(starts), "", sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
