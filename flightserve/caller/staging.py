"""Rows of requests on their way into shared memory: written once, into a region of this process's pool.

To check, cast and copy rows takes the longer the more they are. Where others wait meanwhile (on the event loop, behind
the lock of the lanes' connection) only so much is done (`QUICK_BYTES_MAX`). What is more is staged by `LargeStaging`,
in a thread that nobody waits for, and then sent from where it lies. Measured with 145 MB of texts that are cast: the
event loop paused for 430 ms, and pauses for 30 ms now; the calls take as long as before.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import pyarrow as pa

from flightserve.caller.destinations import Destination
from flightserve.config import EdgeLimits
from flightserve.contracts.service import EncodedStream
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.conversion.casting import fitted, passes
from flightserve.fabric.memory.batches import END_OF_STREAM, SchemaCache, has_dictionary, write_batch
from flightserve.fabric.memory.decode import decode_stream, validate_batch
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.types import MethodSpec
from flightserve.wire import frames

# What is checked and copied while others wait, and what a cast may make then.
QUICK_BYTES_MAX: Final = 1 << 20
# So much of it is staged at once in a process: each takes up to twice the bound of a body beside shared memory.
LARGE_AT_ONCE_MAX: Final = 2
# A schema's message is looked for within these.
_HEAD_BYTES: Final = 64 << 10


class MemoryFull(Exception):
    """No region of that size is free now; `nbytes` says how much is wanted."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes of shared memory are not free now")
        self.nbytes = nbytes


class TooMuchWork(Exception):
    """More than may be done while others wait: the rows are to be staged apart."""


class Staged:
    """A payload that lies in shared memory as a method of that spec takes it. Who sends it takes the region over; if
    nobody does, it is given back with this object."""

    __slots__ = ("_pool", "_region", "_rows", "payload", "spec")

    def __init__(
        self, payload: pa.RecordBatch | EncodedStream, spec: MethodSpec, region: frames.Region, rows: int,
        pool: SegmentPool,
    ) -> None:  # fmt: skip
        self.payload = payload
        self.spec = spec
        self._rows = rows
        self._region: frames.Region | None = region
        self._pool = pool

    def take(self, spec: MethodSpec) -> tuple[frames.Region, int] | None:
        """The region, from now on the caller's, and its rows; None where a method of that spec may not take them as
        they are, or somebody has them."""
        if spec != self.spec or self._region is None:
            return None
        region, self._region = self._region, None
        return region, self._rows

    def __del__(self) -> None:
        if self._region is not None:
            self._pool.give_back(self._region.segment, self._region.offset)


