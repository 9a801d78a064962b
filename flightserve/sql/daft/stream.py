"""One query's result, partition by partition as Daft has them, in the types that DuckDB says it has.

The next partition is asked for when the last one has been taken, so that a slow reader does not fill this process: what
is ready before waits on the nodes, in Ray's object store.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import pyarrow as pa

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, InvalidArgument, Unavailable
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.sql.daft.programs import unpack
from flightserve.sql.engine.errors import scrub
from flightserve.sql.engine.result_batches import BATCH_BYTES_MAX, conform, gather, table_within
from flightserve.sql.engine.result_stream import OTHER_TYPES

log = logging.getLogger(__name__)

# How often it is looked whether anybody still waits.
LOOK_S: Final = 0.05


class RunningQuery(Protocol):
    """A query that Daft runs."""

    def next(self, timeout_s: float) -> pa.Table | None: ...

    def close(self) -> None: ...


class DaftStream:
    """As `ResultStream`: iterate for the batches, or `read_all`; `close` gives up. `last` is never known."""

    last: Final = False

    def __init__(
        self, running: RunningQuery, schema: pa.Schema, deadline_ns: int, cancelled: Callable[[], bool]
    ) -> None:
        self._running = running
        self._deadline_ns = deadline_ns
        self._cancelled = cancelled
        self._ended = False
        self.schema = schema

    def __repr__(self) -> str:
        return f"<DaftStream{', ended' * self._ended}>"

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from gather(self._read(), self.schema)
        finally:
            self.close()

    def rename(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The batches with that schema's names."""
        for batch in self:
            try:
                named = conform(batch, schema)
            except (pa.ArrowException, ValueError) as error:
                raise InvalidArgument(OTHER_TYPES) from error
            yield named

    def read_all(self, bytes_max: int) -> pa.Table | None:
        """Everything, or None when it is more than `bytes_max`; the query is given up then."""
        with contextlib.closing(self):
            return table_within(self._read(), self.schema, bytes_max)

    def close(self) -> None:
        """Give up what is not yet read. Idempotent."""
        if not self._ended:
            self._ended = True
            self._running.close()

    def _read(self) -> Iterator[pa.RecordBatch]:
        while (table := self._next()) is not None:
            rows = max(1, table.num_rows * BATCH_BYTES_MAX // max(1, nbytes_of(table)))
            for batch in table.to_batches(max_chunksize=rows):
                pairs = zip(batch.columns, self.schema.types, strict=True)
                yield pa.RecordBatch.from_arrays([column.cast(kind) for column, kind in pairs], schema=self.schema)
        self._ended = True

    def _next(self) -> pa.Table | None:
        while True:
            self._check()
            left_s = (self._deadline_ns - monotonic_ns()) / NS_PER_S
            try:
                return self._running.next(max(0.001, min(LOOK_S, left_s)))
            except TimeoutError:
                continue
            except Exception as error:
                self.close()
                raise translate(error) from error

    def _check(self) -> None:
        """Raises Cancelled or DeadlineExceeded, and gives up."""
        if self._cancelled():
            self.close()
            raise Cancelled("nobody waits for the query any more")
        if monotonic_ns() >= self._deadline_ns:
            self.close()
            raise DeadlineExceeded("the deadline passed while the query ran")


def translate(error: Exception) -> FlightserveError:
    """The error for the caller. What Daft says goes to the log."""
    text = str(error)
    said = unpack(text)
    if said is not None:
        return said
    log.error("Daft failed: %s", text)
    if any(each.__name__ == "RayError" for each in type(error).__mro__):
        return Unavailable(f"the query's processes failed, and it may be sent again ({type(error).__name__})")
    line = text.strip().splitlines()[-1:] or [type(error).__name__]
    return FlightserveError(f"Daft could not run the query: {scrub(line[0])}")
