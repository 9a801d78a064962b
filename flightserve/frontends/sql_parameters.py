"""Parameters that a DoPut binds to a prepared statement: how they are read, and for whom they are remembered."""

from __future__ import annotations

import collections
import threading
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.batches import stream_of
from flightserve.frontends.sql_tickets import TICKET_BYTES_MAX

BOUND_BYTES_MAX: Final = 2 * TICKET_BYTES_MAX
BOUND_MAX: Final = 10_000


def read_parameters(reader: Any) -> bytes:
    """All rows of a DoPut as one Arrow IPC stream; empty where there is not one column. Raises TooLarge,
    InvalidArgument."""
    batches: list[pa.RecordBatch] = []
    nbytes = 0
    try:
        for piece in reader:
            nbytes += piece.data.nbytes
            if nbytes > TICKET_BYTES_MAX:
                raise TooLarge(f"more than {TICKET_BYTES_MAX} bytes of parameters; bind fewer rows at a time")
            piece.data.validate(full=True)
            batches.append(untagged(piece.data))
        if not reader.schema.names:
            return b""
        schema = batches[0].schema if batches else reader.schema
        table = pa.Table.from_batches(batches, schema).combine_chunks()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the parameters cannot be read: {error}") from error
    whole = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    return bytes(stream_of(whole))


def untagged(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with plain columns for unions, and texts for Python's UUIDs, which are so written in SQL. Clients that
    do not know a parameter's type send each value as a union of all that it could be (flightsql-dbapi does). Raises
    InvalidArgument where one column has values of two types."""
    if not any(pa.types.is_union(field.type) or isinstance(field.type, pa.UuidType) for field in batch.schema):
        return batch
    columns = [_plain(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.record_batch(columns, names=batch.schema.names)


def _plain(name: str, column: pa.Array) -> pa.Array:
    if isinstance(column.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return _member(name, column) if pa.types.is_union(column.type) else column


def _member(name: str, column: pa.UnionArray) -> pa.Array:
    """The values of the one member that all rows of the union use. The column is as a stream brought it: of a slice,
    pyarrow gives the codes and offsets from the beginning."""
    used = set(column.type_codes.to_pylist())
    if not used:
        return pa.nulls(0)
    if len(used) > 1:
        raise InvalidArgument(f"parameter {name!r} has values of several types; bind one type for all rows")
    members = {code: i for i, code in enumerate(column.type.type_codes)}
    member = column.field(members[used.pop()])
    return member if column.type.mode == "sparse" else member.take(column.offsets)


class Bound:
    """What was last bound to each prepared statement of this process, by the handle's id. Any thread.

    Binding answers with a new handle that holds the parameters. Clients from before Flight SQL had that (as
    flightsql-dbapi) go on with the handle they prepared, on the same connection, so in the same process. What was
    bound longest ago is forgotten first, beyond `bytes_max` bytes or BOUND_MAX statements.
    """

    def __init__(self, bytes_max: int = BOUND_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._nbytes = 0

    def put(self, handle_id: str, parameters: bytes) -> None:
        """Remember them in place of earlier ones; empty ones are none."""
        with self._lock:
            self._nbytes += len(parameters) - len(self._known.pop(handle_id, b""))
            if parameters:
                self._known[handle_id] = parameters
            while self._nbytes > self._bytes_max or len(self._known) > BOUND_MAX:
                self._nbytes -= len(self._known.popitem(last=False)[1])

    def get(self, handle_id: str) -> bytes:
        """What was bound last, or nothing."""
        with self._lock:
            return self._known.get(handle_id, b"")
