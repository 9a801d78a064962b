"""Arrow IPC streams from strangers, decoded without trusting a byte.

Before Arrow reads anything, the stream's messages are walked in Python, with every position checked: one schema
first, then dictionaries and batches, all of them whole, little-endian, aligned, no more than the limits, and not
unpacking beyond them (each compressed buffer begins with the length it unpacks to). What the walk refuses never
reaches C++. Then Arrow reads, and `validate(full=True)` looks at every offset, index and string before any value is
touched. Rules that need a word:

- Arrow appends a delta to its dictionary unseen: what either holds is read by itself and validated before. Each delta
  makes a new dictionary, of all that there is by then; together they are bounded as a body is.
- Other byte orders are refused: Arrow would swap bytes of arrays that nobody has validated.
- Extension types are read as their storage: the field keeps the extension's name and metadata, so that they go on
  unharmed, but neither registered Python hooks nor Arrow's own parsers see a stranger's metadata here.
- Rows cost memory downstream even where they have no bytes (null columns, run ends), so their count is bounded by
  the stream's size.

The format is Arrow's "Encapsulated message format" and its flatbuffer tables Message, RecordBatch, DictionaryBatch
and Schema (format/Message.fbs, format/Schema.fbs). A small stream of one batch takes 8 us, and 4 where its headers came
before; bodies are not copied.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.memory.batches import END_OF_STREAM, has_dictionary
from flightserve.fabric.memory.extensions import HIDDEN_NAME, restored
from flightserve.fabric.memory.schemas import EXTENSION_NAME, empty_batch
from flightserve.fabric.memory.sizes import nbytes_of

BATCHES_MAX: Final = 65_536
# A row of the smallest kind, a boolean, takes one bit. Streams of few bytes may still hold some rows of nothing.
ROWS_PER_BYTE_MAX: Final = 8
ROWS_FREE: Final = 1 << 20
ALIGNMENT: Final = 8

# Python's decimals convert within this; the widest decimal has 76 digits.
DECIMAL_SCALE_MAX: Final = 1000

_NO_CLASS: Final = frozenset({pa.lib.Type_INTERVAL_MONTHS, pa.lib.Type_INTERVAL_DAY_TIME})
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_CONTINUATION: Final = 0xFFFFFFFF
_FILE: Final = b"ARROW1"
_CACHED_MESSAGE_BYTES_MAX: Final = 16 << 10
_CACHED_LAYOUTS_MAX: Final = 256

_HEAD: Final = struct.Struct("<Ii").unpack_from
_U8: Final = struct.Struct("<B").unpack_from
_U16: Final = struct.Struct("<H").unpack_from
_I16: Final = struct.Struct("<h").unpack_from
_U32: Final = struct.Struct("<I").unpack_from
_I32: Final = struct.Struct("<i").unpack_from
_I64: Final = struct.Struct("<q").unpack_from

_ARROW_ERRORS: Final = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class _Known:
    """A schema message's meaning. `schema` names extensions; `readable` hides their names from Arrow, and
    `hidden` is its message (b"" where there are none)."""

    schema: pa.Schema
    readable: pa.Schema
    hidden: bytes
    dictionaries: bool
    fields: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Dictionary:
    """A dictionary's message. `delta_at` is where it says that it is a delta, 0 where it is none."""

    number: int
    start: int
    stop: int
    delta_at: int


@dataclass(slots=True)
class _Layout:
    """Where a stream's messages are. `batches` are (start, stop) in bytes."""

    known: _Known
    schema_end: int
    batches: list[tuple[int, int]]
    rows: int = 0
    unpacked: int = 0
    dictionaries: list[_Dictionary] = field(default_factory=list)
    compressed: bool = False


def decode_stream(buffer: pa.Buffer, limits: EdgeLimits) -> pa.RecordBatch:
    """All rows of one IPC stream as one valid batch, over the same memory where it holds one uncompressed batch.

    A stream without batches gives an empty one. Raises InvalidArgument for anything that is not a valid stream,
    TooLarge where it would unpack to more than `limits.body_bytes_max`.
    """
    if buffer.address % ALIGNMENT:
        buffer = pa.py_buffer(memoryview(buffer).tobytes())
    memory = memoryview(buffer)
    try:
        layout = _known_layout(memory, limits) or _walk(memory, limits)
    except (struct.error, IndexError, OverflowError) as error:
        raise InvalidArgument("not a valid Arrow IPC stream: a message's header points outside it") from error
    try:
        if any(each.delta_at for each in layout.dictionaries):
            _check_deltas(memory, layout, limits)
        return _read(buffer, memory, layout)
    except _ARROW_ERRORS as error:
        raise InvalidArgument(f"not a valid Arrow IPC stream: {_first_line(error)}") from error


