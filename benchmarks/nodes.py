"""Two nodes on one machine: a replica that is reached by way of two carriers, against one beside the router.

Caller, router, replicas and carriers are processes of their own, without Ray and without a protocol in front; between
the carriers is TCP on loopback.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB
from benchmarks.peers import RAY, RAY_SERVE
from benchmarks.plane import SECURED
from benchmarks.processes import Load, free_port

LOAD = "load.data_plane"
PARTS_PER_S = 40
STREAM_BYTES = 10 * MB
IN_FLIGHT = 8
RAY_FAR = "peers.ray_far"


def run(bench: Bench) -> Sequence[Figure]:
    """Latency of a small call to another node against one to this; a stream of large parts against bare Flight; what
    local callers see while the link is full; 1 MB there and back against Ray Serve on a second node."""
    seconds = bench.settings.seconds
    name, ports = start_nodes(bench)
    parts = max(4, int(PARTS_PER_S * seconds))

    def call(far: bool, figure: str = "p50_us") -> Sample:
        return bench.load(LOAD).sample("call", figure, name=name, size_bytes=0, seconds=seconds / 2, far=far)

    def stream() -> Sample:
        return bench.load(LOAD).sample(
            "stream", "gb_per_s", name=name, size_bytes=STREAM_BYTES, parts=parts, ports=ports
        )

    def bare() -> Sample:
        url = bench.bare("flight").addresses["flight"]
        return bench.load("load.flight").sample("get", "gb_per_s", url=url, size_bytes=STREAM_BYTES, parts=parts)

    def requests() -> Sample:
        return bench.load(LOAD).sample(
            "flow", "gb_per_s", name=name, size_bytes=MB, seconds=seconds, in_flight=IN_FLIGHT, far=True
        )

    def handles() -> Sample:
        load = bench.load(RAY_FAR, str(RAY.python))
        return load.sample("flow", "gb_per_s", size_bytes=MB, seconds=seconds, in_flight=IN_FLIGHT)

    def beside_a_full_link() -> Sample:
        ended = threading.Event()
        with Load(f"benchmarks.{LOAD}") as other:

            def fill() -> None:
                while not ended.is_set():
                    other.sample("stream", "gb_per_s", name=name, size_bytes=STREAM_BYTES, parts=parts, ports=ports)

            filling = threading.Thread(target=fill)
            filling.start()
            try:
                return call(False, "p99_us")
            finally:
                ended.set()
                filling.join()

    far = partial(
        Figure, "another node, 16 rows, p50 (the same node)", "us", bar=Bar("at_most", 2.5), compare="of_baseline"
    )
    flow = partial(
        Figure, "another node, a stream of 10 MB parts (bare Flight DoGet)", "GB/s", bar=Bar("at_least", 0.7)
    )
    beside = partial(
        Figure, "local calls while the link to another node is full, p99 (before)", "us", bar=Bar("at_most", 1.2),
        compare="of_baseline",
    )  # fmt: skip
    figures = [bench.alternate(far, partial(call, True), partial(call, False))]
    figures.append(bench.alternate(flow, stream, bare))
    figures.append(bench.alternate(beside, beside_a_full_link, partial(call, False, "p99_us")))
    figures += _encrypted(bench, name, ports, parts)
    if bench.settings.peers:
        peer = partial(Figure, "another node, 1 MB there and back (Ray Serve, handles)", "GB/s", bar=Bar("at_least", 5))
        figures.append(bench.beside(RAY_SERVE, peer, requests, handles))
        bench.end_load(RAY_FAR)
    return figures


def _encrypted(bench: Bench, name: str, ports: list[int], parts: int) -> list[Figure]:
    """The same call and the same stream between two nodes that encrypt what passes, against those that do not."""
    secured, secured_ports = start_nodes(bench, SECURED)
    seconds = bench.settings.seconds / 2

    def call(which: str) -> Sample:
        return bench.load(LOAD).sample("call", "p50_us", name=which, size_bytes=0, seconds=seconds, far=True)

    def stream(which: str, to: list[int]) -> Sample:
        return bench.load(LOAD).sample("stream", "gb_per_s", name=which, size_bytes=STREAM_BYTES, parts=parts, ports=to)

    calls = partial(Figure, "another node, encrypted, 16 rows, p50 (not encrypted)", "us", compare="of_baseline")
    streams = partial(Figure, "another node, encrypted, a stream of 10 MB parts (not encrypted)", "GB/s")
    return [
        bench.alternate(calls, partial(call, secured), partial(call, name)),
        bench.alternate(streams, partial(stream, secured, secured_ports), partial(stream, name, ports)),
    ]


def start_nodes(bench: Bench, *how: str) -> tuple[str, list[int]]:
    """A router with a replica beside it, and one on another node; the name they meet under, and the carriers' ports.
    `how` the carriers are told to be."""
    name, ports = f"flightserve-bench-{secrets.token_hex(6)}", [free_port(), free_port()]
    told = [str(port) for port in ports]
    bench.server("-m", "benchmarks.plane", "router", name)
    bench.server("-m", "benchmarks.plane", "replica", name)
    for node in ("home", "far"):
        bench.server("-m", "benchmarks.plane", "carrier", name, node, *told, *how)
    bench.server("-m", "benchmarks.plane", "far", name, *told)
    return name, ports
