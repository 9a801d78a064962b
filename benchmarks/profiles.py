"""`make profiles`: where each process spends its time under load, as text in `docs/measurements/profiles/`.

A sampler (py-spy) looks from outside at the Python stack of every thread that runs, some hundred times a second, while
a load generator of the benchmarks is at work. Beside its shares stands what the kernel counted: processor time of each
process for a call, and how much of that was the kernel's own. The sampler takes some of the same cores, so rates are
lower than `make bench` has them; shares are what to read.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import data_plane, flight, grpc_call, http_json, sql, zmq_call
from benchmarks.harness import Bench, Settings
from benchmarks.processes import Load
from benchmarks.tiers import children_of
from benchmarks.usage import Used, threads_ns

FOLDER: Final = Path(__file__).parent.parent / "docs" / "measurements" / "profiles"
SAMPLES_PER_S: Final = 250
# Lines of each list. What is further down is under a percent.
FUNCTIONS_MAX: Final = 25
SAMPLER: Final = "py-spy"
# Threads of libraries, as gRPC's.
NO_PYTHON: Final = "threads without Python"
_THREAD: Final = re.compile(r"thread \((\d+)\)(?:: )?(.*)")


class Under(NamedTuple):
    """A system and what loads it: the processes by what they are called, the generator, and the order that it gets."""

    processes: Mapping[str, int]
    load: Load
    order: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One profile: the name of its file, what is measured, and what starts it."""

    name: str
    about: str
    start: Callable[[Bench], Under]


def _tiers(pid: int) -> dict[str, int]:
    return {child["name"]: child["pid"] for child in children_of(pid) if child["tier"] != "standby"}


def _plane(bench: Bench) -> Under:
    name = data_plane.start_plane(bench)
    pids = {role: bench.server("-m", "benchmarks.plane", role, name).process.pid for role in ("router", "replica")}
    load = bench.load(data_plane.LOAD)
    return Under({"caller": load.process.pid, **pids}, load, "call", {"name": name, "size_bytes": 0})


def _http(connections: int) -> Callable[[Bench], Under]:
    def start(bench: Bench) -> Under:
        tiers = _tiers(bench.flightserve().process.pid)
        url = bench.http_url("identity")
        return Under(tiers, bench.load(http_json.LOAD), "json", {"url": url, "connections": connections})

    return start


def _flight(order: str, **arguments: Any) -> Callable[[Bench], Under]:
    def start(bench: Bench) -> Under:
        server = bench.flightserve()
        where = {"url": server.addresses["flight"], "path": flight.PATH}
        return Under(_tiers(server.process.pid), bench.load(flight.LOAD), order, where | arguments)

    return start


def _grpc(bench: Bench) -> Under:
    server = bench.flightserve()
    where = {"address": server.addresses["grpc"], "in_flight": grpc_call.IN_FLIGHT}
    return Under(_tiers(server.process.pid), bench.load(grpc_call.LOAD), "call", where)


def _zmq(bench: Bench) -> Under:
    server = bench.flightserve()
    where = {"address": server.addresses["zmq"], "in_flight": zmq_call.IN_FLIGHT}
    return Under(_tiers(server.process.pid), bench.load(zmq_call.LOAD), "dealer", where)


def _small_query(bench: Bench) -> Under:
    server = sql.warehouse(bench)
    return Under(
        _tiers(server.process.pid), bench.load(sql.LOAD), "small_adbc", {"address": server.addresses["flight"]}
    )


CASES: Final = (
    Case("data-plane-16-rows", "One call of 16 rows at a time, caller to replica and back, without Ray", _plane),
    Case("http-json-32", "HTTP JSON, 10 numbers, 32 connections", _http(32)),
    Case("http-json-128", "HTTP JSON, 10 numbers, 128 connections", _http(128)),
    Case("flight-ping-pong", "Flight DoExchange, 16 rows, one stream", _flight("ping_pong", streams=1)),
    Case("flight-16-streams", "Flight DoExchange, 16 rows, 16 streams", _flight("ping_pong", streams=16)),
    Case("flight-pipelined", "Flight DoExchange, 16 rows, one stream pipelined", _flight("pipelined", size_bytes=0)),
    Case("grpc-64", "gRPC Call, 16 rows, 64 in flight", _grpc),
    Case("zmq-64", "ZeroMQ DEALER, 16 rows, 64 in flight", _zmq),
    Case("sql-small-query", "A query of one row over ADBC, one at a time", _small_query),
)


