"""Unions as a way to send values whose type a client does not know: each a union of all that it could be."""

from __future__ import annotations

import pyarrow as pa

from flightserve.errors import InvalidArgument


def untagged(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with plain columns for unions. Clients that do not know a parameter's type send each value as a union
    of all that it could be (flightsql-dbapi does). Raises InvalidArgument for a column with values of two types."""
    if not any(pa.types.is_union(kind) for kind in batch.schema.types):
        return batch
    columns = [_plain(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).replace_schema_metadata(batch.schema.metadata)


def _plain(name: str, column: pa.Array) -> pa.Array:
    return _member(name, column) if pa.types.is_union(column.type) else column


def _member(name: str, column: pa.UnionArray) -> pa.Array:
    """The values of the one member that all rows of the union use. The column is as a stream brought it: of a slice,
    pyarrow gives the codes and offsets from the beginning."""
    if not len(column):  # as a stream brings it: its codes have no buffer, and to ask for them ends the process
        return pa.nulls(0)
    used = set(column.type_codes.to_pylist())
    if len(used) > 1:
        raise InvalidArgument(f"parameter {name!r} has values of several types; bind one type for all rows")
    members = {code: i for i, code in enumerate(column.type.type_codes)}
    member = column.field(members[used.pop()])
    return member if column.type.mode == "sparse" else member.take(column.offsets)
