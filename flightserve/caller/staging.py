"""Rows of requests on their way into shared memory: written once, into a region of this process's pool."""

from __future__ import annotations

import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream
from flightserve.errors import InvalidArgument
from flightserve.fabric.conversion.casting import fitted
from flightserve.fabric.memory.batches import SchemaCache, write_batch
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.types import MethodSpec
from flightserve.wire import frames


class MemoryFull(Exception):
    """No region of that size is free now; `nbytes` says how much is wanted."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes of shared memory are not free now")
        self.nbytes = nbytes


class Staging:
    """Writes rows for one connection. One thread at a time."""

    def __init__(self, pool: SegmentPool, limits: EdgeLimits) -> None:
        self.limits = limits
        self.schemas = SchemaCache()
        self._pool = pool

    def allocate(self, nbytes: int) -> tuple[frames.Region, memoryview]:
        """A region of that size. Raises MemoryFull."""
        got = self._pool.allocate(nbytes)
        if got is None:
            raise MemoryFull(nbytes)
        return got

    def write(
        self, payload: pa.RecordBatch | EncodedStream, spec: MethodSpec, where: str, trusted: bool
    ) -> tuple[frames.Region, int]:
        """Write the payload, as the method takes it, into a region: (region, rows). Rows that are not `trusted` are
        validated. Raises InvalidArgument or SchemaMismatch for what the method cannot take, MemoryFull while there is
        no room."""
        if isinstance(payload, EncodedStream):
            return self._write_stream(payload, spec, where)
        if not trusted:
            validate_batch(payload, self.limits)
        payload = fitted(payload, spec, where, self.limits.body_bytes_max)
        return write_batch(payload, self.schemas, self.allocate), payload.num_rows

    def _write_stream(self, payload: EncodedStream, spec: MethodSpec, where: str) -> tuple[frames.Region, int]:
        nbytes = sum(len(piece) for piece in payload.pieces)
        if nbytes < 8:
            raise InvalidArgument(f"an Arrow IPC stream is expected; the body has {nbytes} bytes")
        region, memory = self.allocate(nbytes)
        try:
            position = 0
            for piece in payload.pieces:
                memory[position : position + len(piece)] = piece
                position += len(piece)
            batch = decode_stream(pa.py_buffer(memory), self.limits)
            taken = fitted(batch, spec, where, self.limits.body_bytes_max)
            if taken is batch and self._is_plain(batch, memory):
                known = self.schemas.at_head(memory)
                staged = frames.Region(region.owner, region.segment, region.offset, nbytes, known.schema_id)
                return staged, batch.num_rows
            rewritten = write_batch(taken, self.schemas, self.allocate)
        except BaseException:
            self._pool.free(region.segment, region.offset)
            raise
        self._pool.free(region.segment, region.offset)
        return rewritten, batch.num_rows

    def _is_plain(self, batch: pa.RecordBatch, memory: memoryview) -> bool:
        """True when the stream holds one uncompressed batch and nothing else, so that readers of the region
        find it where this data plane puts its own."""
        if bytes(memory[:4]) != b"\xff\xff\xff\xff":
            return False
        known = self.schemas.at_head(memory)
        start = len(known.message)
        if known.dictionaries or len(memory) < start + 8:
            return False
        expected = pa.ipc.get_record_batch_size(batch)
        rest = len(memory) - start - expected
        return rest == 0 or (rest == 8 and bytes(memory[start + expected :]) == b"\xff\xff\xff\xff\0\0\0\0")
