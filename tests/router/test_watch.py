"""A router whose loop hangs, and those that only look like it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import pyarrow as pa

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.router.service import RouterService
from tests.plane import plane
from tests.support import eventually

LIMITS = FabricLimits(heartbeat_s=0.05, turn_s_max=0.5)
HANGS = """
import itertools, sys
from flightserve.config import FabricLimits
from flightserve.router.service import RouterService

router = RouterService(1, sys.argv[1], FabricLimits(heartbeat_s=0.05, turn_s_max=0.5))
router.start()
router.post(lambda: [None for _ in itertools.count() if False])
router._thread.join()
"""


@fs.deployment
class Echo:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


echo: Any = Echo


def _ended(router: RouterService) -> bool:
    thread = router._watch._thread
    return thread is not None and not thread.is_alive()


def test_a_loop_that_hangs_is_told_once_and_one_that_idles_is_not() -> None:
    stuck, idle = threading.Semaphore(0), threading.Semaphore(0)
    name = f"flightserve-test-watch-{os.getpid()}"
    hanging = RouterService(1, f"{name}-1", LIMITS, lambda why: stuck.release())
    idling = RouterService(2, f"{name}-2", LIMITS, lambda why: idle.release())
    for router in (hanging, idling):
        router.start()
    gate = threading.Event()

    def hang() -> None:
        gate.wait(30)

    hanging.post(hang)
    assert stuck.acquire(timeout=30)
    gate.set()
    for router in (hanging, idling):
        router.stop()
        eventually(partial(_ended, router), what="the watch ended")
    assert not stuck.acquire(blocking=False)
    assert not idle.acquire(blocking=False)


def test_a_process_whose_loop_spins_ends_itself() -> None:
    """The thread that watches gets the interpreter's lock now and then."""
    command = [sys.executable, "-c", HANGS, f"flightserve-test-spins-{os.getpid()}"]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True)
    assert done.returncode == 70
    assert b"did not turn" in done.stderr


def test_a_router_at_work_is_left_alone() -> None:
    with plane(echo.bind(), limits=FabricLimits(heartbeat_s=0.02)) as running:
        told = threading.Event()
        running.router._watch._on_loss = lambda why: told.set()
        for value in range(200):
            assert running.call("echo", pa.record_batch({"x": [value]})) == [pa.record_batch({"x": [value]})]
        assert not told.is_set()
