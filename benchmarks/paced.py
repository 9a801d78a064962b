"""The deployments of the benchmark of latency targets: the same method with one and without.

As in `overloaded`, the time of a micro-batch is waited, not computed.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pyarrow as pa

import flightserve as fs
from benchmarks.overload_scenarios import PACED

TARGET_MS = 20.0


@fs.deployment(replicas=PACED.replicas, max_batch_rows=PACED.max_batch_rows)
class Timed:
    """Answers its input after the time that the scenario gives a micro-batch."""

    def __init__(self) -> None:
        self._random = random.Random()

    def short(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, unchanged."""
        time.sleep(PACED.service_ms("short", batch.num_rows, self._random) / 1e3)
        return batch


_timed: Any = Timed
app = fs.App(
    _timed.bind().options(name="Plain"),
    _timed.bind().options(name="Paced", latency_target_ms=TARGET_MS),
)
