"""Hostile bytes on every way into the real system; the check after each test is that it is where it was. `make fuzz` is
the same for as long as it is told to."""

from __future__ import annotations

import time

import pytest

from tests.control.served import Served
from tests.fuzz.running import KINDS, Target, run_batch

CASES = {
    "http": 700, "smuggling": 60, "h2": 500, "grpc": 500, "flight": 500, "zmq": 800, "zmtp": 300, "frames": 500,
    "control": 300,
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_hostile_bytes(system: Served, kind: str) -> None:
    target = Target(system.addresses, system.app_id, system.errors)
    batch = run_batch(target, kind, int(time.time()), 0, CASES[kind])
    assert not batch.findings, "\n".join(batch.findings)
