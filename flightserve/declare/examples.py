"""Examples of what methods take: rows that somebody wrote down, as an Arrow IPC stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from flightserve.declare.decorators import Example
from flightserve.errors import ConfigError

# It is part of what every process knows of the app.
EXAMPLE_BYTES_MAX: Final = 16 << 10


def example_stream(example: Example, schema: pa.Schema | None, where: str) -> bytes:
    """The rows, of that schema where the method has one. `where` names the method. Raises ConfigError for what it does
    not take."""
    try:
        table = _table(example, schema)
    except (pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ConfigError(f"{where}: its example is not what it takes: {error}") from error
    if not table.num_rows or not table.num_columns:
        raise ConfigError(f"{where}: its example has no rows; give one at least")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    stream = bytes(sink.getvalue())
    if len(stream) > EXAMPLE_BYTES_MAX:
        raise ConfigError(f"{where}: its example has {len(stream)} bytes; at most {EXAMPLE_BYTES_MAX} are shown")
    return stream


def _table(example: Example, schema: pa.Schema | None) -> pa.Table:
    if isinstance(example, pa.RecordBatch):
        example = pa.Table.from_batches([example])
    if isinstance(example, pa.Table):
        return example if schema is None else example.select(schema.names).cast(schema)
    if isinstance(example, Mapping):
        _refuse_unknown(example, schema)
        return pa.table({name: list(values) for name, values in example.items()}, schema=schema)
    if isinstance(example, Sequence) and all(isinstance(row, Mapping) for row in example):
        for row in example:
            _refuse_unknown(row, schema)
        return pa.Table.from_pylist(list(example), schema=schema)
    raise TypeError("it is columns by name, a list of rows, or Arrow data")


def _refuse_unknown(named: Mapping[str, object], schema: pa.Schema | None) -> None:
    if schema is not None and (unknown := [name for name in named if name not in schema.names]):
        raise KeyError(f"it has {unknown[0]!r}, and the input has {', '.join(schema.names)}")