def validate_batch(batch: pa.RecordBatch, limits: EdgeLimits) -> None:
    """The same checks for a batch that another library decoded (Flight). Raises InvalidArgument."""
    if batch.num_columns > limits.columns_max:
        raise InvalidArgument(f"the batch has {batch.num_columns} columns; at most {limits.columns_max} are taken")
    try:
        batch.validate(full=True)
    except _ARROW_ERRORS as error:
        raise InvalidArgument(f"the batch is not valid: {_first_line(error)}") from error
    if batch.num_rows > ROWS_FREE:
        _check_rows(batch.num_rows, nbytes_of(batch))


def check_schema(schema: pa.Schema, limits: EdgeLimits) -> None:
    """The same checks for a schema that another library decoded (Flight), once for a stream. Raises InvalidArgument."""
    try:
        fields, depth, _ = _measure(schema)
    except _ARROW_ERRORS as error:
        raise InvalidArgument(f"the stream's schema cannot be read: {_first_line(error)}") from error
    _check_extent(fields, depth, limits)


# ---- the walk: nothing of Arrow's but the schema message is parsed here


def _walk(memory: memoryview, limits: EdgeLimits) -> _Layout:
    size = len(memory)
    schema_end, kind, body = _message(memory, 0, size)
    if kind != _SCHEMA:
        raise InvalidArgument("not an Arrow IPC stream: it does not begin with a schema message")
    if body:
        raise InvalidArgument("not a valid Arrow IPC stream: its schema message has a body")
    known = _known(bytes(memory[:schema_end]), limits)
    layout = _Layout(known, schema_end, [])
    position, ended = schema_end, False
    while position < size:
        if size - position >= 8 and _HEAD(memory, position) == (_CONTINUATION, 0):
            ended = True
            position += 8
            break
        stop, kind, body = _message(memory, position, size)
        _note(memory, layout, position, stop, kind, body, limits)
        position = stop
    if position != size:
        raise InvalidArgument("bytes follow the end of the Arrow IPC stream; send one stream a request")
    if not ended and not layout.batches:
        raise InvalidArgument("the Arrow IPC stream is truncated: it stops behind its schema")
    if layout.rows > ROWS_FREE:
        _check_rows(layout.rows, size + layout.unpacked)
    elif len(layout.batches) == 1 and not (layout.compressed or layout.dictionaries):
        _remember(memory, layout, limits)
    return layout


# Layouts of small streams of one plain batch, by their two headers, and their sizes: clients send the same again and
# again but for the rows. Any thread; it starts anew when strangers fill it.
_layouts: dict[tuple[bytes, int], _Layout] = {}


def _remember(memory: memoryview, layout: _Layout, limits: EdgeLimits) -> None:
    """Where it follows from the headers alone: positions in them may point into the rows, of hostile ones."""
    heads = _heads(memory)
    if not heads:
        return
    heads_only = memoryview(heads)
    try:
        again = _Layout(layout.known, layout.schema_end, [])
        _message(heads_only, 0, len(memory))
        _note(heads_only, again, layout.schema_end, *_message(heads_only, layout.schema_end, len(memory)), limits)
    except (struct.error, IndexError):
        return
    if again == layout:
        if len(_layouts) >= _CACHED_LAYOUTS_MAX:
            _layouts.clear()
        _layouts[heads, len(memory)] = layout


def _known_layout(memory: memoryview, limits: EdgeLimits) -> _Layout | None:
    """What the walk would find, where it has been through the same headers."""
    layout = _layouts.get((_heads(memory), len(memory)))
    # Behind the rows it looks at nothing but the end of the stream.
    if layout is None or not (layout.batches[0][1] == len(memory) or bytes(memory[-8:]) == END_OF_STREAM):
        return None
    _check_extent(layout.known.fields, layout.known.depth, limits)
    return layout


