"""`make bench-peers`: flightserve beside other systems and bare servers; prints tables, writes JSON.

Systems of one contest take turns; those whose processes are never idle run alone with flightserve. A system that cannot
be installed or started is left out, with its reason. `--slowed 0.5` gives everything half of each core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.contests import bars, charts, over_http, over_rpc, over_sql, tables, whole
from benchmarks.contests.contest import Contest
from benchmarks.figures import Figure
from benchmarks.harness import Bench, Settings
from benchmarks.load import programs
from benchmarks.peers import ALL
from benchmarks.slowing import SlowingFailed, machine_of

Part = Callable[[Bench], list[Contest]]
# The first one first: it wants nothing else to run.
PARTS: dict[str, Part] = {
    "whole": whole.starts,
    "data_plane": over_rpc.plane,
    "json": over_http.light,
    "ray_serve": over_http.ray_serve,
    "arrow": over_http.arrow,
    "grpc": over_rpc.grpc,
    "flight": over_rpc.exchanges,
    "zmq": over_rpc.zmq,
    "open_loop": over_http.open_loop,
    "sql": over_sql.queries,
}
ROUNDS, SECONDS = 5, 2.0


def hold(names: Sequence[str], settings: Settings) -> tuple[list[Contest], dict[str, str]]:
    """The contests of those parts, and the parts that failed as a whole, with why. Each has processes of its own."""
    contests: list[Contest] = []
    failures: dict[str, str] = {}
    for name, part in PARTS.items():
        if names and name not in names:
            continue
        begun = time.monotonic()
        try:
            with Bench(settings) as bench:
                contests += part(bench)
        except Exception as error:  # what the others gave took minutes
            failures[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return contests, failures


def document_of(contests: Sequence[Contest], settings: Settings, share: float | None, failures: dict[str, str]) -> Any:
    """The run, for JSON."""
    about = dataclasses.asdict(settings) | {
        "slowed": share,
        "programs": [name for name in ("wrk", "h2load") if programs.found(name)],
        "peers": {environment.name: environment.version(environment.name) for environment in ALL},
    }
    figures = bars.figures(contests, bool(share))
    return report.as_json(figures, about, failures) | {"contests": [contest.as_dict() for contest in contests]}


def results_of(document: Any) -> tuple[list[Contest], list[Figure]]:
    """The contests of a run, and the bars."""
    contests = [Contest.of_dict(each) for each in document["contests"]]
    return contests, bars.figures(contests, bool(document["settings"]["slowed"]))


def show(document: Any) -> str:
    """The tables of a run."""
    contests, figures = results_of(document)
    return f"{tables.about(document)}\n\n{tables.bars(figures)}\n\n{tables.systems(contests)}"


def draw(document: Any, folder: Path | None) -> None:
    """The pictures of a run; none without a folder."""
    for path in charts.draw(*results_of(document), folder) if folder else ():
        print(f"picture: {path}")


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contests", description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=PARTS, help="this part (repeatable)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds, each system measured once in each")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one system's turn")
    parser.add_argument("--slowed", type=float, metavar="SHARE", help="of each core that everything gets, as 0.5")
    parser.add_argument("--frontends", type=int, default=1, metavar="N", help="of flightserve, on shared ports")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="where PNGs go; beside the JSON by default")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: print what this JSON tells")
    return parser.parse_args(argv)


def main() -> int:
    """Run the command."""
    arguments = arguments_of()
    if arguments.show:
        document = json.loads(arguments.show.read_text())
        print(show(document))
        draw(document, arguments.pictures)
        return 0
    settings = Settings(rounds=arguments.rounds, seconds=arguments.seconds, frontends=arguments.frontends)
    try:
        _, machine = machine_of(arguments.slowed, None)
        with machine:
            contests, failures = hold(arguments.only, settings)
    except SlowingFailed as error:
        print(error, file=sys.stderr)
        return 2
    document = document_of(contests, settings, arguments.slowed, failures)
    print(show(document))
    print(f"\nJSON: {(written := report.write_json(document, arguments.json))}")
    draw(document, arguments.pictures or written.with_suffix(""))
    for name, reason in failures.items():
        print(f"\n{name} failed: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
