"""All results of one request as one Arrow IPC stream or batch, for protocols whose reply is one message.

A request that ran whole has one result, and that result's region is the reply: no copy here. One that was sliced
over replicas, or whose method streams, has several; they are written into one stream, bounded in bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from flightserve.contracts.service import AsyncCall, Result
from flightserve.errors import TooLarge
from flightserve.fabric.memory.batches import alike, stream_of
from flightserve.fabric.memory.schemas import empty_batch
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.frontends.visits import TalliedVisit
from flightserve.types import MethodSpec

# gRPC clients refuse trailing metadata above 8 KiB. A byte that is not ASCII travels there as three, and pyarrow's
# Flight server sends the message a second time, in base64.
MESSAGE_BYTES_MAX: Final = 1500
# More is put together by a thread: it would hold up the event loop.
_THREAD_BYTES_MIN: Final = 1 << 20


async def collect(
    call: AsyncCall, spec: MethodSpec, bytes_max: int, visit: TalliedVisit | None = None
) -> memoryview | pa.Buffer:
    """Await the whole reply: one complete Arrow IPC stream.

    Raises what the call raises, and TooLarge where several results together hold more than `bytes_max` bytes.
    The call is cancelled whenever this ends early. A method that streamed nothing is answered by its declared
    schema, or by one without columns, and no rows. `visit` is told of the rows.
    """
    return await _collected(call, spec, bytes_max, _STREAM, visit)


async def collect_batch(call: AsyncCall, spec: MethodSpec, bytes_max: int) -> pa.RecordBatch:
    """The same as one record batch."""
    return await _collected(call, spec, bytes_max, _BATCH)


class _Whole(NamedTuple):
    """How a reply becomes one thing: of its only result, of several, of none."""

    only: Callable[[Result], Any]
    joined: Callable[[list[pa.RecordBatch]], Any]
    empty: Callable[[pa.Schema], Any]


async def _collected(
    call: AsyncCall, spec: MethodSpec, bytes_max: int, whole: _Whole, visit: TalliedVisit | None = None
) -> Any:
    results: list[Result] = []
    result: Result | None
    nbytes = 0
    try:
        async for result in call:
            results.append(result)
            if len(results) > 1 or spec.streaming:
                nbytes += nbytes_of(result.batch())
                if nbytes > bytes_max:
                    raise TooLarge(f"the reply is larger than {bytes_max} bytes; ask for fewer rows at a time")
        result = None
        if visit is not None:
            visit.rows = sum([each.num_rows for each in results])
        if len(results) > 1 and nbytes < _THREAD_BYTES_MIN:
            return _joined(results, spec, whole)
        if len(results) > 1:
            return await asyncio.get_running_loop().run_in_executor(None, _joined, results, spec, whole)
    except BaseException:
        call.cancel()
        # What is raised holds this frame; the rows must not wait until it goes.
        results.clear()
        result = None
        raise
    return whole.only(results[0]) if results else whole.empty(declared_schema_of(spec))


def _joined(results: Sequence[Result], spec: MethodSpec, whole: _Whole) -> Any:
    batches = [result.batch() for result in results]
    try:
        return whole.joined(alike(batches, spec))
    finally:
        # As above.
        del batches


def declared_schema_of(spec: MethodSpec) -> pa.Schema:
    """The declared schema of a method's output; one without columns where it declares none."""
    declared = spec.output_schema
    return pa.schema([]) if declared is None else pa.ipc.read_schema(pa.py_buffer(declared))


def empty_stream(schema: pa.Schema) -> pa.Buffer:
    """An IPC stream without rows."""
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return sink.getvalue()


_STREAM: Final = _Whole(lambda result: result.ipc_stream(), stream_of, empty_stream)
_BATCH: Final = _Whole(lambda result: result.batch(), pa.concat_batches, empty_batch)


def clip(message: str) -> str:
    """An error's message as any protocol can carry it: of bounded length, and encodable."""
    raw = message.encode("utf-8", "replace")
    if len(raw) > MESSAGE_BYTES_MAX:
        raw = raw[: MESSAGE_BYTES_MAX - 3] + b"..."
    return raw.decode("utf-8", "ignore")