def _heads(memory: memoryview) -> bytes:
    """The headers of the first two messages, if there are two; nothing where they are large."""
    stop = 8
    for _ in range(2):
        if stop > len(memory) or stop > _CACHED_MESSAGE_BYTES_MAX:
            return b""
        stop += int(_U32(memory, stop - 4)[0]) + 8
    stop -= 8
    return bytes(memory[:stop]) if stop <= min(len(memory), _CACHED_MESSAGE_BYTES_MAX) else b""


def _message(memory: memoryview, start: int, size: int) -> tuple[int, int, int]:
    """The message at `start`: (where it ends, kind of header, bytes of body)."""
    if size - start < 8:
        raise InvalidArgument(f"the Arrow IPC stream is truncated: {size - start} bytes where a message should begin")
    marker, length = _HEAD(memory, start)
    if marker != _CONTINUATION:
        if not start and bytes(memory[:6]) == _FILE:
            raise InvalidArgument(
                "an Arrow IPC file (Feather), not an Arrow IPC stream: write a stream, by new_stream of "
                'pyarrow.ipc, write_ipc_stream of polars, tableToIPC(table, "stream") of apache-arrow'
            )
        raise InvalidArgument("not an Arrow IPC stream: a message does not begin with 0xFFFFFFFF")
    if length <= 0 or length % ALIGNMENT:
        raise InvalidArgument(f"not a valid Arrow IPC stream: a message header of {length} bytes")
    metadata = start + 8
    if metadata + length > size:
        raise InvalidArgument("the Arrow IPC stream is truncated inside a message's header")
    root = metadata + _U32(memory, metadata)[0]
    kind_at = _field(memory, root, 1)
    body_at = _field(memory, root, 3)
    kind = _U8(memory, kind_at)[0] if kind_at else 0
    body = _I64(memory, body_at)[0] if body_at else 0
    if body < 0 or body % ALIGNMENT:
        raise InvalidArgument(f"not a valid Arrow IPC stream: a message body of {body} bytes")
    stop = metadata + length + body
    if stop > size:
        raise InvalidArgument("the Arrow IPC stream is truncated inside a message's body")
    return stop, kind, body


def _field(memory: memoryview, table: int, slot: int) -> int:
    """Position of a flatbuffer table's field, 0 where it is absent."""
    vtable = table - _I32(memory, table)[0]
    if vtable < 0 or 6 + 2 * slot > _U16(memory, vtable)[0]:
        return 0
    offset = _U16(memory, vtable + 4 + 2 * slot)[0]
    return table + offset if offset else 0


def _child(memory: memoryview, table: int, slot: int) -> int:
    """Position of the table or vector that a field refers to, 0 where it is absent."""
    at = _field(memory, table, slot)
    return at + _U32(memory, at)[0] if at else 0


def _header(memory: memoryview, start: int) -> int:
    metadata = start + 8
    return _child(memory, metadata + _U32(memory, metadata)[0], 2)


def _note(memory: memoryview, layout: _Layout, start: int, stop: int, kind: int, body: int, limits: EdgeLimits) -> None:
    """Check one message behind the schema and add it to the layout."""
    if kind == _SCHEMA:
        raise InvalidArgument("the Arrow IPC stream holds a second schema; all batches of a stream share one")
    if kind not in (_DICTIONARY, _BATCH):
        raise InvalidArgument("not a valid Arrow IPC stream: a message that is neither a batch nor a dictionary")
    table = _header(memory, start)
    if kind == _DICTIONARY:
        if len(layout.dictionaries) >= BATCHES_MAX:
            raise InvalidArgument(f"the Arrow IPC stream holds more than {BATCHES_MAX} dictionaries")
        layout.dictionaries.append(_dictionary(memory, table, start, stop))
        table = _child(memory, table, 1)
    elif len(layout.batches) >= BATCHES_MAX:
        raise InvalidArgument(f"the Arrow IPC stream holds more than {BATCHES_MAX} batches")
    else:
        layout.batches.append((start, stop))
    if not table:
        raise InvalidArgument("not a valid Arrow IPC stream: a batch without a header")
    rows_at = _field(memory, table, 0)
    rows = _I64(memory, rows_at)[0] if rows_at else 0
    if rows < 0:
        raise InvalidArgument(f"not a valid Arrow IPC stream: a batch of {rows} rows")
    layout.rows += rows
    if _field(memory, table, 3):
        layout.compressed = True
        layout.unpacked += _unpacked_bytes(memory, table, stop - body, body)
        if layout.unpacked > limits.body_bytes_max:
            raise TooLarge(f"the Arrow IPC stream unpacks to more than {limits.body_bytes_max} bytes")


