"""What is asked of a router while owners of segments come to an end."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa

import flightserve as fs
from tests.plane import plane
from tests.support import eventually


@fs.deployment(max_batch_rows=10)
class Gated:
    """Answers when its gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)

    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.started.release()
        self.gate.wait(30)
        return pa.record_batch({"x": np.asarray(batch.column(0))})


def test_a_slice_answered_by_a_replica_that_died_since_is_delivered() -> None:
    """The caller was never shown its segment; the router keeps that for as long as an answer lies in it."""
    with plane(Gated.bind(), replicas=2) as running:
        replies: list[pa.RecordBatch] = []

        def ask() -> None:
            replies.extend(running.call("echo", pa.record_batch({"x": np.arange(20)})))

        asking = threading.Thread(target=ask)
        asking.start()
        for target in running.targets:
            assert target.started.acquire(timeout=20)
        running.targets[0].gate.set()
        eventually(lambda: running.router.statistics()["Gated.in_flight_batches"] == 1)
        running.replicas.pop(0).stop()
        eventually(lambda: running.router.statistics()["Gated.lanes"] == 1)
        running.targets[1].gate.set()
        asking.join(20)
        assert [value for reply in replies for value in reply.column("x").to_pylist()] == list(range(20))
        replies.clear()
        # Whoever was shown the segment of a process that is gone was also told to let go of it.
        eventually(lambda: len(running.client.memory.mapped) == 1)
        assert running.call("echo", pa.record_batch({"x": [1]}))[0].num_rows == 1
