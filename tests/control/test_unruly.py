"""The fault matrix on a real system: what user code may do to its process, times where.

After each, the caller has an answer with a code by its deadline, whoever calls another deployment meanwhile notices
nothing, who calls the same replica has an answer with a code, and the next good calls work by themselves. All cells,
with `TEST_FLIGHTSERVE_FAULTS=all`, take minutes; else those below.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flightserve.wire.status import Code
from tests.control.served import Served
from tests.unruly_app import ACTS, PLACES

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The answer may not be later; how soon it is depends on the machine.
DEADLINE_S = 5.0
GOOD_S = 60.0
FEW = {
    "plain": ("exit", "close descriptors", "interrupt", "streams", "logs", "fork and come back", "threads"),
    "coroutine": ("kill", "block", "hooks", "socket timeout", "loops"),
    "row": ("exceptions in all threads", "nowhere", "environment"),
    "generator": ("exit", "signals"),
    "finaliser": ("crash", "processes"),
}
ALL = {place: tuple(ACTS) for place in PLACES}
CELLS = ALL if os.environ.get("TEST_FLIGHTSERVE_FAULTS") == "all" else FEW  # tidy: which tests, not what they test
CODES = {code.name for code in Code}


@pytest.fixture(scope="module")
def system() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="u", dir="/tmp", ignore_cleanup_errors=True) as directory:
        ports = [f"--{protocol}-port=0" for protocol in ("http", "grpc", "flight", "zmq")]
        with Served(Path(directory), command=("flightserve", "run", "tests.unruly_app:app", *ports)) as served:
            yield served.wait_ready()


def call(system: Served, path: str, what: str, timeout_s: float) -> str:
    """The code of the answer, and what it says where that is not OK. Raises where there is none."""
    body = json.dumps({"rows": [{"what": what}]}).encode()
    headers = {"content-type": "application/json", "x-timeout-ms": str(int(timeout_s * 1000))}
    request = urllib.request.Request(f"{system.addresses['http']}/v1/{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s + 30) as answer:
            assert json.loads(answer.read())["rows"]
            return "OK"
    except urllib.error.HTTPError as error:
        told: dict[str, Any] = json.loads(error.read())["error"]
        assert told["code"] in CODES, told
        return f"{told['code']}: {told['message']}"


class Neighbours:
    """Calls another deployment all the while."""

    def __init__(self, system: Served) -> None:
        self.harmed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(system,))

    def _work(self, system: Served) -> None:
        while not self._over.wait(0.1):
            answer = call(system, "Neighbour/good", "good", GOOD_S)
            if answer != "OK":
                self.harmed.append(answer)

    def __enter__(self) -> Neighbours:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("place", CELLS)
@pytest.mark.timeout(1800)
def test_what_user_code_does_to_its_process_is_mended(system: Served, place: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        for what in CELLS[place]:
            with Neighbours(system) as neighbours:
                beside = pool.submit(call, system, "Wild/waits", "good", DEADLINE_S)
                answer = call(system, f"Wild/{place}", what, DEADLINE_S)
                beside.result()
                for method in ("good", "async_good"):
                    good = call(system, f"Wild/{method}", "good", GOOD_S)
                    assert good == "OK", f"after {what} in {place} ({answer}): {method}: {good}"
            assert not neighbours.harmed, f"{what} in {place}: {neighbours.harmed}"
            if ACTS[what][1] and place != "finaliser":
                assert answer == "OK" or answer.startswith(("INTERNAL", "UNAVAILABLE")), f"{what} in {place}: {answer}"


def test_a_class_that_was_made_by_odd_ways_serves(system: Served) -> None:
    for method in ("good", "async_good"):
        assert call(system, f"Made/{method}", "good", GOOD_S) == "OK"