def _dictionary(memory: memoryview, table: int, start: int, stop: int) -> _Dictionary:
    number_at, delta_at = _field(memory, table, 0), _field(memory, table, 2)
    number = _I64(memory, number_at)[0] if number_at else 0
    return _Dictionary(number, start, stop, delta_at if delta_at and _U8(memory, delta_at)[0] else 0)


def _unpacked_bytes(memory: memoryview, table: int, body_start: int, body: int) -> int:
    """What the buffers of a compressed batch unpack to, by their own account, which Arrow holds them to."""
    vector = _child(memory, table, 2)
    if not vector:
        return 0
    count = _U32(memory, vector)[0]
    if vector + 4 + 16 * count > len(memory):
        raise InvalidArgument("not a valid Arrow IPC stream: a batch lists more buffers than it has")
    total = 0
    for offset, length in struct.iter_unpack("<qq", memory[vector + 4 : vector + 4 + 16 * count]):
        if offset < 0 or length < 0 or offset + length > body:
            raise InvalidArgument("not a valid Arrow IPC stream: a buffer lies outside its message")
        if length >= 8:
            unpacked = _I64(memory, body_start + offset)[0]
            if unpacked < -1:
                raise InvalidArgument(f"not a valid Arrow IPC stream: a buffer that unpacks to {unpacked} bytes")
            total += length if unpacked == -1 else unpacked
    return total


def _check_rows(rows: int, nbytes: int) -> None:
    if rows > max(ROWS_FREE, ROWS_PER_BYTE_MAX * nbytes):
        raise InvalidArgument(f"the batch claims {rows} rows in {nbytes} bytes")


# ---- schemas


def _known(message: bytes, limits: EdgeLimits) -> _Known:
    if len(message) <= _CACHED_MESSAGE_BYTES_MAX:
        known = _cached(message)
    else:
        columns = _column_count(message)
        if columns > limits.columns_max:
            raise InvalidArgument(f"the schema has {columns} columns; at most {limits.columns_max} are taken")
        known = _parse_schema(message)
    _check_extent(known.fields, known.depth, limits)
    return known


def _check_extent(fields: int, depth: int, limits: EdgeLimits) -> None:
    if fields > limits.columns_max:
        raise InvalidArgument(f"the schema has {fields} fields; at most {limits.columns_max} are taken")
    if depth > limits.nesting_max:
        raise InvalidArgument(f"the schema nests {depth} types deep; at most {limits.nesting_max} are taken")


def _column_count(message: bytes) -> int:
    memory = memoryview(message)
    vector = _child(memory, _header(memory, 0), 1)
    return int(_U32(memory, vector)[0]) if vector else 0


def _parse_schema(message: bytes) -> _Known:
    memory = memoryview(message)
    endianness_at = _field(memory, _header(memory, 0), 0)
    if endianness_at and _I16(memory, endianness_at)[0]:
        raise InvalidArgument("the Arrow IPC stream is big-endian; little-endian is taken")
    extensions = EXTENSION_NAME in message
    if extensions:
        # Same length, so no position in the flatbuffer changes.
        message = message.replace(EXTENSION_NAME, HIDDEN_NAME)
    try:
        readable = pa.ipc.read_schema(pa.py_buffer(message))
        fields, depth, dictionaries = _measure(readable)
        schema = restored(readable) if extensions else readable
    except _ARROW_ERRORS as error:
        raise InvalidArgument(f"the stream's schema cannot be read: {_first_line(error)}") from error
    return _Known(schema, readable, message if extensions else b"", dictionaries, fields, depth)


_cached = functools.lru_cache(maxsize=512)(_parse_schema)


def _measure(schema: pa.Schema) -> tuple[int, int, bool]:
    """(fields at all depths, greatest depth, any dictionary), without recursion.

    Raises UnicodeDecodeError for a name that is not UTF-8 (Arrow keeps those as bytes until somebody asks), ValueError
    for a type that `_check_type` refuses.
    """
    fields, deepest, dictionaries = 0, 0, False
    pending = [(field.type, 1) for field in schema]
    _ = schema.names
    while pending:
        kind, depth = pending.pop()
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        fields += 1
        deepest = max(deepest, depth)
        _check_type(kind)
        if pa.types.is_dictionary(kind):
            dictionaries = True
            pending.append((kind.value_type, depth + 1))
        else:
            pending.extend((kind.field(i).type, depth + 1) for i in range(kind.num_fields))
    return fields, deepest, dictionaries


