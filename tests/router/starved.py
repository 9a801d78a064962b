"""All tiers in a process that runs out of file descriptors, as a program, whose limit harms nobody else: prints which
outcomes requests had."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pyarrow as pa

import flightserve as fs
from flightserve.config import FabricLimits
from flightserve.errors import FlightserveError
from flightserve.fabric.transport.channels import connect
from flightserve.wire import frames
from tests.plane import Plane, meta, plane
from tests.support import eventually

LIMITS = FabricLimits(segment_bytes=1 << 20, memory_bytes_max=256 << 20)
# More than a segment: each such request, and its result, wants one of its own.
LARGE = 300_000
FREE_MAX = 7


@fs.deployment(max_batch_rows=1 << 20)
class Echo:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        # A result of its own: a region of the replica's, wherever the rows came from.
        return pa.record_batch({"x": np.asarray(batch.column("x")) + 1})


def outcome(running: Plane, count: int) -> str:
    """OK, or the name of the error's class."""
    try:
        parts = running.call("echo", pa.record_batch({"x": np.arange(count)}), meta(10))
    except FlightserveError as error:
        return type(error).__name__
    assert sum(part.num_rows for part in parts) == count
    assert parts[-1].column("x")[-1].as_py() == count
    return "OK"


@contextmanager
def no_descriptors(free: int) -> Iterator[None]:
    """All but so many are taken, until the block ends."""
    hog: list[int] = []
    with suppress(OSError):
        while True:
            hog.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(free):
        os.close(hog.pop())
    try:
        yield
    finally:
        for fd in hog:
            os.close(fd)


def fds() -> dict[str, object]:
    """Which outcomes large requests had by how many descriptors there were, and small ones beside them."""
    large, small, after = [], [], []
    with plane(Echo.bind(), limits=LIMITS) as running:
        assert outcome(running, 10) == outcome(running, LARGE) == "OK"
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 50, 4096))
        for free in range(FREE_MAX):
            # What earlier ones left in memory would be used again.
            eventually(running.at_rest)
            with no_descriptors(free):
                small.append(outcome(running, 10))
                large.append(outcome(running, LARGE * (2 + free)))
            eventually(lambda: outcome(running, 10) == "OK", what="it recovers")
            after.append(outcome(running, LARGE * 40))
        with no_descriptors(1):
            stranger = connect(running.router.endpoint, 10)
            at_the_door = outcome(running, 10)
        stranger.sendall(frames.encode([frames.Hello(frames.PROTOCOL_VERSION, 99, "frontend", True)]))
        stranger.settimeout(20)
        greeted = bool(stranger.recv(100))
        stranger.close()
        eventually(running.at_rest)
    return {"large": large, "small": small, "after": after, "at_the_door": at_the_door, "greeted": greeted}


if __name__ == "__main__":
    print(json.dumps(fds()), flush=True)
    os._exit(0)
