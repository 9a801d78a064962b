"""The registry: every benchmark by name, in the order they run."""

from __future__ import annotations

from benchmarks import (
    adaptive,
    connect,
    data_plane,
    flight,
    grpc_call,
    http_arrow,
    http_json,
    kserve,
    memory,
    micro_batch,
    models,
    nodes,
    overload,
    overload_sweep,
    pipelines,
    policy_cost,
    recovery,
    scale,
    secure,
    sql,
    startup,
    zmq_call,
)
from benchmarks.harness import Benchmark

SUITE = (
    Benchmark("data_plane", "frontend to replica and back inside the data plane", data_plane.run),
    Benchmark("pipelines", "stages of a pipeline inside the data plane", pipelines.run),
    Benchmark("nodes", "a replica on another node: latency, GB/s, what local calls see", nodes.run),
    Benchmark("flight", "Flight DoExchange: latency, calls/s, GB/s", flight.run),
    Benchmark("secure", "what it costs to say who one is, TLS, and traces", secure.run),
    Benchmark("connect", "fs.connect by memory against DoExchange: latency, GB/s", connect.run),
    Benchmark("grpc_call", "gRPC Call, 64 in flight", grpc_call.run),
    Benchmark("kserve", "KServe v2 by tritonclient: 1 MB against DoExchange, 64 in flight", kserve.run),
    Benchmark("zmq_call", "ZeroMQ DEALER, 64 in flight", zmq_call.run),
    Benchmark("http_json", "HTTP JSON at 32 and 128 connections", http_json.run),
    Benchmark("models", "a scikit-learn model over HTTP JSON, against Ray Serve, mosec and LitServe", models.run),
    Benchmark("http_arrow", "HTTP Arrow body", http_arrow.run),
    Benchmark("micro_batch", "rows per replica call under load", micro_batch.run),
    Benchmark("memory", "memory of each process under minutes of load", memory.run),
    Benchmark("simulation", "overload of the router's machine in simulated time", overload_sweep.run),
    Benchmark("policy_cost", "the deadline policy against FIFO in the router's machine", policy_cost.run),
    Benchmark("overload", "goodput, misses, refusals and urgent requests at twice the capacity", overload.run),
    Benchmark("adaptive", "p99 against a latency target, from little load to too much", adaptive.run),
    Benchmark("recovery", "how long callers wait after SIGKILL of a replica or a router", recovery.run),
    Benchmark("scale", "1,000 nodes and 10,000 replicas on paper: supervisor, routing table, routers", scale.run),
    Benchmark("sql", "TPC-H, scans, small queries and merged lookups against DuckDB and ROAPI", sql.run),
    Benchmark("startup", "from `flightserve run` to `ready`", startup.run),
)


def chosen(names: list[str]) -> tuple[Benchmark, ...]:
    """The benchmarks of those names in the suite's order, all for none; raises KeyError with an unknown name."""
    known = {b.name: b for b in SUITE}
    for name in names:
        if name not in known:
            raise KeyError(f"no benchmark {name!r}; there are {', '.join(known)}")
    return tuple(b for b in SUITE if not names or b.name in names)
