"""Deployments that behave well and badly on request, for tests of the whole system."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

import flightserve as fs


def _fail() -> None:
    raise RuntimeError("in a thread")


ONE_INT = pa.schema([pa.field("a", pa.int64())])


@fs.deployment(replicas=2)
class Probe:
    """Two replicas. Every method takes one int64 column `a`, or anything where it says nothing else."""

    def identity(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows."""
        return batch

    @fs.method(input=ONE_INT, output=ONE_INT)
    def typed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One column of int64, checked."""
        return batch

    @fs.single_input
    def where(self, row: dict[str, int]) -> dict[str, int]:
        """The replica's pid."""
        return {"a": os.getpid()}

    @fs.single_input
    def told(self, row: dict[str, int]) -> dict[str, Any]:
        """What the caller said beside the rows."""
        current = fs.context()
        left_s = (current.remaining_ms or 0) / 1000
        return {
            "priority": current.priority,
            "id": current.request_id,
            "trace": current.traceparents[0],
            "state": current.tracestates[0],
            "left_s": left_s,
        }

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises."""
        raise ValueError(f"boom in {__file__} " + "é" * 5000)

    def picky(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Raises where a value is negative, late enough for others to be in the same micro-batch."""
        threading.Event().wait(0.05)
        if any(value < 0 for value in batch.column("a").to_pylist()):
            raise ValueError("no negative values")
        return batch

    def longer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One row too many."""
        return pa.RecordBatch.from_pydict({"a": list(range(batch.num_rows + 1))})

    @fs.method(output=ONE_INT)
    def mistyped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Another schema than it says."""
        return pa.RecordBatch.from_pydict({"b": ["x"] * batch.num_rows})

    def nothing(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """No batch at all."""
        return None  # type: ignore[return-value]

    def says(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Whatever code may write, to all that it may write to."""
        print("printed\nby one call", os.getpid())
        print("\x1b[2Jno end \x07", end="", flush=True)
        print("x" * 300_000)
        logging.getLogger("users.own").warning("logged %d", 5)
        logging.getLogger("users.own").info("logged %s", "with", "one too many")  # noqa: PLE1205
        os.write(2, b'raw \xff\xfe bytes\n{"time": "not a record"}\n')
        os.write(1, b"raw without end")
        try:
            raise ValueError("shown and over")
        except ValueError:
            traceback.print_exc()
        failing = threading.Thread(target=_fail)
        failing.start()
        failing.join()
        return batch

    @fs.method(idempotent=False)
    def exits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Ends its process."""
        os._exit(3)

    def never(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Never returns, until nobody waits for it any more."""
        pause = threading.Event()
        while not fs.context().cancelled:
            pause.wait(0.01)
        return batch

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Not idempotent."""
        return batch

    @fs.method(row_aligned=False)
    def slowly(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, after as many milliseconds as the first one says."""
        threading.Event().wait(batch.column(0)[0].as_py() / 1000)
        return batch

    @fs.method(row_aligned=False)
    def pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Each row as a batch of its own."""
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    @fs.method(row_aligned=False)
    def large(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Batches of 256 KiB, as many as the first row says."""
        for _ in range(batch.column(0)[0].as_py()):
            yield pa.RecordBatch.from_pydict({"a": pa.array(range(32768), pa.int64())})

    @fs.method(row_aligned=False)
    def whole(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One batch of as many MiB as the first row says."""
        nbytes = batch.column(0)[0].as_py() << 20
        # Of Python's memory, which goes back to the system at once, not of Arrow's pool.
        rows = pa.Array.from_buffers(pa.int64(), nbytes // 8, [None, pa.py_buffer(bytes(nbytes))])
        return pa.RecordBatch.from_pydict({"a": rows})


@fs.deployment(max_queued_requests=1)
class Narrow:
    """One replica with one request waiting; the next is one too many."""

    @fs.method(row_aligned=False)
    def slowly(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, after as many milliseconds as the first one says."""
        threading.Event().wait(batch.column(0)[0].as_py() / 1000)
        return batch

    @fs.method(row_aligned=False)
    def warm(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, where pandas was imported before; nothing here does that."""
        return batch.slice(0, batch.num_rows if "pandas" in sys.modules else 0)


@fs.deployment
class Chain:
    """Calls Probe, from a thread and from an event loop."""

    def __init__(self, probe: Any) -> None:
        self._probe = probe

    def identity(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The same rows, by way of Probe."""
        return self._probe.identity(batch)

    async def never(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Waits for Probe, which never answers."""
        return await self._probe.never.aio(batch)


_probe = Probe.bind()
# A value of 13 fails in its second stage.
_piped = fs.pipeline(
    "Piped", _probe.typed >> fs.switch("a", {13: _probe.boom}, default=_probe.identity) >> _probe.pieces
)
_people = pa.table({"id": pa.array(range(1, 7), pa.int64()), "name": ["Ada", "Bo", None, "Di", "Ed", "Flo"]})
_lake = fs.sql.Warehouse({"people": _people}, name="lake", threads=1, memory_limit="300MB")
_lake.query("person", "SELECT id, name FROM people WHERE id = $id")
app = fs.App(_probe, Narrow.bind(), Chain.bind(_probe), _piped, _lake)
