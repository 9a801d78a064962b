"""The data plane, gRPC, Flight and ZeroMQ, each against the bare thing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import data_plane, flight, grpc_call, payloads, zmq_call
from benchmarks.contests import bars
from benchmarks.contests.contest import OURS, Contest, Side, take_turns
from benchmarks.figures import Sample
from benchmarks.harness import Bench
from benchmarks.load import programs
from benchmarks.load.grpc import METHOD, SERVICE
from benchmarks.processes import Server
from flightserve.proto.flightserve_pb2 import CallRequest

RAY_ACTOR = "bare.ray_actor"
COMPARED_S = 0.2


def plane(bench: Bench) -> list[Contest]:
    """Frontend to replica and back, against an actor's call."""
    seconds = bench.settings.seconds
    name = data_plane.start_plane(bench)
    roles = [bench.server("-m", "benchmarks.plane", role, name) for role in ("router", "replica")]
    ours = partial(bench.load(data_plane.LOAD).sample, "call", "p50_us", name=name, size_bytes=0, seconds=seconds)
    sides = [
        # The caller is what a frontend is.
        Side(OURS, ours, lambda: [bench.load(data_plane.LOAD).process.pid, *(role.process.pid for role in roles)]),
        Side(
            bars.RAY_ACTOR,
            lambda: bench.load(RAY_ACTOR).sample("call", "p50_us", seconds=seconds),
            lambda: [bench.load(RAY_ACTOR).process.pid],
        ),
    ]
    return [take_turns(bars.DATA_PLANE, "us", sides, bench.settings.rounds)]


def _two(bench: Bench, bare: str, module: str, measure: Callable[[bool], Sample]) -> list[Side]:
    """flightserve and a bare server of `benchmarks.bare`."""

    def root(start: Callable[[], Server]) -> Callable[[], list[int]]:
        return lambda: [start().process.pid]

    return [
        Side(OURS, partial(measure, True), root(bench.flightserve)),
        Side(bare, partial(measure, False), root(partial(bench.bare, module))),
    ]


def grpc(bench: Bench) -> list[Contest]:
    """64 calls in flight on one channel, by gRPC's Python client, and by h2load where it is found."""
    rounds = bench.settings.rounds
    own = _two(bench, bars.BARE_GRPC, "grpc", partial(grpc_call.measure, bench))
    contests = [take_turns(bars.GRPC, "calls/s", own, rounds)]
    if programs.found("h2load"):
        by_h2load = _two(bench, bars.BARE_GRPC, "grpc", partial(_h2load, bench))
        contests.append(take_turns(bars.GRPC_H2LOAD, "calls/s", by_h2load, rounds))
    else:
        contests.append(Contest(bars.GRPC_H2LOAD, "calls/s", skipped={OURS: "h2load is not on the PATH"}))
    return contests


def _h2load(bench: Bench, flightserve: bool) -> Sample:
    address = grpc_call.address(bench, flightserve)
    in_flight, seconds = grpc_call.IN_FLIGHT, bench.settings.seconds
    load = bench.load(grpc_call.LOAD)
    compared = load.sample("call", "calls_per_s", address=address, in_flight=in_flight, seconds=COMPARED_S)
    rows = payloads.encode(payloads.small())
    message = CallRequest(deployment="Identity", method="identity", arrow_stream=rows).SerializeToString()
    told = programs.h2load(f"http://{address}/{SERVICE}/{METHOD}", message, in_flight, seconds)
    value, answered = told.pop("calls_per_s"), told.pop("answered")
    return Sample(value, answered + compared.answered, compared.verified, told)


def exchanges(bench: Bench) -> list[Contest]:
    """DoExchange: one stream, sixteen, and one that is pipelined."""

    def contest(measure: str, unit: str, order: str, key: str, **arguments: Any) -> Contest:
        side = partial(flight.measure, bench, order=order, key=key, **arguments)
        return take_turns(measure, unit, _two(bench, bars.BARE_FLIGHT, "flight", side), bench.settings.rounds)

    return [
        contest(bars.PING_PONG, "us", "ping_pong", "p50_us", streams=1),
        contest(bars.STREAMS, "calls/s", "ping_pong", "calls_per_s", streams=16),
        contest(bars.PIPELINED, "calls/s", "pipelined", "calls_per_s", size_bytes=0),
    ]


def zmq(bench: Bench) -> list[Contest]:
    """64 in flight on one DEALER."""
    sides = _two(bench, bars.BARE_ZMQ, "zmq", partial(zmq_call.measure, bench))
    return [take_turns(bars.ZMQ, "calls/s", sides, bench.settings.rounds)]
