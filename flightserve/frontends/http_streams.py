"""Calls that have a task of their own: Arrow bodies, packed and large ones, and methods that are not row-aligned.

An Arrow body goes on in the pieces it arrived in; the data plane copies it once, into shared memory. A reply that is
one result is the region itself, given to the socket without a copy. Replies of streaming methods leave as they are
produced, as Arrow or as lines of JSON (`application/x-ndjson`); as one JSON object they are collected, up to a bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flightserve.errors import FlightserveError, MethodFailed, TooLarge
from flightserve.fabric.service import AsyncCall, EncodedStream, Payload, Result
from flightserve.frontends.edge import as_error
from flightserve.frontends.http_bodies import ARROW, JSON, NDJSON, unpack
from flightserve.frontends.http_errors import error_body
from flightserve.frontends.http_exchange import Exchange
from flightserve.frontends.json_columns import JsonColumns, build, declared_schema, parse

if TYPE_CHECKING:
    from flightserve.frontends.http_calls import Calls

# Unpacking more than this leaves the event loop for a thread.
_THREAD_BYTES_MIN: Final = 64 << 10


async def run(calls: Calls, exchange: Exchange) -> None:
    """Answer one exchange. Cancelled when its client goes away; raises nothing else."""
    call: AsyncCall | None = None
    try:
        payload = await _payload(calls, exchange)
        call = calls.service.call(*exchange.route, payload, exchange.meta)
        del payload
        if exchange.spec.streaming and exchange.form_out is not JSON:
            await _stream(exchange, call)
        else:
            calls.answer_pieces(exchange, await _collect(calls, exchange, call))
        call = None
    except asyncio.CancelledError:
        if not exchange.disconnected:
            raise
    except FlightserveError as error:
        exchange.fail(error)
    except Exception as error:
        exchange.fail(as_error(error, exchange.request_id))
    finally:
        if call is not None:
            call.cancel()


async def _payload(calls: Calls, exchange: Exchange) -> Payload:
    limits = calls.limits
    pieces, exchange.pieces = exchange.pieces, []
    if exchange.packed:
        how, size_max = exchange.packed, exchange.size_max
        if exchange.size >= _THREAD_BYTES_MIN:
            loop = asyncio.get_running_loop()
            pieces = await loop.run_in_executor(None, unpack, pieces, how, size_max)
        else:
            pieces = unpack(pieces, how, size_max)
    if exchange.form_in is ARROW:
        return EncodedStream(pieces)
    serialised = exchange.spec.input_schema
    schema = None if serialised is None else declared_schema(serialised)
    body = parse(pieces[0] if len(pieces) == 1 else b"".join(pieces), limits, schema)
    exchange.body = body
    batch = build([body], schema)
    # Only the shape of the answer is still needed, not the lists.
    body.columns = {}
    return batch


async def _collect(calls: Calls, exchange: Exchange, call: AsyncCall) -> list[Result]:
    """All results. Those that become one JSON text are bounded: it would be held in memory as a whole."""
    results: list[Result] = []
    nbytes = 0
    bytes_max = calls.limits.body_bytes_max if exchange.form_out is ARROW else calls.limits.json_bytes_max
    async for result in call:
        results.append(result)
        if len(results) > 1 or exchange.form_out is not ARROW:
            nbytes += result.batch().nbytes
            if nbytes > bytes_max:
                raise TooLarge(
                    f"the reply holds more than {bytes_max} bytes; send fewer rows, or ask for {ARROW.decode()}"
                )
    if not results and (exchange.spec.streaming or not exchange.spec.row_aligned):
        return [_Nothing(_empty(exchange))]
    return results


class _Nothing:
    """The reply of a method that yielded no batch (`fabric.service.Result`)."""

    def __init__(self, empty: pa.RecordBatch) -> None:
        self._empty = empty
        self.num_rows = 0

    def batch(self) -> pa.RecordBatch:
        return self._empty

    def ipc_stream(self) -> pa.Buffer:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._empty.schema):
            pass
        return sink.getvalue()


def _empty(exchange: Exchange) -> pa.RecordBatch:
    """No rows, of the declared schema or of one without columns."""
    declared = exchange.spec.output_schema
    schema = pa.schema([]) if declared is None else declared_schema(declared)
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


async def _stream(exchange: Exchange, call: AsyncCall) -> None:
    """Write each result as it comes. The head waits for the first: until then an error still has a status."""
    encoder = _ArrowPieces() if exchange.form_out is ARROW else _Lines()
    try:
        async for result in call:
            piece = encoder.piece(result.batch())
            if not exchange.response_started:
                exchange.begin(exchange.form_out)
            await exchange.write(piece)
        if not exchange.response_started:
            exchange.begin(exchange.form_out)
            await exchange.write(encoder.piece(_empty(exchange)))
        await exchange.write(encoder.end())
    except FlightserveError as error:
        if exchange.response_started and exchange.form_out is NDJSON:
            # The last line says what happened; the missing end of the body, that it is not whole.
            await exchange.write(error_body(error, exchange.request_id) + b"\n")
        raise
    exchange.end()


class _ArrowPieces:
    """Results as one Arrow IPC stream, piece by piece."""

    def __init__(self) -> None:
        self._sink = _Sink()
        self._writer: Any = None

    def piece(self, batch: pa.RecordBatch) -> bytes:
        """The bytes that this batch adds; the first batch brings the schema."""
        if self._writer is None:
            self._writer = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), batch.schema)
        try:
            self._writer.write_batch(batch)
        except pa.ArrowException as error:
            raise MethodFailed(f"a batch of the reply does not have the schema of the first: {error}") from error
        return self._sink.take()

    def end(self) -> bytes:
        """The end of the stream."""
        self._writer.close()
        return self._sink.take()


class _Sink:
    """A file that gives away what was written to it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self.closed = True


class _Lines:
    """Results as NDJSON."""

    def piece(self, batch: pa.RecordBatch) -> bytes:
        return JsonColumns(batch).lines()

    def end(self) -> bytes:
        return b""
