"""Tables that come as data: frames, datasets, readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import flightserve as fs
from flightserve.errors import ConfigError
from flightserve.sql.engine import EngineOptions
from flightserve.sql.sources import find_sources
from flightserve.sql.warehouse.refresh import Generations
from tests.sql.sources.files import LOADS, write
from tests.sql.warehouses import opened, run, watching


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@LOADS
def test_frames_are_tables(load: str) -> None:
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", None], "c": pd.Categorical(["u", "v"])})
    pq.write_table(pa.table({"x": [1]}), "x.parquet")
    tables = {
        "pandas": frame,
        "filtered": frame[frame.a > 1],
        "indexed": frame.set_index("s"),
        "polars": pl.DataFrame({"a": [1], "l": [[1, 2]]}),
        "lazy": pl.LazyFrame({"a": [1]}),
        "batch": pa.record_batch({"a": [1]}),
        "dataset": ds.dataset("x.parquet"),
        "held": ds.dataset(pa.table({"x": [1]})),
        "relation": duckdb.sql("SELECT 1 AS a"),
    }
    with opened(tables, load=load) as engine:
        names = {name: schema.names for name, schema in engine.tables.items()}
        assert names["pandas"] == names["filtered"] == ["a", "s", "c"] and names["indexed"] == ["s", "a", "c"]
        assert run(engine, "FROM filtered").to_pylist() == [{"a": 2, "s": None, "c": "v"}]
        assert run(engine, "FROM polars").to_pylist() == [{"a": 1, "l": [1, 2]}]
        for name in ("lazy", "batch", "relation"):
            assert run(engine, f"FROM {name}").to_pylist() == [{"a": 1}]
        for name in ("dataset", "held"):
            assert run(engine, f"FROM {name}").to_pylist() == [{"x": 1}]


@LOADS
def test_a_dataset_whose_files_are_overwritten_is_followed(load: str) -> None:
    for key in (1, 2):
        write({f"d/k={key}/t.parquet": ""})
        pq.write_table(pa.table({"x": [1, 2]}), f"d/k={key}/t.parquet")
    dataset = ds.dataset("d", partitioning="hive")
    with watching() as watch:
        generations = Generations({"t": dataset}, EngineOptions(load, threads=1), watch, lambda runner: {})
        pq.write_table(pa.table({"x": range(10_000)}), "d/k=2/t.parquet")
        assert generations.look() and not generations.problem
        counted = run(generations.current.engine, "SELECT count(*) AS n, max(x) AS x FROM t WHERE k = 2").to_pylist()
        assert counted == [{"n": 10_000, "x": 9999}]
        generations.close()


def test_a_dataset_with_a_filter_is_refused() -> None:
    """Arrow carries no filter to another process."""
    pq.write_table(pa.table({"x": [1, 2]}), "t.parquet")
    with pytest.raises(ConfigError, match="'t' is a dataset with a filter"):
        fs.sql.Warehouse({"t": ds.dataset("t.parquet").filter(ds.field("x") > 1)})


def test_a_reader_is_read_once_when_it_is_declared() -> None:
    warehouse = fs.sql.Warehouse({"t": pa.table({"a": [1]}).to_reader()})
    for _ in range(2):
        (spec,) = fs.App(warehouse).specs
        assert spec.doc == "SQL over 1 table."


@pytest.mark.parametrize(
    ("value", "why"),
    [([1], "is of type list; it is a path"), (pa.Table, "is of type"), (pd.DataFrame({"a": [1, "x"]}), "column a")],
)
def test_what_is_no_table_is_refused(value: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        find_sources({"t": value})
