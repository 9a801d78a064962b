"""`latency_target_ms=20` from little load to more than can be: p99 of what is answered, against the target.

Each round measures the capacity anew, without a target: answers a second while there is always more to do. Then
requests arrive at shares of it, as a Poisson process from a load generator of its own process, at the deployment with
the target, and at the same method without one. What the target leaves of the capacity is less, because its
micro-batches are smaller; beyond it requests are refused, with 429.

By itself, `python -m benchmarks.adaptive` prints a line for each load.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import Bar, Figure, Sample, p99
from benchmarks.harness import Bench, Settings
from benchmarks.overload_scenarios import PACED
from benchmarks.paced import TARGET_MS

LOAD = "load.overload"
SERVED = (
    *("-m", "flightserve", "run", "benchmarks.paced:app", "--http-port", "0"),
    *("--no-grpc", "--no-flight", "--no-zmq"),
)
LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
CONNECTIONS = 512
FULL = 256
SATURATE_S_MIN = 1.0
TIMEOUT_S = 120.0
# Longer than anybody waits: no deadline has a say.
TIMEOUT_MS = 5_000.0
LATE_MAX = 1.25
REFUSED = 429

Round = dict[tuple[str, float], dict[str, Any]]


def run(bench: Bench) -> Sequence[Figure]:
    """The worst p99 of all loads, and what was refused at each."""
    if not bench.settings.subject:
        return []
    try:
        rounds = [measure(bench, seed) for seed in bench.settings.long_rounds]
    finally:
        bench.end_server(*SERVED)
        bench.end_load(LOAD)
    return [_worst(rounds)]


def measure(bench: Bench, seed: int) -> Round:
    """All loads with the target, and the capacity without one."""
    url = f"{bench.server(*SERVED).addresses['http']}/v1"
    load, seconds = bench.load(LOAD), bench.settings.seconds

    def order(kind: str, name: str, **more: Any) -> dict[str, Any]:
        return load.run(kind, TIMEOUT_S, url=f"{url}/{name}", scenario=PACED.name, seed=seed, **more)

    long_s = max(seconds, SATURATE_S_MIN)
    capacity_per_s = order("saturate", "Plain", seconds=long_s, connections=FULL)["answers_per_s"]
    open_loop = {"seconds": seconds, "timeout_ms": TIMEOUT_MS, "connections": CONNECTIONS}
    found: Round = {}
    for times in LOADS:
        for name in ("Paced", "Plain"):
            found[name, times] = order("open_loop", name, per_s=times * capacity_per_s, **open_loop)
    return found


def _worst(rounds: Sequence[Round]) -> Figure:
    def sample(found: Round, name: str) -> Sample:
        late = {times: p99(found[name, times]["answered_ms"]) for times in LOADS}
        answers = [found[name, times] for times in LOADS]
        return Sample(
            max(late.values()) / TARGET_MS,
            sum(each["answered"] for each in answers),
            sum(each["verified"] for each in answers),
            {f"p99_ms at {times:g}": value for times, value in late.items()},
        )

    return Figure(
        "latency_target_ms=20, load to 1.5 of the capacity: worst p99 / target (without a target)",
        "of target",
        tuple(sample(each, "Paced") for each in rounds),
        tuple(sample(each, "Plain") for each in rounds),
        Bar("at_most", LATE_MAX),
        "value",
        tuple(_line(times, rounds) for times in LOADS),
    )


def _line(times: float, rounds: Sequence[Round]) -> str:
    """One load, for people."""
    paced, plain = ([found[name, times] for found in rounds] for name in ("Paced", "Plain"))
    sent = sum(each["sent"] for each in paced)
    refused = sum(each["statuses"].get(str(REFUSED), 0) for each in paced)
    return (
        f"at {times:g} of the capacity: p99 {_p99_ms(paced):.1f} ms, {_p99_ms(paced) / TARGET_MS:.2f} of the target, "
        f"{refused / max(1, sent):.1%} refused; without a target {_p99_ms(plain):.1f} ms"
    )


def _p99_ms(answers: Sequence[dict[str, Any]]) -> float:
    return p99(each for answer in answers for each in answer["answered_ms"])


def main() -> None:
    """Print a line for each load."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adaptive", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    with Bench(Settings(seconds=parser.parse_args().seconds, rounds=1)) as bench:
        for figure in run(bench):
            print("\n".join(figure.notes))


if __name__ == "__main__":
    main()
