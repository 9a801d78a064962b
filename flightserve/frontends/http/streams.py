"""Calls that have a task of their own: Arrow bodies, packed and large ones, and methods that are not row-aligned.

An Arrow body goes on in the pieces it arrived in; the data plane copies it once, into shared memory. A reply that is
one result is the region itself, given to the socket without a copy. Replies of streaming methods leave as they are
produced, as Arrow, as lines of JSON (`application/x-ndjson`) or as events (`text/event-stream`); as one JSON object
they are collected, up to a bound. An error behind the first rows is the last line, or an event. Lines then lack the end
of the body, so that nobody takes them for whole; events are whole with the event that ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from flightserve.clock import monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.service import AsyncCall, EncodedStream, Payload, Result
from flightserve.errors import FlightserveError, TooLarge
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.frontends.edge import as_error
from flightserve.frontends.http import sql as http_sql
from flightserve.frontends.http.bodies import ARROW, EVENTS, JSON, NDJSON, unpack
from flightserve.frontends.http.encoders import ENCODERS, Encoder
from flightserve.frontends.http.errors import error_body
from flightserve.frontends.http.events import Events, KeepAlive, error_event
from flightserve.frontends.http.exchange import Exchange
from flightserve.frontends.http.exchange_states import ABANDONED, ANSWERING
from flightserve.frontends.http.ranges import place
from flightserve.frontends.json.columns import JsonBody, build, declared_schema, parse
from flightserve.frontends.json.text_sizes import text_bytes

if TYPE_CHECKING:
    from flightserve.frontends.http.calls import HttpCalls

# Unpacking or parsing more than this leaves the event loop for a thread.
_THREAD_BYTES_MIN: Final = 64 << 10
# Rows whose text is more are written in parts.
PART_BYTES: Final = 8 << 20


async def run(calls: HttpCalls, exchange: Exchange) -> None:
    """Answer one exchange. Cancelled when its client goes away; raises nothing else."""
    call: AsyncCall | None = None
    try:
        if http_sql.is_query(exchange.route):
            call, encoder = await http_sql.start(calls, exchange, b"".join(await unpacked(exchange)))
            if call is not None and exchange.ranged is not None:
                await _give_part(calls, exchange, call, encoder)
            elif call is not None:
                await _stream(calls, exchange, call, encoder)
            return
        if exchange.form_out is EVENTS and exchange.header("last-event-id"):
            exchange.nothing_more()
            return
        payload = await _payload(calls, exchange)
        call = calls.service.call(*exchange.route, payload, exchange.meta)
        del payload
        if exchange.spec.streaming and exchange.form_out is EVENTS:
            await _stream_events(calls, exchange, call)
        elif exchange.spec.streaming and exchange.form_out is not JSON:
            await _stream(calls, exchange, call, ENCODERS[exchange.form_out]())
        else:
            calls.answer_pieces(exchange, await _collect(calls, exchange, call))
        call = None
    except asyncio.CancelledError:
        if exchange.state is not ABANDONED:
            raise
    except FlightserveError as error:
        exchange.fail(error)
    except Exception as error:
        exchange.fail(as_error(error, exchange.request_id))
    finally:
        if call is not None:
            call.cancel()


async def _payload(calls: HttpCalls, exchange: Exchange) -> Payload:
    pieces = await unpacked(exchange)
    if exchange.form_in is ARROW:
        return EncodedStream(pieces)
    serialised = exchange.spec.input_schema
    schema = None if serialised is None else declared_schema(serialised)
    if sum(map(len, pieces)) < _THREAD_BYTES_MIN:
        exchange.body, batch = _read(pieces, calls.limits, schema)
    else:
        loop = asyncio.get_running_loop()
        exchange.body, batch = await loop.run_in_executor(None, _read, pieces, calls.limits, schema)
    return batch


def _read(pieces: list[Any], limits: EdgeLimits, schema: pa.Schema | None) -> tuple[JsonBody, pa.RecordBatch]:
    body = parse(pieces[0] if len(pieces) == 1 else b"".join(pieces), limits, schema)
    batch = build([body], schema)
    # Only the shape of the answer is still needed, not the lists.
    body.columns = {}
    return body, batch


async def unpacked(exchange: Exchange) -> list[bytes]:
    """The body's pieces, which the exchange lets go of. Raises TooLarge, InvalidArgument."""
    pieces, exchange.pieces = exchange.pieces, []
    if not exchange.packed:
        return pieces
    how, size_max = exchange.packed, exchange.size_max
    if exchange.size < _THREAD_BYTES_MIN:
        return unpack(pieces, how, size_max)
    return await asyncio.get_running_loop().run_in_executor(None, unpack, pieces, how, size_max)


