"""Hostile bytes for an app behind TLS, CURVE and `--auth`: handshakes, what comes inside of them, and credentials."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.fuzz.kinds import SECURED
from tests.fuzz.running import read_log, run_batch
from tests.fuzz.secured import serve_secured
from tests.fuzz.targets import Target
from tests.served.resting import Resting

pytestmark = pytest.mark.ray

CASES = {
    "tls": 40, "tls-http": 20, "tls-h2": 30, "tls-grpc": 150, "tls-flight": 150, "curve": 12, "curve-zmq": 300,
    "who-frames": 150, "who-http": 30, "who-grpc": 15, "who-flight": 30, "who-zmq": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def app() -> Iterator[tuple[Target, Resting]]:
    with serve_secured() as app:
        yield app


def test_hostile_bytes(app: tuple[Target, Resting]) -> None:
    target, resting = app
    seed = int(time.time())
    print(f'again: make fuzz ARGS="--seed {seed} --only {",".join(SECURED)}"')
    for kind in sorted(SECURED):
        batch = run_batch(target, kind, seed, 0, CASES[kind])
        assert not batch.findings, "\n".join(batch.findings)
    resting.check()
    read_log(batch, target)
    assert not batch.findings, "\n".join(batch.findings)
