"""The apps of the benchmarks as one: half of what their small sizes cost is flightserve starting for each of them.

Where a benchmark starts flightserve by one of the commands in `APART`, it gets this app. What it ends goes on for the
next one. `flightserve sql` starts by its own command.
"""

from __future__ import annotations

from typing import Any

import flightserve as fs
from benchmarks import adaptive, harness, micro_batch, models, overload, recovery, sql
from benchmarks.harness import Bench, serving
from benchmarks.processes import Server

APART = {
    harness.FLIGHTSERVE,
    models.APP,
    micro_batch.BESIDE,
    overload.SERVED,
    adaptive.SERVED,
    recovery.SERVED,
    sql.LOOKUPS,
}
# One of two routers is killed.
TOGETHER = (*serving("tests.benchmarks.together:app"), "--routers", "2")


class Together(Bench):
    """A `Bench` whose apps are one."""

    def server(self, *argv: str) -> Server:
        # One that is traced would be one more start, and what it answers is the same.
        return super().server(*(TOGETHER if argv in APART or "--otlp" in argv else argv))

    def end_server(self, *argv: str) -> None:
        if argv not in APART:
            super().end_server(*argv)

    def end_load(self, module: str) -> None:
        """The one with a Ray of its own is wanted twice."""


def __getattr__(name: str) -> Any:
    """`app`, made where it is asked for: tests import this module for the rest."""
    if name != "app":
        raise AttributeError(name)
    # One of them makes a model where there is none.
    from benchmarks import beside, estimating, overloaded, paced
    from benchmarks.lookups import make

    return fs.App(*beside.app, *estimating.app, *overloaded.app, *paced.app, *make())
