"""What the console shows of the app now, as JSON: made at most once a second, whoever and how many ask.

The supervisor is asked only while somebody looks. Where it does not answer, what it said last is shown, with what is
wrong and for how long; the supervisor may be coming back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.own_app import OwnApp
from flightserve.contracts.service import Service
from flightserve.errors import FlightserveError
from flightserve.frontends.http.console.history import FIELDS, History

Json = dict[str, Any]

FRESH_S: Final = 0.9
# Of more processes and deployments than that, the others are counted.
PROCESSES_MAX: Final = 500
DEPLOYMENTS_MAX: Final = 200
# What may fail on the way to the supervisor: its process, or the connection.
_FAILURES: Final = (FlightserveError, OSError)
# What is said of a process as it is: its own statistics, and the sums of those that it keeps by deployment.
_STATISTICS: Final = ("in_flight", "running", "lanes", "busy_seconds")
_SUMS: Final = ("queued_requests", "in_flight_batches")


class Live:
    """The newest picture. On the event loop only."""

    def __init__(
        self, service: Service, own: OwnApp, history: History, clock_ns: Callable[[], int] = monotonic_ns
    ) -> None:
        self._service = service
        self._own = own
        self._history = history
        self._clock_ns = clock_ns
        self._status: Json | None = None
        self._heard_ns = self._made_ns = 0
        self._body = b""
        self._making: asyncio.Future[bytes] | None = None

    async def body(self) -> bytes:
        """The picture, a second old at most."""
        if not self._body or self._clock_ns() - self._made_ns > FRESH_S * NS_PER_S:
            if self._making is None:
                self._making = asyncio.get_running_loop().run_in_executor(None, self._made)
                self._making.add_done_callback(self._take)
            # One of those who wait may go away; the others wait on.
            await asyncio.shield(self._making)
        return self._body

    def _take(self, making: asyncio.Future[bytes]) -> None:
        self._making, self._made_ns = None, self._clock_ns()
        if not making.cancelled() and making.exception() is None:
            self._body = making.result()

    def _made(self) -> bytes:
        problem = ""
        if self._own.status is not None:
            try:
                self._status, self._heard_ns = self._own.status(), self._clock_ns()
            except _FAILURES as error:
                problem = getattr(error, "message", "the supervisor does not answer")
        return orjson.dumps(self._picture(problem))

    def _picture(self, problem: str) -> Json:
        status = self._status or {}
        processes = [_process(each) for each in status.get("children", ())]
        named = self._deployments(status, processes)
        return {
            "frontend": self._own.frontend,
            "tiers": self._own.status is not None,
            "problem": problem,
            "silent_s": round((self._clock_ns() - self._heard_ns) / NS_PER_S) if problem and self._status else 0,
            "app": {name: status.get(name, "") for name in ("app_id", "phase", "problem", "change", "supervisor_pid")},
            "insecure": status.get("insecure", ""),
            "addresses": status.get("addresses", {}),
            "nodes": _nodes(status),
            "processes": processes[:PROCESSES_MAX],
            "processes_left_out": max(0, len(processes) - PROCESSES_MAX),
            "deployments": named[:DEPLOYMENTS_MAX],
            "deployments_left_out": max(0, len(named) - DEPLOYMENTS_MAX),
        }

    def _deployments(self, status: Json, processes: Sequence[Json]) -> list[Json]:
        owners: Mapping[str, str] = getattr(self._service, "owners", {})
        kinds = {spec.name: spec.kind for spec in self._service.deployments()}
        latest = self._history.latest()
        numbers = {} if latest is None else latest.numbers
        found = status.get("deployments") or [{"name": name, "state": "served"} for name in sorted(kinds)]
        return [
            {
                **each,
                "kind": kinds.get(each["name"], ""),
                "router": owners.get(each["name"], "") if each["state"] == "served" else "",
                **_lately(numbers.get(each["name"], ())),
            }
            for each in found
        ]


def _process(child: Json) -> Json:
    kept = ("name", "tier", "deployment", "phase", "ready", "pid", "restarts", "version", "addresses", "node")
    statistics: Mapping[str, float] = child["statistics"]
    numbers = {name: statistics[name] for name in _STATISTICS if name in statistics}
    for name, value in statistics.items():
        statistic = name.rpartition(".")[2]
        if statistic in _SUMS and child["tier"] == "router":
            numbers[statistic] = numbers.get(statistic, 0.0) + value
    return {**{name: child[name] for name in kept}, "age_s": round(child["age_s"]), "numbers": numbers}


def _lately(numbers: Sequence[float]) -> dict[str, float | None]:
    named = dict(zip(FIELDS, numbers, strict=False))
    shown = ("arrived", "shed", "failed", "queued", "queue_wait_ms", "batch_rows")
    return {name: number(named[name]) for name in shown if name in named}


def number(value: float) -> float | None:
    """As JSON has it: short, and null where there is none."""
    return None if math.isnan(value) else round(value, 3)


def _nodes(status: Json) -> dict[str, str]:
    """What nodes are called, by Ray's id of each: their host, as their carriers say it."""
    carriers = (child for child in status.get("children", ()) if "carrier" in child["addresses"])
    return {child["node"]: child["addresses"]["carrier"].rpartition(":")[0] for child in carriers}
