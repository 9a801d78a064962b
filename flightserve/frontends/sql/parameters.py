"""Parameters that a DoPut binds to a prepared statement: how they are read, and for whom they are remembered."""

from __future__ import annotations

import threading
from typing import Any, Final

import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.core.cache import LRUCache
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.conversion.unions import untagged
from flightserve.fabric.memory.batches import stream_of
from flightserve.fabric.memory.decode import check_schema
from flightserve.fabric.memory.schemas import empty_batch
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.frontends.sql.tickets import TICKET_BYTES_MAX

BOUND_BYTES_MAX: Final = 2 * TICKET_BYTES_MAX
BOUND_MAX: Final = 10_000
# Of what a schema may have; apps do not set it for parameters.
_LIMITS: Final = EdgeLimits()


def read_parameters(reader: Any) -> bytes:
    """All rows of a DoPut as one Arrow IPC stream; empty where there is not one column. Raises TooLarge,
    InvalidArgument."""
    batches: list[pa.RecordBatch] = []
    nbytes = 0
    try:
        check_schema(reader.schema, _LIMITS)
        for piece in reader:
            nbytes += nbytes_of(piece.data)
            if nbytes > TICKET_BYTES_MAX:
                raise TooLarge(f"more than {TICKET_BYTES_MAX} bytes of parameters; bind fewer rows at a time")
            piece.data.validate(full=True)
            batches.append(untagged(piece.data))
        if not reader.schema.names:
            return b""
        schema = batches[0].schema if batches else reader.schema
        table = pa.Table.from_batches(batches, schema).combine_chunks()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the parameters cannot be read: {error}") from error
    whole = table.to_batches() or batches[:1] or [empty_batch(schema)]
    return bytes(stream_of(whole))


class BoundParameters:
    """What was last bound to each prepared statement of this process, by the handle's id. Any thread.

    Binding answers with a new handle that holds the parameters. Clients from before Flight SQL had that (as
    flightsql-dbapi) go on with the handle they prepared, on the same connection, so in the same process. What was
    bound longest ago is forgotten first, beyond `bytes_max` bytes or BOUND_MAX statements.
    """

    def __init__(self, bytes_max: int = BOUND_BYTES_MAX) -> None:
        self._lock = threading.Lock()
        self._known: LRUCache[str, bytes] = LRUCache(BOUND_MAX, bytes_max)

    def put(self, handle_id: str, parameters: bytes) -> None:
        """Remember them in place of earlier ones; empty ones are none."""
        with self._lock:
            if parameters:
                self._known.put(handle_id, parameters, len(parameters))
            else:
                self._known.pop(handle_id)

    def get(self, handle_id: str) -> bytes:
        """What was bound last, or nothing."""
        with self._lock:
            return self._known.peek(handle_id) or b""
