"""A program that serves classes of its own, which travel by value, and changes its app: `-m tests.control.twins`.

Prints a JSON line for every step.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

import flightserve as fs
from flightserve.errors import FlightserveError
from flightserve.running import Running


def app(version: int, *, fails: bool = False, num_cpus: float = 0.0) -> fs.App:
    """That version of the app; versions differ in nothing but what the class closes over."""

    @fs.deployment(num_cpus=num_cpus)
    class Who:
        def __init__(self) -> None:
            if fails:
                raise OSError("no disk")

        def version(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return pa.RecordBatch.from_pydict({"version": [version] * batch.num_rows})

    return fs.App(Who.bind())


def served(running: Running) -> int:
    """The version that answers."""
    request = urllib.request.Request(
        running.addresses["http"] + "/v1/Who/version",
        b'{"columns": {"x": [1]}}',
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.load(answer)["columns"]["version"][0])


def say(running: Running, step: str, **what: Any) -> None:
    """One line for the test to read."""
    replicas = sum(child.tier == "replica" and child.ready for child in running.status().children)
    print(json.dumps({"step": step, "version": served(running), "replicas": replicas, **what}), flush=True)


def refused(change: Any) -> list[str]:
    """The class and message of the error that it raises."""
    try:
        change()
    except FlightserveError as error:
        return [type(error).__name__, error.message]
    return []


@contextlib.contextmanager
def deaf(running: Running) -> Iterator[None]:
    """Of a change only the beginning is heard in time, as on a machine that is busy."""
    observer: Any = running._launcher._observer
    take = observer._take
    observer._take = lambda view: None if running.told().change else take(view)
    yield
    del observer._take


def main() -> None:
    """All steps."""
    with fs.serve(app(1), http_port=0, grpc_port=None, flight_port=None, zmq_port=None) as running:
        say(running, "served")
        say(running, "scaled", done=running.scale({"Who": 2}))
        say(running, "unknown", error=refused(lambda: running.scale({"Whom": 2})))
        say(running, "none", error=refused(lambda: running.scale({"Who": 0})))
        # Two replicas that hold all cores: no room for a third.
        half = (os.cpu_count() or 1) / 2
        running.deploy(app(2, num_cpus=half))
        say(running, "deployed")
        with deaf(running):
            running.deploy(app(5, num_cpus=half), in_place=True)
            say(running, "in place", under_way=running.status().change)
        replace(running)


def replace(running: Running) -> None:
    """Serve again what is served, and something else beside it, which is left alone."""
    ports: Any = {"grpc_port": None, "flight_port": None, "zmq_port": None}
    beside = fs.serve(fs.App(other=app(7).bound[0]), replace=True, **ports)
    wrong = refused(lambda: fs.serve(app(8), replace=True, http_port="8080"))  # type: ignore[arg-type]
    say(running, "kept", error=wrong)
    before, running = running, fs.serve(app(6), replace=True, **ports)
    say(running, "replaced", same=running.addresses == before.addresses, error=refused(before.status))
    failed = refused(lambda: fs.serve(app(9, fails=True), replace=True, **ports))
    # Nobody keeps what these return, and both end with the program.
    again = fs.serve(app(9), replace=True, **ports)
    same = again.addresses == before.addresses
    say(again, "again", error=failed, beside=beside.status().phase, same=same)


if __name__ == "__main__":
    main()
