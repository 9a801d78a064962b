"""Hostile bytes on every way into the real system; the check after each test is that it is where it was. `make fuzz` is
the same for as long as it is told to, and makes again what a failed test prints."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.control.served import Served
from tests.fuzz.kinds import KINDS
from tests.fuzz.running import Batch, read_log, run_batch
from tests.fuzz.targets import Target

CASES = {
    "http": 700, "smuggling": 200, "h2": 500, "grpc": 500, "flight": 500, "zmq": 800, "zmtp": 300, "frames": 500,
    "control": 300,
}  # fmt: skip


@pytest.fixture(scope="module")
def target(system: Served) -> Iterator[Target]:
    """The system. What it writes to its log after a test, while it comes to rest, counts as well."""
    target = Target(system.addresses, system.app_id, system.errors)
    whole = Batch("all of them", log_read=len(target.errors()))
    yield target
    read_log(whole, target)
    assert not whole.findings, "\n".join(whole.findings)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_hostile_bytes(target: Target, kind: str) -> None:
    seed = int(time.time())
    print(f'again: make fuzz ARGS="--seed {seed} --only {kind}"')
    batch = run_batch(target, kind, seed, 0, CASES[kind])
    assert not batch.findings, "\n".join(batch.findings)
