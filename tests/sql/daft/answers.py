"""The same statements asked of both engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from benchmarks import tpch
from flightserve.sql.engine import EngineOptions
from flightserve.sql.warehouse.limits import Limits
from flightserve.sql.warehouse.replica import WarehouseReplica

NO_LIMITS: Final = Limits()


class Pair:
    """The same files, served by both."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self.daft = WarehouseReplica(tables, (), EngineOptions("view", engine="daft"), served_as="w")
        self.duckdb = WarehouseReplica(tables, (), EngineOptions("view", threads=2), served_as="w")

    def close(self) -> None:
        self.daft.close()
        self.duckdb.close()


def ask(
    replica: WarehouseReplica, sql: str, values: pa.RecordBatch | None = None, limits: Limits = NO_LIMITS
) -> pa.Table:
    """The statement's result, of which the types were told before."""
    with replica._tables.using() as tables:
        runner = tables.runner
        prepared = runner.prepare_for(sql, None if values is None else values.schema, values)
        columns = [] if values is None else prepared.parameters.columns(values)
        told = prepared.result_for(columns, 0) if columns else prepared.result
        found = pa.Table.from_batches(list(runner.stream(prepared, columns, 1, limits)))
        assert found.schema.equals(told)
        return found


def rows_of(table: pa.Table, ordered: bool) -> list[str]:
    rows = [repr(row) for row in zip(*[column.to_pylist() for column in table.columns], strict=True)]
    return rows if ordered else sorted(rows)


def check(pair: Pair, sql: str, values: pa.RecordBatch | None = None, ordered: bool = False) -> None:
    wanted, found = ask(pair.duckdb, sql, values), ask(pair.daft, sql, values)
    assert found.schema.equals(wanted.schema)
    assert rows_of(found, ordered) == rows_of(wanted, ordered)


def write_tpch(folder: Path) -> dict[str, Path]:
    """TPC-H at 0.01. The generator writes views of strings, which Daft does not read; lineitem has several files."""
    with duckdb.connect() as session:
        for name, path in tpch.ensure(0.01).items():
            (folder / name).mkdir()
            parts = 3 if name == "lineitem" else 1
            for part in range(parts):
                few = f"WHERE l_orderkey % {parts} = {part}" if parts > 1 else ""
                to = f"'{folder / name}/{part}.parquet' (ROW_GROUP_SIZE 8192)"
                session.execute(f"COPY (SELECT * FROM '{path}' {few}) TO {to}")
    return {name: folder / name for name in tpch.TABLES}
