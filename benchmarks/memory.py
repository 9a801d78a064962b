"""Memory of each flightserve process, idle and under minutes of mixed load: none may grow.

PSS from `/proc/PID/smaps_rollup`: pages shared by several processes (the segments) count in parts, so the sum is
what the machine gives. The load is HTTP JSON over 32 connections, a pipelined Flight stream of 1 MB batches and 64
gRPC calls in flight, all three at once, started afresh for every slice of time. The first third of the samples
is warm-up; growth is the last third's median against the middle third's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Bar, Figure, Sample
from benchmarks.harness import Bench
from benchmarks.payloads import MB
from benchmarks.processes import Load, descendants
from benchmarks.tiers import apps
from benchmarks.usage import pss_mb

GROWTH_MAX = 1.05
SAMPLES_MIN = 6


def run(bench: Bench) -> Sequence[Figure]:
    """One figure per process: PSS in MB in the last third of the load against the middle third."""
    if not bench.settings.subject:
        return []
    pid = bench.flightserve().process.pid
    names = tier_names()
    idle = tree_pss_mb(pid, names)
    samples, answered = under_load(bench, pid, names)
    after = tree_pss_mb(pid, names)
    minutes = bench.settings.load_minutes
    return [
        figure(f"memory of {name}, {minutes:g} min", [s.get(key, 0.0) for s in samples], answered, notes)
        for key, name, notes in describe(samples[-1], idle, after)
    ]


Key = tuple[int, str]
Pss = Mapping[Key, float]


def describe(keys: Pss, idle: Pss, after: Pss) -> list[tuple[Key, str, str]]:
    """Per process, largest first: its key, its name, and a note on its memory before and after the load."""
    ordered = sorted(keys, key=lambda k: -keys[k])
    return [(k, k[1], f"idle {idle.get(k, 0.0):.1f} MB, after {after.get(k, 0.0):.1f} MB") for k in ordered]


def figure(name: str, values: Sequence[float], answered: int, note: str) -> Figure:
    """The figure of one process from its samples in the order of time."""
    third = len(values) // 3
    middle, last = values[third : 2 * third], values[2 * third :]
    ours, before = tuple(Sample(v, answered // len(last)) for v in last), tuple(Sample(v) for v in middle)
    return Figure(name, "MB", ours, before, Bar("at_most", GROWTH_MAX), notes=(note,))


def under_load(bench: Bench, pid: int, names: Mapping[int, str]) -> tuple[list[Pss], int]:
    """Samples taken while the load runs, one a slice, and how many calls were answered meanwhile."""
    settings = bench.settings
    until = time.monotonic() + settings.load_minutes * 60
    samples: list[Pss] = []
    answered = 0
    while time.monotonic() < until or len(samples) < SAMPLES_MIN:
        loads = start_loads(bench, settings.load_slice_s)
        time.sleep(settings.load_slice_s * 0.9)
        samples.append(tree_pss_mb(pid, names))
        answered += sum(load.answer()["answered"] for load in loads)
    return samples, answered


def start_loads(bench: Bench, seconds: float) -> list[Load]:
    """Send all three load generators their orders for `seconds`."""
    addresses = bench.flightserve().addresses
    http, flight, grpc = bench.load("load.http"), bench.load("load.flight"), bench.load("load.grpc")
    http.order("json", url=bench.http_url("identity"), connections=32, seconds=seconds)
    flight.order("pipelined", url=addresses["flight"], path=["Identity", "identity"], size_bytes=MB, seconds=seconds)
    grpc.order("call", address=addresses["grpc"], in_flight=64, seconds=seconds)
    return [http, flight, grpc]


def tree_pss_mb(pid: int, names: Mapping[int, str] | None = None) -> dict[Key, float]:
    """PSS in MB of a process and all its descendants, by (pid, name). Those that end meanwhile are left out;
    `names` gives better names than the command lines do."""
    names = names or {}
    found: dict[Key, float] = {}
    for each in descendants(pid):
        try:
            found[each, names.get(each) or process_name(each)] = pss_mb(each)
        except OSError:
            continue
    return found


def tier_names() -> dict[int, str]:
    """What flightserve calls its processes, by pid, of all apps on this machine."""
    names: dict[int, str] = {}
    for app in apps():
        names[app["supervisor_pid"]] = "supervisor"
        names.update({child["pid"]: child["name"] for child in app["children"]})
    return names


def process_name(pid: int) -> str:
    """A process's program, or the script or module that its Python runs; `ray::...` where Ray names it."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
    names = [Path(word).name for word in words]
    if names and names[0].startswith("python"):
        if "-m" in words[:3]:
            return words[words.index("-m") + 1]
        return next((name for name in names[1:] if name.endswith(".py")), names[0])
    return names[0] if names else "?"
