"""The deployments of the overload and recovery benchmarks: methods that take a known time and no processor.

The time of a micro-batch is waited, not computed, so that the machine's cores are left to the tiers: what is
measured is how the router treats requests, with replicas whose capacity is known.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pyarrow as pa

import flightserve as fs
from benchmarks.overload_scenarios import REAL

# Only a policy sheds, never the bound on the queue.
QUEUE_MAX = 100_000


@fs.deployment(replicas=REAL.replicas, max_batch_rows=REAL.max_batch_rows, max_queued_requests=QUEUE_MAX)
class Rated:
    """Answers its input after the time that the scenario gives a micro-batch."""

    def __init__(self) -> None:
        self._random = random.Random()

    def short(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, unchanged."""
        return self._wait("short", batch)

    def long(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, unchanged, after a longer time."""
        return self._wait("long", batch)

    def _wait(self, method: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        time.sleep(REAL.service_ms(method, batch.num_rows, self._random) / 1e3)
        return batch


_rated: Any = Rated
app = fs.App(_rated.bind().options(name="Fifo"), _rated.bind().options(name="Deadline", router="deadline"))
