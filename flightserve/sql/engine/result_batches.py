"""A result's record batches: put together until they are worth sending, cut where they are too large for clients.

Dictionaries are written out: a dictionary goes with every batch, or is a message of its own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import pyarrow as pa

from flightserve.fabric.memory.sizes import nbytes_of

# Batches are put together up to the first, cut above the second. Flight clients refuse messages of 16 MiB.
GATHER_BYTES: Final = 2 << 20
BATCH_BYTES_MAX: Final = 8 << 20

Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def table_within(batches: Iterable[pa.RecordBatch], schema: pa.Schema, bytes_max: int) -> pa.Table | None:
    """All batches as one, or None as soon as they are more than so many bytes."""
    read, nbytes = [], 0
    for batch in batches:
        read.append(batch)
        nbytes += nbytes_of(batch)
        if nbytes > bytes_max:
            return None
    return pa.Table.from_batches(read, schema)


def conform(rows: Rows, schema: pa.Schema) -> Rows:
    """The rows with that schema's names and types. Raises ValueError where columns are others."""
    if not conforms(rows.schema, schema):
        raise ValueError("the columns are others")
    # Arrow casts what differs, and refuses what would lose by it.
    return type(rows).from_arrays(rows.columns, schema=schema)


def conforms(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether rows of one schema may be cast to the other: a number of one width to another, nulls to anything. Arrow
    casts structs too, and makes nulls of fields that it does not find."""
    pairs = list(zip(found.types, wanted.types, strict=False))
    nested = any(a != b and (a.num_fields or b.num_fields) and not pa.types.is_null(a) for a, b in pairs)
    return len(found) == len(wanted) and not nested


def gather(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows in batches worth sending: the first at once, later ones of `GATHER_BYTES` and more, none above
    `BATCH_BYTES_MAX` but for single rows that are. Without rows there is one batch of none."""
    waiting: list[pa.RecordBatch] = []
    nbytes, enough, sent = 0, 1, False
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        nbytes += nbytes_of(batch)
        if nbytes >= enough:
            yield from cut(join(waiting))
            waiting, nbytes, sent = [], 0, True
            enough = min(GATHER_BYTES, max(enough * 8, 1 << 16))
    if waiting:
        yield from cut(join(waiting))
    elif not sent:
        yield pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def join(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The batches as one."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of at most `BATCH_BYTES_MAX`, or of one row."""
    nbytes, rows = nbytes_of(batch), batch.num_rows
    if nbytes <= BATCH_BYTES_MAX or rows <= 1:
        yield batch
        return
    # Halves, because the mean says nothing of where the large rows lie.
    half = rows // 2
    yield from cut(batch.slice(0, half))
    yield from cut(batch.slice(half))


# Of `pa.dictionary`; what `pa.types.is_dictionary` asks.
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.utf8()).id


def plain_schema(schema: pa.Schema) -> pa.Schema | None:
    """The schema with dictionaries written out, None where it has none."""
    kinds = schema.types
    if not any(kind.num_fields or kind.id == _DICTIONARY for kind in kinds):
        return None
    plain = [_plain_type(kind) for kind in kinds]
    return None if plain == kinds else pa.schema([f.with_type(kind) for f, kind in zip(schema, plain, strict=True)])


def write_out_dictionaries(batch: pa.RecordBatch, plain: pa.Schema) -> pa.RecordBatch:
    """The batch in its plain schema."""
    pairs = zip(batch.columns, plain, strict=True)
    return pa.RecordBatch.from_arrays(
        [column if column.type == field.type else column.cast(field.type) for column, field in pairs], schema=plain
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_plain_type(kind.field(i).type)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        key, item = _plain_type(kind.key_type), _plain_type(kind.item_type)
        # Of map() the keys have no type, and Arrow makes no such map itself.
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)), kind.list_size)
    return kind
