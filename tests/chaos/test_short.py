"""A short chaos run over the real system: every kind of process dies once under load, and nothing is lost.

The long one, with all faults, is `make chaos`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.report import Result
from tests.chaos.run import Options, Run

# On a machine that is short of time, processes take long to come back.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

KINDS = ("replica-kill", "router-kill", "frontend-kill", "supervisor-kill", "clients-gone")
OPTIONS = Options(
    seconds=10.0, fault_every_s=1.8, seed=7, rate=30.0, capacity_s=1.0, concurrency=4, calm_s=2.0, kinds=KINDS
)


@pytest.fixture(scope="module")
def result() -> Result:
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp", ignore_cleanup_errors=True) as directory:
        return Run(OPTIONS, Path(directory)).execute()


def test_nothing_is_lost(result: Result) -> None:
    assert not result.violations, "\n".join([f"seed {result.seed}", *result.violations, *result.stories])


def test_the_run_was_one(result: Result) -> None:
    """Requests of every protocol were answered, and processes of every tier died."""
    assert {"http", "grpc", "flight", "zmq"} <= {place for place, codes in result.requests.items() if codes.get("OK")}
    assert set(result.faults) == set(KINDS)
