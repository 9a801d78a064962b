"""A whole system: the time from its command to the first answer, and what memory it takes then, idle.

One replica that answers what it gets, all of a system's processes, none of another's.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contests import bars
from benchmarks.contests.contest import FAILURES, OURS, Contest, reason_of
from benchmarks.contests.cost import Cost
from benchmarks.contests.over_http import NUMBERS
from benchmarks.figures import Sample
from benchmarks.harness import Bench
from benchmarks.load.orders import WrongAnswer
from benchmarks.peers import RAY_SERVE, RAY_SERVE_DEFAULT, Peer, work
from benchmarks.processes import Server
from benchmarks.ten_numbers import NAME

ROUNDS_MAX = 3
# Until what a start leaves to do is done.
SETTLE_S = 5.0
ANSWER_TIMEOUT_S = 30.0


def starts(bench: Bench) -> list[Contest]:
    """Each system, once in every round."""
    cold, idle = Contest(bars.COLD, "s"), Contest(bars.IDLE, "MB")
    peers = (RAY_SERVE_DEFAULT, RAY_SERVE)
    for each in peers:
        if not each.is_installed:
            cold.skipped[each.name] = idle.skipped[each.name] = each.left_out
    entrants: tuple[Peer | None, ...] = (None, *peers)
    for _ in range(min(bench.settings.rounds, ROUNDS_MAX)):
        for peer in entrants:
            name = peer.name if peer else OURS
            if name in cold.skipped:
                continue
            try:
                seconds, memory_mb = start_once(peer)
            except FAILURES as error:
                cold.skipped[name] = idle.skipped[name] = reason_of(error)
                continue
            cold.sides[name] = (*cold.sides.get(name, ()), Sample(seconds, 1, 1))
            idle.sides[name] = (*idle.sides.get(name, ()), Sample(memory_mb))
    return [idle, cold]


def start_once(peer: Peer | None) -> tuple[float, float]:
    """Seconds to the first answer, and MB of memory some seconds later, of a peer or of flightserve."""
    begun = time.monotonic()
    with _server(peer) as server:
        url = server.addresses["http"] + ("" if peer else f"/v1/{NAME}/identity")
        ask(url)
        seconds = time.monotonic() - begun
        time.sleep(SETTLE_S)
        return seconds, Cost.of([server.process.pid]).pss_mb()


def _server(peer: Peer | None) -> Server:
    if peer is None:
        return Server(NUMBERS)
    argv: Sequence[str] = ("-m", f"benchmarks.peers.{peer.module}", work.IDENTITY, *peer.options)
    return Server(argv, str(Path(peer.environment.python)))


def ask(url: str) -> None:
    """One request; raises WrongAnswer unless it comes back."""
    columns = work.probe(work.IDENTITY)
    body = json.dumps({"columns": columns}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
        said = json.loads(answer.read())
    if said != {"columns": columns}:
        raise WrongAnswer(f"{said}")
