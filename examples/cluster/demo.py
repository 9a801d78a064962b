"""`make cluster`: the flights on three Ray nodes of this machine; one of them dies under load, and nothing is lost.

As root each node but the first is in a network namespace of its own (`nodes`). Callers ask over HTTP, each for its own
flights, and compare every answer with what the class says when it is called directly. Then all processes of a node that
has replicas are killed at once, and later the node is started again. Exit status 1 where an answer was wrong, or none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from examples.cluster.app import PLACES
from examples.cluster.nodes import Nodes
from examples.flights.app import Flights
from examples.flights.launch import FREE_PORTS, ROOT, START_TIMEOUT_S, STOP_TIMEOUT_S, StartFailed
from flightserve.control.names import running_apps
from flightserve.control.observer import ask_view

NODES = 3
CALLERS = 4
ROWS = 20
STATUS_TIMEOUT_S = 30.0
BACK_S_MAX = 60.0
POLL_S = 0.2
AFTER_S = 10.0


@dataclass
class Tally:
    """What callers saw: how many answers, how many of them wrong, what errors; when each call ended, and how long it
    took, in seconds."""

    answered: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, right: bool, error: str, took_s: float) -> None:
        """One call."""
        with self.lock:
            self.answered += not error
            self.wrong += not right and not error
            self.errors += [error] if error else []
            self.ended.append(time.monotonic())
            self.took.append(took_s)


def flights(caller: int, turn: int) -> list[dict[str, Any]]:
    """Rows that no other caller and no other turn has."""
    return [
        {
            "carrier": f"C{caller}",
            "flight": turn * ROWS + number,
            "origin": "JFK",
            "dest": "LAX",
            "dep_delay": number - 5,
            "arr_delay": None if number % 7 == 0 else number - turn % 30,
        }
        for number in range(ROWS)
    ]


def call(url: str, caller: int, tally: Tally, ended: threading.Event) -> None:
    """Ask until it is ended."""
    direct = Flights()
    with httpx.Client(timeout=30) as client:
        turn = 0
        while not ended.is_set():
            rows = flights(caller, turn)
            turn += 1
            begun = time.monotonic()
            right, error = False, ""
            try:
                got = client.post(url, json={"rows": rows})
                if got.status_code == 200:
                    right = answered(got.json()) == [direct.explain(row) for row in rows]
                else:
                    error = got.text
            except (httpx.HTTPError, KeyError, ValueError) as failed:
                error = f"{type(failed).__name__}: {failed}"
            tally.note(right, error, time.monotonic() - begun)


def answered(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an answer, whether it has rows or columns."""
    if "rows" in body:
        return list(body["rows"])
    columns = body["columns"]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@contextmanager
def serving(nodes: Nodes) -> Iterator[dict[str, Any]]:
    """The app on these nodes, by its own command, and what its `ready` line says."""
    command = [sys.executable, "-m", "flightserve", "run", "examples.cluster.app:app", "--address", nodes.address]
    environment = {**os.environ, **nodes.variables}
    with subprocess.Popen(
        [*command, *FREE_PORTS], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        watchdog = threading.Timer(START_TIMEOUT_S, process.terminate)
        watchdog.start()
        try:
            assert process.stdout is not None
            said = next((line for line in process.stdout if line.startswith("ready ")), None)
            if said is None:
                raise StartFailed("the app was not ready")
            watchdog.cancel()
            yield json.loads(said.removeprefix("ready "))
        finally:
            watchdog.cancel()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def status(app_id: str) -> None:
    """Print what `flightserve status` says."""
    command = [sys.executable, "-m", "flightserve", "status", "--app", app_id]
    print(subprocess.run(command, capture_output=True, text=True, timeout=STATUS_TIMEOUT_S, check=False).stdout)


def places(app_id: str) -> dict[str, str]:
    """The host of each child that is ready, by its name."""
    children = ask_view(app_id).children
    carriers = [child for child in children if child.tier == "carrier" and child.addresses]
    hosts = {child.node: child.addresses["carrier"].rpartition(":")[0] for child in carriers}
    return {child.name: hosts.get(child.node, "") for child in children if child.ready}


def carrier_on(app_id: str, host: str) -> bool:
    """Whether the node there takes part."""
    return any(name.startswith("carrier-") and its_host == host for name, its_host in places(app_id).items())


def replicas_on(app_id: str, host: str) -> list[str]:
    """Those that are ready there."""
    return [name for name, its_host in places(app_id).items() if its_host == host and name.startswith("replica-")]


def holds(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look again until it does; False where it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def report(tally: Tally, killed: float, back_s: float | None) -> bool:
    """Print what the callers saw; whether nothing was lost."""
    calls = list(zip(tally.ended, tally.took, strict=True))
    after = [took for ended, took in calls if killed <= ended < killed + AFTER_S]
    print(f"{tally.answered} calls answered, {tally.wrong} wrong, {len(tally.errors)} errors")
    for error in sorted(set(tally.errors))[:5]:
        print(f"  {error}")
    print(f"a call took {statistics.median(tally.took) * 1000:.1f} ms in the median, {max(tally.took):.2f} s at most")
    print(f"in the {AFTER_S:.0f} s after the node died: {len(after)} calls, {max(after, default=0):.2f} s at most")
    if back_s is None:
        print("the node, or a replica, did not come back")
    else:
        print(f"the node took part again {back_s:.1f} s after it was started, and all replicas were ready")
    return not tally.wrong and not tally.errors and bool(after) and back_s is not None


def show(nodes: Nodes, ready: dict[str, Any], seconds: float) -> bool:
    """Load, a node that dies, and one that comes back; whether nothing was lost."""
    (app_id,) = [app for app in running_apps() if ready["http"] in ask_view(app).addresses.values()]
    status(app_id)
    wanted = {name for name in places(app_id) if name.startswith("replica-")}
    victim = next((node for node in range(1, NODES) if replicas_on(app_id, nodes.ip(node))), 1)
    tally, ended = Tally(), threading.Event()
    url = ready["http"] + "/v1/Flights/explain"
    callers = [threading.Thread(target=call, args=(url, number, tally, ended)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        ended.wait(seconds)
        print(f"killing node {victim}, {nodes.ip(victim)}, with {', '.join(replicas_on(app_id, nodes.ip(victim)))}")
        killed = time.monotonic()
        nodes.kill(victim)
        ended.wait(seconds)
        status(app_id)
        print(f"starting node {victim} again")
        begun = time.monotonic()
        nodes.start(victim)

        def back() -> bool:
            return wanted <= places(app_id).keys() and carrier_on(app_id, nodes.ip(victim))

        back_s = time.monotonic() - begun if holds(back, BACK_S_MAX) else None
        ended.wait(seconds / 2)
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    status(app_id)
    return report(tally, killed, back_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="load before and after the node dies")
    options = parser.parse_args(arguments)
    with Nodes(NODES, {"place": PLACES}) as nodes:
        apart = "each in a network namespace" if nodes.apart else "in one network, because this is not root"
        print(f"{NODES} nodes run, {apart}: {', '.join(nodes.ip(node) for node in range(NODES))}")
        with serving(nodes) as ready:
            lost_nothing = show(nodes, ready, options.seconds)
    print("nothing was lost" if lost_nothing else "something was lost")
    return 0 if lost_nothing else 1


if __name__ == "__main__":
    sys.exit(main())
