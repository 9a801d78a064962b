"""How long callers wait when a replica, or a router, is killed: SIGKILL under a steady stream of requests, over HTTP.

The requests are idempotent, so none may fail. The figure is the longest time from a request's intended time to its
answer. Each round of routers kills them one after the other, because whoever owns the deployment is only then
among them for sure; the longest wait counts. One that failed counts as if it had waited for its whole timeout.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.tiers import children_of, wait_for

LOAD = "load.overload"
SERVED = (
    *("-m", "flightserve", "run", "benchmarks.overloaded:app", "--http-port", "0"),
    *("--no-grpc", "--no-flight", "--no-zmq", "--routers", "2"),
)
DEPLOYMENT = "Fifo"
# Two replicas answer 800 a second; with one of them gone the other is well below its capacity.
PER_S = 100.0
TIMEOUT_MS = 10_000.0
BEFORE_S = 0.5
AFTER_S = 4.0
AFTER_SMALL_S = 2.0
BACK_S = 60.0

REPLICA_S_MAX, ROUTER_S_MAX = 1.0, 2.0


def run(bench: Bench) -> Sequence[Figure]:
    """The longest wait after SIGKILL of a replica, and of a router."""
    if not bench.settings.subject:
        return []
    rounds = range(bench.settings.rounds)
    try:
        replicas = [kill(bench, f"replica-{DEPLOYMENT}-{seed % 2}", seed) for seed in rounds]
        routers = [kill_each_router(bench, seed) for seed in rounds]
    finally:
        bench.end_server(*SERVED)
        bench.end_load(LOAD)
    return [
        Figure(f"SIGKILL of a {what}: longest wait for an answer", "s", tuple(samples), bar=bar, compare="value")
        for what, samples, bar in (
            ("replica", replicas, Bar("at_most", REPLICA_S_MAX)),
            ("router", routers, Bar("at_most", ROUTER_S_MAX)),
        )
    ]


def kill_each_router(bench: Bench, seed: int) -> Sample:
    """One router after the other; the worse of the two."""
    samples = [kill(bench, f"router-{ordinal}", seed) for ordinal in range(2)]
    return max(samples, key=lambda sample: sample.value)


def kill(bench: Bench, name: str, seed: int) -> Sample:
    """Send requests, kill the process of that name among them, wait until another is in its place."""
    server = bench.server(*SERVED)
    launcher = server.process.pid
    before = next(child for child in children_of(launcher) if child["name"] == name)
    after_s = AFTER_S if bench.settings.seconds >= 1 else AFTER_SMALL_S
    load = bench.load(LOAD)
    load.order(
        "steady",
        url=f"{server.addresses['http']}/v1/{DEPLOYMENT}",
        per_s=PER_S,
        seconds=BEFORE_S + after_s,
        timeout_ms=TIMEOUT_MS,
        seed=seed,
    )
    time.sleep(BEFORE_S)
    os.kill(before["pid"], signal.SIGKILL)
    answer = load.answer()

    def replaced(children: list[dict[str, Any]]) -> bool:
        pids = {child["name"]: child["pid"] for child in children}
        return all(child["ready"] for child in children) and pids.get(name) not in {None, before["pid"]}

    wait_for(launcher, replaced, BACK_S)
    return sample_of(answer)


def sample_of(answer: dict[str, Any]) -> Sample:
    """The longest wait in seconds; a failed request waited for all of its timeout."""
    waits_ms = [TIMEOUT_MS if answer["failed"] else 0.0, answer["answered_ms"][-1] if answer["answered_ms"] else 0.0]
    extra = {"sent": answer["sent"], "failed": answer["failed"], "lag_ms_max": answer["lag_ms"][-1]}
    return Sample(max(waits_ms) / 1e3, answer["answered"], answer["verified"], extra)
