"""What an app of 1,000 nodes and 10,000 replicas asks of its supervisor, its routers and their carriers.

The processes are not there: what is measured is what one of them would have to do. The supervisor's part and the
routers' machines run in the simulation (`benchmarks/scale_simulation.py`), whose stopwatch counts processor time; the
routing table is one that the simulated supervisor publishes; a router's frames are encoded and decoded as its
connections do it. Only carried connections are real ones, on loopback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from benchmarks import carried
from benchmarks.figures import Figure, Sample
from benchmarks.harness import Bench
from benchmarks.scale_simulation import BUSY, SMALL, STATISTICS, ManyNodes, Size
from flightserve.clock import NS_PER_S
from flightserve.control.messages import Inbox, Publish, Report, encode
from flightserve.wire import frames
from flightserve.wire.table import seen_from

ROUNDS: Final = 5


def run(bench: Bench) -> Sequence[Figure]:
    """The simulation once, then what its routing table costs."""
    if not bench.settings.subject:
        return []
    size = SMALL if bench.settings.brief else Size()
    world, busy = ManyNodes(size), ManyNodes(SMALL if bench.settings.brief else BUSY)
    world.run()
    busy.run()
    connections = carried.CONNECTIONS_BRIEF if bench.settings.brief else carried.CONNECTIONS
    return [*_supervision(world), *_distribution(world), *_routing(world, busy), *_carrying(connections)]


def _figure(name: str, unit: str, value: float, *notes: str, answered: int = 0) -> Figure:
    return Figure(name, unit, (Sample(value, answered, answered),), compare="value", notes=notes)


def _supervision(world: ManyNodes) -> list[Figure]:
    watch, seconds = world.watch, world.size.seconds
    children = sum(world.places.values())
    each = {name: f"{watch.times[name]} times" for name in watch.times}
    busy = sum(watch.spent_ns[what] for what in ("round", "report", "table", "place")) / NS_PER_S / seconds
    return [
        _figure("children", "", children),
        _figure("supervisor: a heartbeat", "us", watch.each_us("report"), each["report"]),
        _figure("supervisor: a heartbeat decoded", "us", _cpu_ms(lambda: Inbox().feed(_report()), 200) * 1e3),
        _figure("supervisor: a round of reconciling", "ms", watch.each_us("round") / 1e3, each["round"]),
        _figure("supervisor: a node for one replica", "us", watch.each_us("place"), each["place"]),
        _figure("supervisor: making the table", "ms", watch.each_us("table") / 1e3, each["table"]),
        _figure("supervisor: busy with all of these, without sending", "s/s", busy),
        _figure("a rack dies: until all is as it was", "s", (world.healed_ns - world.down_ns) / NS_PER_S),
    ]


def _distribution(world: ManyNodes) -> list[Figure]:
    table = world.roster.table(world.now_ns)
    data = encode(Publish(table))
    parts = {
        "processes": table.peers,
        "deployments": (table.deployments, table.others),
        "counters": table.metrics,
    }
    shares = [f"{name} {len(msgspec.msgpack.encode(part)) / len(data):.0%}" for name, part in parts.items()]
    children = sum(world.places.values())
    return [
        _figure("routing table", "MB", len(data) / 1e6, ", ".join(shares)),
        _figure("routing table: encoded", "ms", _cpu_ms(lambda: encode(Publish(table)))),
        _figure("routing table: decoded, by each child", "ms", _cpu_ms(lambda: Inbox().feed(data))),
        _figure(
            "routing table: as another node sees it, by each child", "ms",
            _cpu_ms(lambda: seen_from(table, "another", "carrier")),
        ),
        _figure("routing table: to all children, once", "GB", len(data) * children / 1e9),
        _figure("heartbeats to the supervisor", "1/s", children * 2, f"{len(_report())} bytes each"),
    ]  # fmt: skip


def _routing(world: ManyNodes, busy: ManyNodes) -> list[Figure]:
    codec_us = _cpu_ms(_frames_of_a_call, 200) * 1e3
    return [
        _machine("router: machine, a request", world),
        _machine("router: machine, a request of a busy deployment", busy),
        _figure("router: frames of a request encoded and decoded", "us", codec_us),
    ]


def _machine(name: str, world: ManyNodes) -> Figure:
    asked, events = world.outcomes["asked"], world.watch.times["route"]
    note = f"{world.far / max(1, asked):.0%} of the requests went to another node; {events} events"
    return _figure(name, "us", world.watch.spent_ns["route"] / max(1, asked) / 1e3, note, answered=asked)


def _carrying(connections: int) -> list[Figure]:
    threads, nbytes, seconds = carried.measure(connections)
    return [
        _figure("carrier: a carried connection, threads", "", threads, answered=connections),
        _figure("carrier: a carried connection, memory", "kB", nbytes / 1e3, answered=connections),
        _figure("carrier: a carried connection, made by both", "ms", seconds * 1e3, answered=connections),
    ]


def _report() -> bytes:
    return encode(Report(True, STATISTICS, 1))


def _frames_of_a_call() -> None:
    """A request, its micro-batch, the answer, and the answer on."""
    region = frames.Region(1, 1, 4096, 512, 5)
    decoder = frames.FrameDecoder()
    part = frames.Part(1, 0, 16, 1 << 40, 0)
    decoder.feed(frames.encode([frames.Submit("a@1", "run", region, [part], 1)]))
    frames.encode([frames.Execute(1, "run", [region], [part])])
    decoder.feed(frames.encode([frames.Done(1, region, 16, True, busy_ns=1000)]))
    frames.encode([frames.Results(region, [frames.Item(1, 0, 16, True)])])


def _cpu_ms(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The least processor time of some rounds: the machine is not ours alone."""
    spent = []
    for _ in range(rounds):
        begun_ns = time.thread_time_ns()
        act()
        spent.append(time.thread_time_ns() - begun_ns)
    return min(spent) / 1e6
