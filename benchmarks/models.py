"""A scikit-learn model, JSON with one row a request, against other serving systems.

All have the same file, take the same bodies, answer the same numbers, put as many requests together at most, and have
one process that runs the model. A peer is measured by turns with flightserve and ended before the next one starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import estimator
from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench, serving
from benchmarks.peers import LITSERVE, MOSEC, RAY_SERVE, Peer

# Connections, and what is to be reached at each of them.
BARS = {RAY_SERVE: {32: 4.0, 128: 4.0}, MOSEC: {32: 1.0, 128: 0.9}, LITSERVE: {32: 4.0, 128: 4.0}}
CONNECTIONS = (32, 128)
APP = serving("benchmarks.estimating:app")


def run(bench: Bench) -> Sequence[Figure]:
    """req/s at 32 and 128 connections, by peer; flightserve's own where peers are left out."""
    if not bench.settings.peers:
        return [_own(bench, count) for count in CONNECTIONS]
    figures: list[Figure] = []
    for peer in BARS:
        figures += [_beside(bench, peer, count) for count in CONNECTIONS]
        bench.end_peer(peer, _file())
    bench.end_server(*APP)
    return figures


def _beside(bench: Bench, peer: Peer, connections: int) -> Figure:
    bar = Bar("at_least", BARS[peer][connections])
    return bench.beside(
        peer,
        partial(Figure, f"{_about(connections)} ({peer.name})", "req/s", bar=bar),
        partial(_measure, bench, None, connections),
        partial(_measure, bench, peer, connections),
    )


def _own(bench: Bench, connections: int) -> Figure:
    name = _about(connections)
    rounds = bench.settings.rounds if bench.settings.subject and bench.wants(name) else 0
    return Figure(name, "req/s", tuple(_measure(bench, None, connections) for _ in range(rounds)), compare="value")


def _about(connections: int) -> str:
    return f"scikit-learn model, one-row json, {connections} connections"


def _measure(bench: Bench, peer: Peer | None, connections: int) -> Sample:
    if peer is None:
        url = f"{bench.server(*APP).addresses['http']}/v1/{estimator.NAME}/predict"
    else:
        url = bench.peer(peer, _file()).addresses["http"]
    load, seconds = bench.load("load.http"), bench.settings.seconds
    return load.sample("estimate", "calls_per_s", url=url, model=_file(), connections=connections, seconds=seconds)


def _file() -> str:
    return str(estimator.ensure())