class Stacks:
    """What the sampler saw of one process, each thread's samples weighed by the processor time that it had: a thread
    that sleeps looks to the sampler like one that runs."""

    def __init__(self, lines: Iterable[str], used_ns: Mapping[int, int]) -> None:
        """Lines as `thread (number): name;frame;frame count`, the outermost frame first; processor time by thread."""
        self.own: collections.Counter[str] = collections.Counter()
        self.within: collections.Counter[str] = collections.Counter()
        seen: dict[int, list[tuple[list[str], int]]] = {}
        for line in lines:
            stack, _, count = line.rstrip().rpartition(" ")
            thread, *frames = stack.split(";")
            number, name = _THREAD.fullmatch(thread).groups()  # type: ignore[union-attr]
            seen.setdefault(int(number), []).append(([f"thread {name}", *frames], int(count)))
        self.whole_ns = sum(used_ns.values())
        for number, ns in used_ns.items():
            stacks = seen.get(number, [([NO_PYTHON], 1)])
            samples = sum(count for _, count in stacks)
            for frames, times in stacks:
                self._add(frames, ns * times // samples)

    def _add(self, frames: Sequence[str], ns: int) -> None:
        self.own[frames[-1]] += ns
        # A function that calls itself is in a stack more than once.
        for frame in set(frames):
            self.within[frame] += ns

    def tables(self) -> list[str]:
        """The two lists: where it was, and what it was inside of."""
        return [*self._table("in the function itself", self.own), "", *self._table("in it and below", self.within)]

    def _table(self, head: str, counts: collections.Counter[str]) -> list[str]:
        lines = [f"{100 * ns / self.whole_ns:5.1f}  {frame}" for frame, ns in counts.most_common(FUNCTIONS_MAX)]
        return [f"    %  {head}", *lines]


def take(case: Case, bench: Bench, seconds: float) -> str:
    """Run the load, and look; the profile as text."""
    under = case.start(bench)
    under.load.run(under.order, seconds=1.0, **under.arguments)
    with tempfile.TemporaryDirectory(prefix="flightserve-bench-") as folder:
        before = {name: Used.of(pid) for name, pid in under.processes.items()}
        threads = {name: threads_ns(pid) for name, pid in under.processes.items()}
        under.load.order(under.order, seconds=seconds + 1.0, **under.arguments)
        files = _sample(under.processes, Path(folder), seconds)
        answer = under.load.answer()
        used = {name: Used.of(pid).since(before[name]) for name, pid in under.processes.items()}
        stacks = {
            name: Stacks(file.read_text().splitlines(), _since(threads[name], threads_ns(under.processes[name])))
            for name, file in files.items()
        }
    return "\n".join(_page(case, answer, used, stacks)) + "\n"


def _since(before: Mapping[int, int], now: Mapping[int, int]) -> dict[int, int]:
    return {number: ns - before.get(number, 0) for number, ns in now.items()}


def _sample(processes: Mapping[str, int], folder: Path, seconds: float) -> dict[str, Path]:
    """Of all processes at once. Raises SystemExit where it may not look at them."""
    files = {name: folder / name for name in processes}
    options = ("--format", "raw", "--function", "--threads", "--nonblocking", "--rate", str(SAMPLES_PER_S))
    command = [_sampler(), "record", *options, "--duration", f"{seconds:.0f}"]
    samplers = [
        subprocess.Popen(
            [*command, "--output", str(files[name]), "--pid", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, pid in processes.items()
    ]
    for sampler in samplers:
        _, said = sampler.communicate()
        if sampler.returncode:
            raise SystemExit(f"{SAMPLER} could not look (it needs ptrace, as root has it): {said.strip()[-400:]}")
    return files


def _sampler() -> str:
    found = shutil.which(SAMPLER, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        raise SystemExit(f"{SAMPLER} is not installed; it is in the extra `bench`")
    return found


def _page(
    case: Case, answer: Mapping[str, Any], used: Mapping[str, Used], stacks: Mapping[str, Stacks]
) -> Sequence[str]:
    answered = int(answer["answered"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines = [
        case.about,
        f"{datetime.date.today()}, commit {commit.stdout.strip() or '?'}, {len(os.sched_getaffinity(0))} cores,"
        f' `make profiles ARGS="--only {case.name}"`: {answered:,} calls',
    ]
    for name, spent in used.items():
        both_s = sum(spent)
        head = f"{name}: {1e6 * both_s / answered:.1f} us of processor time a call"
        lines += ["", f"{head}, {100 * spent.system_s / both_s if both_s else 0:.0f} % of it the kernel's"]
        if stacks[name].whole_ns:
            lines += ["", *stacks[name].tables()]
    return lines


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=__doc__)
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES], help="this one (repeatable)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of looking, for each")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the texts go")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        print(f"looking at {case.name} ...", file=sys.stderr, flush=True)
        with Bench(Settings(seconds=arguments.seconds)) as bench:
            text = take(case, bench, arguments.seconds)
        (arguments.folder / f"{case.name}.txt").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
