"""What a caller gets: rows of a region that a replica wrote.

One lease serves all requests that one frame answered; it is given back when the last Arrow buffer over the region dies.
"""

from __future__ import annotations

import msgspec
import pyarrow as pa

from flightserve.fabric.memory.batches import SchemaCache, encoded, own_rows, read_batch
from flightserve.wire import frames


class SharedRegion(msgspec.Struct, eq=False):
    """A leased result region, decoded at most once."""

    buffer: pa.Buffer
    memory: memoryview
    schemas: SchemaCache
    region: frames.Region
    router_id: int
    decoded: pa.RecordBatch | None = None

    def batch(self) -> pa.RecordBatch:
        if self.decoded is None:
            self.decoded = read_batch(self.buffer, self.memory, self.schemas)
        return self.decoded


class SharedSlice(msgspec.Struct, eq=False):
    """Rows of a result region (`contracts.service.Result`)."""

    shared: SharedRegion
    offset: int
    num_rows: int

    @property
    def origin(self) -> tuple[int, int]:
        """Which shared result this is a slice of, and from which row: slices of one origin share columns."""
        return id(self.shared), self.offset

    def batch(self) -> pa.RecordBatch:
        """The rows: zero-copy where the slice is all of its region, otherwise in buffers of their own."""
        whole = self.shared.batch()
        return whole if self.num_rows == whole.num_rows else own_rows(whole.slice(self.offset, self.num_rows))

    def whole(self) -> pa.RecordBatch:
        """All rows of the region, of which this slice is a part."""
        return self.shared.batch()

    def ipc_stream(self) -> bytes | pa.Buffer:
        """The rows as one Arrow IPC stream: the region itself where the slice is all of it."""
        if self.num_rows == self.shared.batch().num_rows:
            return self.shared.buffer
        return encoded(self.batch(), self.shared.schemas)