class Staging:
    """Writes rows for one connection. One thread at a time."""

    def __init__(self, pool: SegmentPool, limits: EdgeLimits, others_wait: bool = True) -> None:
        self.limits = limits
        self.schemas = SchemaCache()
        self._pool = pool
        self.free = pool.free
        self._others_wait = others_wait
        self._cast_bytes_max = min(QUICK_BYTES_MAX, limits.body_bytes_max) if others_wait else limits.body_bytes_max

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
        no room, TooMuchWork where others wait."""
        if isinstance(payload, EncodedStream):
            return self._write_stream(payload, spec, where)
        if trusted:
            payload = fitted(payload, spec, where, self.limits.body_bytes_max)
        else:
            if self._others_wait and payload.get_total_buffer_size() > QUICK_BYTES_MAX:
                raise TooMuchWork
            validate_batch(payload, self.limits)
            # What declares no input takes any columns, if there are some.
            if spec.input_schema is not None or not payload.num_columns:
                payload = self._fitted(payload, spec, where)
        return write_batch(payload, self.schemas, self.allocate, self.free), payload.num_rows

    def _fitted(self, batch: pa.RecordBatch, spec: MethodSpec, where: str) -> pa.RecordBatch:
        """What is small as it came may be large when cast."""
        try:
            return fitted(batch, spec, where, self._cast_bytes_max)
        except TooLarge:
            if self._cast_bytes_max < self.limits.body_bytes_max:
                raise TooMuchWork from None
            raise

    def _write_stream(self, payload: EncodedStream, spec: MethodSpec, where: str) -> tuple[frames.Region, int]:
        nbytes = sum(len(piece) for piece in payload.pieces)
        if nbytes < 8:
            raise InvalidArgument(f"an Arrow IPC stream is expected; the body has {nbytes} bytes")
        if nbytes > QUICK_BYTES_MAX:
            if self._others_wait:
                raise TooMuchWork
            if self._is_rewritten(payload, spec, where):
                return self._write_anew(payload, nbytes, spec, where)
        region, memory = self.allocate(nbytes)
        try:
            _copy(payload, memory)
            batch = decode_stream(pa.py_buffer(memory), self.limits)
            taken = self._fitted(batch, spec, where)
            if taken is batch and self._is_plain(batch, memory):
                known = self.schemas.at_head(memory)
                staged = frames.Region(
                    region.owner, region.segment, region.offset, nbytes, known.schema_id, region.generation
                )
                return staged, batch.num_rows
            rewritten = write_batch(taken, self.schemas, self.allocate, self.free)
        except BaseException:
            self._pool.free(region.segment, region.offset)
            raise
        self._pool.free(region.segment, region.offset)
        return rewritten, batch.num_rows

    def _is_rewritten(self, payload: EncodedStream, spec: MethodSpec, where: str) -> bool:
        """Whether the rows cannot stay as they came, by their schema. Then they are read outside of shared memory: two
        regions for one large request would be had by one while another waits for its second."""
        head = bytes(payload.pieces[0][:_HEAD_BYTES])
        end = 8 + int.from_bytes(head[4:8], "little")
        if len(head) < end:
            return False
        schema = decode_stream(pa.py_buffer(head[:end] + END_OF_STREAM), self.limits).schema
        return has_dictionary(schema) or not passes(spec, schema, where)

    def _write_anew(
        self, payload: EncodedStream, nbytes: int, spec: MethodSpec, where: str
    ) -> tuple[frames.Region, int]:
        encoded = pa.allocate_buffer(nbytes)
        _copy(payload, memoryview(encoded))
        batch = fitted(decode_stream(encoded, self.limits), spec, where, self.limits.body_bytes_max)
        return write_batch(batch, self.schemas, self.allocate, self.free), batch.num_rows

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


class LargeStaging:
    """Stages what takes its time, `LARGE_AT_ONCE_MAX` at once."""

    def __init__(self, pool: SegmentPool, limits: EdgeLimits) -> None:
        self._pool = pool
        self._limits = limits
        self._places = threading.Semaphore(LARGE_AT_ONCE_MAX)
        # The loop's threads are for others, too.
        self._loop_places = asyncio.Semaphore(LARGE_AT_ONCE_MAX)

    def stage(self, payload: pa.RecordBatch | EncodedStream, destination: Destination) -> Staged:
        """Blocks. Raises what `Staging.write` raises. Any thread but the loop's."""
        staging, spec = Staging(self._pool, self._limits, others_wait=False), destination.method
        with self._places:
            region, rows = staging.write(payload, spec, destination.where, False)
        return Staged(payload, spec, region, rows, self._pool)

    async def stage_soon(self, payload: pa.RecordBatch | EncodedStream, destination: Destination) -> Staged:
        """The same, on the loop, by one of its threads. Who gives up does not end that thread, which keeps its place
        as long as it works."""
        await self._loop_places.acquire()
        # No name for what is begun: frames of a call that was given up live on, and with them what was staged.
        return await asyncio.shield(self._begin(payload, destination))

    def _begin(self, payload: pa.RecordBatch | EncodedStream, destination: Destination) -> asyncio.Future[Staged]:
        try:
            staging = asyncio.get_running_loop().run_in_executor(None, self.stage, payload, destination)
        except BaseException:
            self._loop_places.release()
            raise
        staging.add_done_callback(lambda _: self._loop_places.release())
        return staging


def _copy(payload: EncodedStream, memory: memoryview) -> None:
    position = 0
    if len(memory) <= QUICK_BYTES_MAX:
        for piece in payload.pieces:
            memory[position : position + len(piece)] = piece
            position += len(piece)
        return
    # Lets go of the interpreter's lock, for which the event loop would wait.
    with pa.FixedSizeBufferWriter(pa.py_buffer(memory)) as sink:
        for piece in payload.pieces:
            sink.write(piece)
