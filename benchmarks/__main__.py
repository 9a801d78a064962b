"""`python -m benchmarks`: measure, print the table, write the JSON.

Exit code 1 when a benchmark could not be measured; a bar that is missed is for the reader to judge.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from benchmarks import report, suite
from benchmarks.figures import Figure
from benchmarks.harness import Bench, Settings
from benchmarks.processes import ProcessFailed


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings the arguments ask for."""
    settings = Settings.small() if arguments.small else Settings()
    given = {k: getattr(arguments, k) for k in ("rounds", "seconds", "load_minutes")}
    chosen = {k: v for k, v in given.items() if v is not None}
    return dataclasses.replace(
        settings, subject=not arguments.baselines_only, figures=tuple(arguments.figure), **chosen
    )


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this benchmark (repeatable)")
    parser.add_argument(
        "--figure", action="append", default=[], metavar="TEXT", help="figures with this in their name (repeatable)"
    )
    parser.add_argument("--small", action="store_true", help="the size the tests run, in seconds")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the JSON goes")
    parser.add_argument("--rounds", type=int, help="rounds, each side measured once in each")
    parser.add_argument("--seconds", type=float, help="seconds of one side of a round")
    parser.add_argument("--load-minutes", type=float, help="minutes of load for the memory figures")
    parser.add_argument("--baselines-only", action="store_true", help="leave flightserve out")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{b.name:12} {b.about}" for b in suite.SUITE))
        return 0
    try:
        benchmarks = suite.chosen(arguments.only)
    except KeyError as error:
        parser.error(error.args[0])
    settings = settings_of(arguments)
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    with Bench(settings) as bench:
        for benchmark in benchmarks:
            print(f"measuring {benchmark.name} ...", file=sys.stderr, flush=True)
            try:
                figures += benchmark.run(bench)
            except (ProcessFailed, OSError) as error:  # the others can still be measured
                failures[benchmark.name] = str(error)
        figures = [figure for figure in figures if bench.wants(figure.name)]
    print(report.table(figures))
    document = report.as_json(figures, dataclasses.asdict(settings), failures)
    print(f"\nJSON: {report.write_json(document, arguments.json)}")
    for name, reason in failures.items():
        print(f"\n{name} failed: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
