"""One real system for all tests of this folder, and the check after each that it is where it was."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.served import Served
from tests.frontends.flight.fakes import Exchange
from tests.frontends.rpc_support import GOOD, batch_of
from tests.served.callers import CALLERS, Caller, all_callers
from tests.served.resting import Resting
from tests.served.serve import LIMITS


@pytest.fixture(scope="package")
def system() -> Iterator[Served]:
    """The app of `tests.served.app`, served by `flightserve run` with small limits."""
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with Served(Path(directory), command=("tests.served.serve",)) as served:
            yield served.wait_ready()


@pytest.fixture(scope="package")
def callers(system: Served) -> Iterator[dict[str, Any]]:
    """A client of each frontend, by protocol."""
    with all_callers(system.addresses) as callers:
        yield callers


def good_requests(callers: dict[str, Caller]) -> None:
    """The next good request works on every frontend."""
    for name, caller in callers.items():
        answer = caller.call("identity", GOOD)
        assert answer.code == "OK", f"{name}: {answer}"
        assert answer.rows is not None
        assert answer.rows.to_pydict() == {"a": [1, 2, 3]}


def warm_up(callers: dict[str, Any]) -> None:
    """Open as many streams at once as may be open, so that connections that are kept for later are there."""
    caller = callers["flight"]
    shown = {"authorization": caller.entrance.authorization} if caller.entrance else {}
    exchanges = [Exchange(caller.client, "", _path("identity"), **shown) for _ in range(LIMITS.streams_max)]
    for exchange in exchanges:
        assert exchange.call(batch_of(1)).num_rows == 1
    for exchange in exchanges:
        exchange.__exit__()
    # A replica that calls onwards connects its threads with the first call.
    assert callers["http"].call("identity", GOOD, "Chain").code == "OK"
    assert callers["http"].call("run", GOOD, "Piped").code == "OK"


def _path(method: str) -> Any:
    from pyarrow import flight

    return flight.FlightDescriptor.for_path("Probe", method)


@pytest.fixture(scope="package")
def resting(system: Served, callers: dict[str, Any]) -> Resting:
    """What the system is like at rest."""
    warm_up(callers)
    return Resting(system, lambda: good_requests(callers))


@pytest.fixture(autouse=True)
def unharmed(resting: Resting) -> Iterator[None]:
    """After each test: the system is at rest, and good requests work on every frontend."""
    yield
    resting.check()


@pytest.fixture(params=sorted(CALLERS))
def caller(request: pytest.FixtureRequest, callers: dict[str, Any]) -> Any:
    """Each frontend in turn."""
    return callers[request.param]