async def _collect(calls: HttpCalls, exchange: Exchange, call: AsyncCall) -> list[Result]:
    """All results. Those that become one JSON text are bounded: it would be held in memory as a whole."""
    results: list[Result] = []
    nbytes = 0
    bytes_max = calls.limits.body_bytes_max if exchange.form_out is ARROW else calls.limits.json_bytes_max
    async for result in call:
        results.append(result)
        if len(results) > 1 or exchange.form_out is not ARROW:
            batch = result.batch()
            nbytes += nbytes_of(batch) if exchange.form_out is ARROW else text_bytes(batch)
            check_size(nbytes, bytes_max)
    if not results and (exchange.spec.streaming or not exchange.spec.row_aligned):
        return [_Nothing(_empty(exchange))]
    return results


def check_size(nbytes: int, bytes_max: int) -> None:
    """Raise TooLarge for a reply that is larger than one JSON text may be."""
    if nbytes > bytes_max:
        raise TooLarge(f"the reply holds more than {bytes_max} bytes; send fewer rows, or ask for {ARROW.decode()}")


class _Nothing:
    """The reply of a method that yielded no batch (`contracts.service.Result`)."""

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


async def _stream_events(calls: HttpCalls, exchange: Exchange, call: AsyncCall) -> None:
    """Write each result as it comes, and comments while none does."""
    alive = KeepAlive(exchange, calls.limits, asyncio.get_running_loop())
    try:
        await _stream(calls, exchange, call, Events(exchange.request_id), alive.spoke)
    except FlightserveError as error:
        if exchange.state < ANSWERING:
            raise
        call.cancel()
        await exchange.write(error_event(error_body(error, exchange.request_id)))
        exchange.end(error)
    finally:
        alive.stop()


async def _stream(
    calls: HttpCalls, exchange: Exchange, call: AsyncCall, encoder: Encoder, wrote: Callable[[], None] = lambda: None
) -> None:
    """Write each result as it comes; `wrote` is told of each. The head waits for the first rows: until then an error
    still has a status."""
    held = b""
    try:
        async with contextlib.aclosing(_pieces(calls, exchange, call, encoder)) as pieces:
            async for piece, has_rows in pieces:
                held += piece
                if held and (has_rows or exchange.state >= ANSWERING):
                    if exchange.state < ANSWERING:
                        exchange.begin(encoder.form)
                    await exchange.write(held)
                    wrote()
                    held = b""
        if exchange.state < ANSWERING:
            exchange.answer(encoder.form, held)
            return
    except FlightserveError as error:
        if exchange.state >= ANSWERING and encoder.form is NDJSON:
            # The last line says what happened; the missing end of the body, that it is not whole.
            await exchange.write(error_body(error, exchange.request_id) + b"\n")
        raise
    exchange.end()


async def _pieces(
    calls: HttpCalls, exchange: Exchange, call: AsyncCall, encoder: Encoder
) -> AsyncGenerator[tuple[bytes, bool]]:
    """The body's pieces, and whether each has rows."""
    told = False
    async for result in call:
        told = True
        exchange.rows += result.num_rows
        for batch in _parts(result.batch(), encoder.rows_max, calls.limits.json_bytes_max):
            yield await _encoded(encoder, batch), batch.num_rows > 0
        if encoder.full:
            break
    if not told:
        yield encoder.piece(_empty(exchange)), False
    yield encoder.end(), False


async def _give_part(calls: HttpCalls, exchange: Exchange, call: AsyncCall, encoder: Encoder) -> None:
    """Make the whole answer, keep it and give a part; give it as it comes where it is too large for that."""
    size, made = 0, list[bytes]()
    kept = calls.kept_answers
    try:
        async with contextlib.aclosing(_pieces(calls, exchange, call, encoder)) as pieces:
            async for piece, _ in pieces:
                if exchange.state < ANSWERING and kept.grow(size, len(piece)):
                    size += len(piece)
                    made.append(piece)
                    continue
                if exchange.state < ANSWERING:
                    exchange.begin(encoder.form)
                    made.append(piece)
                    piece = b"".join(made)
                    made.clear()
                await exchange.write(piece)
        if exchange.state >= ANSWERING:
            exchange.end()
        else:
            wanted = exchange.ranged
            assert wanted is not None
            answer = kept.keep(wanted, b"".join(made), monotonic_ns())
            exchange.answer_part(encoder.form, answer, place(wanted.part, len(answer)))
    finally:
        kept.made(size)


def _parts(batch: pa.RecordBatch, rows_max: int, bytes_max: int) -> Iterator[pa.RecordBatch]:
    """What is written at once: as it is where `rows_max` is 0, else so many rows, and less where they are large."""
    if not rows_max:
        yield batch
        return
    parts = [batch.slice(start, rows_max) for start in range(0, batch.num_rows, rows_max)] or [batch]
    parts.reverse()
    while parts:
        part = parts.pop()
        size = text_bytes(part)
        if size <= PART_BYTES:
            yield part
        elif part.num_rows > 1:
            half = part.num_rows // 2
            parts += (part.slice(half), part.slice(0, half))
        else:
            check_size(size, bytes_max)
            yield part


async def _encoded(encoder: Encoder, batch: pa.RecordBatch) -> bytes:
    if text_bytes(batch) < _THREAD_BYTES_MIN:
        return encoder.piece(batch)
    return await asyncio.get_running_loop().run_in_executor(None, encoder.piece, batch)
