"""The app of the chaos run: methods of every kind, each of which writes down what it is about to run.

One class, two deployments: `Fifo`, and `Urgent` with the deadline router and methods that are coroutines as well. A
micro-batch takes a little time and more for each row; ten times as much in a replica whose file `slow-PID` lies in
the run's directory.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

import flightserve as fs
from flightserve.clock import monotonic_ns
from tests.chaos import rows
from tests.chaos.history import Exec, Journal

# Enough that replicas are busy, and a death meets requests, at a load that leaves room on two cores.
BATCH_S: Final = 0.03
SINGLE_S: Final = 0.005
ROW_S: Final = 0.00001
SLOWER: Final = 10
HOLD_S: Final = 0.2
PIECE_ROWS: Final = 8
MAX_BATCH_ROWS: Final = 256
MAX_QUEUED: Final = 2000
PLACE: Final = "place"
PAD_BYTES: Final = 64 << 10


class Chaos:
    """Methods that answer with `rows.derive` of what they got."""

    def __init__(self, directory: str, revision: int = 0, broken: bool = False) -> None:
        if broken:
            raise RuntimeError("this revision does not start")
        self._slow = Path(directory) / f"slow-{os.getpid()}"
        self._epoch = uuid.uuid4().hex[:8]
        self._journal = Journal(Path(directory) / f"exec-{os.getpid()}-{self._epoch}.jsonl")
        self._revision = revision

    # ---- idempotent, row-aligned

    def derive(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The plain case."""
        return self._run(batch, "derive")

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises where a value is `rows.POISON`."""
        if rows.POISON in batch.column("value").to_pylist():
            self._run(batch, "picky")
            raise ValueError("poison")
        return self._run(batch, "picky")

    @fs.single_input
    def row(self, row: dict[str, int]) -> dict[str, int]:
        """Row by row."""
        return self._run_row(row, "row")

    # ---- not idempotent

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """May not run twice."""
        return self._run(batch, "once")

    @fs.single_input
    @fs.method(idempotent=False)
    def row_once(self, row: dict[str, int]) -> dict[str, int]:
        """Row by row, no row twice."""
        return self._run_row(row, "row_once")

    @fs.method(row_aligned=False, idempotent=False)
    def pieces_once(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """A stream that may not begin twice."""
        yield from self._pieces(batch, "pieces_once")

    # ---- streams

    @fs.method(row_aligned=False)
    def pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """The rows in batches of `PIECE_ROWS`."""
        yield from self._pieces(batch, "pieces")

    @fs.method(row_aligned=False)
    def bulky(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """As many batches of `PAD_BYTES` as there are rows, for readers that are slow to take them."""
        for _ in range(batch.num_rows):
            yield pa.RecordBatch.from_arrays([pa.array([b"\0" * PAD_BYTES])], names=["pad"])

    @fs.method(row_aligned=False)
    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A moment for a batch of any kind; answers with its first row."""
        threading.Event().wait(HOLD_S)
        return batch.slice(0, 1)

    # ---- not served

    def _run(self, batch: pa.RecordBatch, method: str) -> pa.RecordBatch:
        self._note(batch)
        threading.Event().wait(self._seconds(batch.num_rows))
        return rows.derive(batch, method)

    def _run_row(self, row: dict[str, int], method: str) -> dict[str, int]:
        self._journal.write([self._exec(row["id"], row["index"], 1)])
        threading.Event().wait(self._slowed(SINGLE_S))
        return {**row, "value": rows.derive_one(row["value"], method)}

    def _pieces(self, batch: pa.RecordBatch, method: str) -> Iterator[pa.RecordBatch]:
        self._note(batch)
        answer = rows.derive(batch, method)
        for first in range(0, batch.num_rows, PIECE_ROWS):
            threading.Event().wait(self._slowed(SINGLE_S))
            yield answer.slice(first, PIECE_ROWS)

    def _seconds(self, count: int) -> float:
        return self._slowed(BATCH_S + ROW_S * count)

    def _slowed(self, seconds: float) -> float:
        return seconds * SLOWER if self._slow.exists() else seconds

    def _note(self, batch: pa.RecordBatch) -> None:
        self._journal.write([self._exec(*run) for run in rows.runs(batch)])

    def _exec(self, request_id: int, first: int, count: int) -> Exec:
        return Exec(request_id, first, count, os.getpid(), self._epoch, monotonic_ns())


class ChaosAsync(Chaos):
    """Coroutines beside the plain methods."""

    async def later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """On the replica's event loop."""
        self._note(batch)
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(self._seconds(batch.num_rows), passed.set)
        await passed.wait()
        return rows.derive(batch, "later")


def make_app(
    directory: Path, replicas: int = 2, revision: int = 0, broken: bool = False, places: bool = False
) -> fs.App:
    """The two deployments; another `revision` is another version of both, and one that is `broken` does not start. With
    `places` a replica takes one of those that nodes have."""
    options: dict[str, Any] = {
        "replicas": replicas,
        "concurrency": 2,
        "max_batch_rows": MAX_BATCH_ROWS,
        "max_queued_requests": MAX_QUEUED,
        **({"num_cpus": 0, "resources": {PLACE: 1}, "placement": "spread"} if places else {}),
    }
    plain = fs.deployment(name="Fifo", **options)(Chaos)
    urgent = fs.deployment(name="Urgent", router="deadline", **options)(ChaosAsync)
    return fs.App(*(each.bind(str(directory), revision, broken) for each in (plain, urgent)))
