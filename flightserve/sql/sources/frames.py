"""Tables that come as data: Arrow's own, datasets, and whatever gives an Arrow stream (frames, relations of DuckDB).

What a program hands over is carried to each replica, and so is a table of Arrow by then; a dataset stays one, because
it only names its files. A reader is read once, when the warehouse is declared.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from flightserve.errors import ConfigError


def settled(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with all data as Arrow tables or datasets; paths as they are. Raises ConfigError."""
    return {name: _settled(name, value) for name, value in tables.items()}


def _settled(name: Any, value: Any) -> Any:
    if isinstance(value, ds.InMemoryDataset):
        return value.to_table()
    if isinstance(value, ds.Dataset):
        _check_whole(name, value)
    if isinstance(value, (pa.Table, ds.Dataset, type)):
        return value
    try:
        table = _arrow(value)
    except Exception as error:  # whatever a library says of a value that it has no Arrow type for
        why = str(error).partition("\n")[0]
        raise ConfigError(f"table {name!r} cannot be made an Arrow table: {type(error).__name__}: {why}") from error
    return value if table is None else table


def _check_whole(name: Any, dataset: ds.Dataset) -> None:
    try:
        next(iter(dataset.get_fragments()), None)
    except ValueError as error:
        raise ConfigError(
            f"table {name!r} is a dataset with a filter, which cannot be carried to replicas; give all of it and "
            "filter in a view (init=), or give its rows: dataset.to_table()"
        ) from error


def _arrow(value: Any) -> pa.Table | None:
    """The value as a table; None where it is no data."""
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    # Who has such a frame has imported its library.
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return _from_pandas(value)
    if polars is not None and isinstance(value, polars.LazyFrame):
        value = value.collect()
    if hasattr(value, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(value).read_all()
    return pa.table(pa.record_batch(value)) if hasattr(value, "__arrow_c_array__") else None


def _from_pandas(frame: Any) -> pa.Table:
    """An index that has a name is a column; one without is a number of rows."""
    named = [level for level in frame.index.names if level is not None]
    frame = frame.reset_index(level=named) if named else frame
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def local_files(dataset: ds.Dataset) -> tuple[str, ...]:
    """The files of a dataset that lie on this machine; its other rows do not change."""
    if not isinstance(dataset, ds.FileSystemDataset) or dataset.filesystem.type_name != "local":
        return ()
    return tuple(dataset.files)


def renewed(dataset: ds.Dataset) -> ds.Dataset:
    """The dataset over its files as they are now: one that was read remembers where in them its rows were."""
    if not local_files(dataset):
        return dataset
    pieces = [
        dataset.format.make_fragment(piece.path, piece.filesystem, piece.partition_expression)
        for piece in dataset.get_fragments()
    ]
    return ds.FileSystemDataset(pieces, dataset.schema, dataset.format, dataset.filesystem)
