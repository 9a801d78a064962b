"""How long callers wait when a replica, or a router, is killed: SIGKILL under a steady stream of requests, over HTTP.

The requests are idempotent, so none may fail. The figure is the longest time from a request's intended time to its
answer; one that failed counts as if it had waited for its whole timeout. Of the two routers it is the one that owns
the deployment which is killed: the one with the replicas' lanes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
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
AFTER_BRIEF_S = 2.0
BACK_S = 60.0

REPLICA_S_MAX, ROUTER_S_MAX = 1.0, 2.0


def run(bench: Bench) -> Sequence[Figure]:
    """The longest wait after SIGKILL of a replica, and of a router."""
    if not bench.settings.subject:
        return []
    rounds = bench.settings.long_rounds
    try:
        replicas = [kill(bench, f"replica-{DEPLOYMENT}-{seed % 2}", seed) for seed in rounds]
        routers = [kill_owner(bench, seed) for seed in rounds]
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


def owner(children: Sequence[Mapping[str, Any]]) -> str | None:
    """The router that has the deployment's lanes; None while that is not one."""
    lanes = f"{DEPLOYMENT}.lanes"
    owners = [child["name"] for child in children if child["statistics"].get(lanes) and child["tier"] == "router"]
    return owners[0] if len(owners) == 1 else None


def kill_owner(bench: Bench, seed: int) -> Sample:
    """Kill the router that owns the deployment."""
    children = wait_for(bench.server(*SERVED).process.pid, lambda children: owner(children) is not None, BACK_S)
    name = owner(children)
    assert name is not None
    return kill(bench, name, seed)


def kill(bench: Bench, name: str, seed: int) -> Sample:
    """Send requests, kill the process of that name among them, wait until another is in its place."""
    server = bench.server(*SERVED)
    launcher = server.process.pid
    before = next(child for child in children_of(launcher) if child["name"] == name)
    after_s = AFTER_BRIEF_S if bench.settings.brief else AFTER_S
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
