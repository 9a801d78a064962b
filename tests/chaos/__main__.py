"""`python -m tests.chaos`: a chaos run, its tables, and its result as JSON. Exit status 1 where a check failed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from tests.chaos import faults, report
from tests.chaos.run import Options, Run

RESULT = Path("benchmarks/results/chaos.json")


def options_of(arguments: argparse.Namespace) -> Options:
    """The options that the command line asks for."""
    return Options(
        seconds=arguments.minutes * 60,
        fault_every_s=arguments.fault_every,
        seed=arguments.seed,
        rate=arguments.rate,
        replicas=arguments.replicas,
        routers=arguments.routers,
        frontends=arguments.frontends,
        kinds=arguments.faults.split(",") if arguments.faults else faults.kinds(arguments.nodes),
        nodes=arguments.nodes,
    )


def main() -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    option = parser.add_argument
    option("--minutes", type=float, default=10.0, help="how long faults are made (default: %(default)s)")
    option("--fault-every", type=float, default=5.0, metavar="SECONDS", help="(default: %(default)s)")
    option("--seed", type=int, default=1, help="of arrivals and faults (default: %(default)s)")
    option("--rate", type=float, default=0.0, help="requests a second (default: half of the capacity)")
    option("--faults", default="", metavar="KIND,...", help=f"only these of {', '.join(faults.kinds(2))}")
    option("--replicas", type=int, default=2, metavar="N", help="of each of two deployments (default: %(default)s)")
    option("--routers", type=int, default=2, metavar="N", help="(default: %(default)s)")
    option("--frontends", type=int, default=2, metavar="N", help="(default: %(default)s)")
    option("--nodes", type=int, default=1, metavar="N", help="Ray nodes, of which all but the first break, too")
    option("--json", type=Path, default=RESULT, help="where the result goes (default: %(default)s)")
    option("--keep", action="store_true", help="leave the histories and logs where they are, and say where")
    arguments = parser.parse_args()
    # Short: Ray's sockets lie in it.
    directory = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    result = Run(options_of(arguments), directory).execute()
    print(report.render(result))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(dataclasses.asdict(result), indent=1))
    if arguments.keep or result.violations:
        print(f"\nhistories and logs: {directory}")
    else:
        _remove(directory)
    return 1 if result.violations else 0


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    directory.rmdir()


if __name__ == "__main__":
    sys.exit(main())