def _check_type(kind: pa.DataType) -> None:
    """Refuse what Arrow reads and then trips over: found by fuzzing, one line each."""
    if kind.id in _NO_CLASS:
        raise ValueError("a type that pyarrow does not have: an interval of months or of days")
    if pa.types.is_timestamp(kind):
        _ = kind.tz  # raises UnicodeDecodeError
    elif pa.types.is_decimal(kind) and abs(kind.scale) > DECIMAL_SCALE_MAX:
        raise ValueError(f"a decimal with the scale {kind.scale}")
    elif pa.types.is_fixed_size_list(kind) and kind.list_size < 0:
        raise ValueError(f"a list of {kind.list_size} values")
    elif pa.types.is_union(kind) and not kind.num_fields:
        raise ValueError("a union of no types")
    for i in range(kind.num_fields):
        _ = kind.field(i).name  # raises UnicodeDecodeError


# ---- Arrow reads


def _read(buffer: pa.Buffer, memory: memoryview, layout: _Layout) -> pa.RecordBatch:
    known = layout.known
    if layout.dictionaries or known.dictionaries:
        batches = _read_with_dictionaries(buffer, memory, layout)
    else:
        readable = known.readable
        spans = layout.batches
        batches = [pa.ipc.read_record_batch(buffer.slice(start, stop - start), readable) for start, stop in spans]
    for batch in batches:
        batch.validate(full=True)
    if len(batches) == 1:
        batch = batches[0]
    elif batches:
        batch = pa.concat_batches(batches)
    else:
        batch = empty_batch(known.readable)
    if known.hidden and batch.num_columns:
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=known.schema)
    return batch


def _read_with_dictionaries(buffer: pa.Buffer, memory: memoryview, layout: _Layout) -> list[pa.RecordBatch]:
    hidden = layout.known.hidden
    if hidden:
        buffer = pa.py_buffer(hidden + bytes(memory[layout.schema_end :]))
    with pa.ipc.open_stream(buffer) as reader:
        return list(reader)


def _check_deltas(memory: memoryview, layout: _Layout, limits: EdgeLimits) -> None:
    """Validate each dictionary's message for itself, in a stream that has it as a whole dictionary and no rows."""
    readable = layout.known.readable
    if any(has_dictionary(kind.value_type) for kind in _dictionary_types(readable)):
        raise InvalidArgument("delta dictionaries of dictionaries are not taken; write whole dictionaries")
    numbers = {each.number for each in layout.dictionaries}
    sizes = dict.fromkeys(numbers, 0)
    whole = 0
    rows = memoryview(empty_batch(readable).serialize()).cast("B")
    pieces: list[bytes | memoryview] = [layout.known.hidden or memory[: layout.schema_end]]
    for place, each in enumerate(layout.dictionaries):
        if each.delta_at and place < len(numbers):
            raise InvalidArgument("not a valid Arrow IPC stream: a delta before the first whole dictionaries")
        # What is compressed was bounded by what it says that it unpacks to, all together.
        sizes[each.number] += each.stop - each.start + layout.unpacked
        whole += sizes[each.number] if each.delta_at else 0
        if whole > limits.body_bytes_max:
            raise TooLarge(f"the deltas make dictionaries of more than {limits.body_bytes_max} bytes; write them whole")
        message = bytearray(memory[each.start : each.stop])
        if each.delta_at:
            message[each.delta_at - each.start] = 0
        pieces.append(bytes(message))
        if place + 1 >= len(numbers):
            pieces.append(rows)
    with pa.ipc.open_stream(b"".join(pieces)) as reader:
        for batch in reader:
            batch.validate(full=True)


def _dictionary_types(schema: pa.Schema) -> Iterator[pa.DataType]:
    pending = [field.type for field in schema]
    while pending:
        kind = pending.pop()
        if pa.types.is_dictionary(kind):
            yield kind
        else:
            pending.extend(kind.field(i).type for i in range(kind.num_fields))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:512]
