"""Samples: what is shown as a body that a method takes is one."""

from __future__ import annotations

import datetime
from typing import Any

import orjson
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.declare import spec_of
from flightserve.errors import ConfigError
from flightserve.frontends.http.openapi import describe_method, openapi
from flightserve.frontends.http.samples import NOTHING_KNOWN, sample_of
from flightserve.frontends.json.columns import build, parse
from flightserve.types import DeploymentSpec
from tests.columns import columns

TYPES = {
    name: array.type for name, array in columns().items() if name not in ("sparse_union", "dense_union")
} | {
    "date64": pa.date64(), "time32": pa.time32("s"), "time64": pa.time64("ns"), "decimal32": pa.decimal32(5, 2),
    "decimal256": pa.decimal256(60, 3), "bytes": pa.binary(16),
    "nested": pa.list_(pa.struct({"a": pa.list_(pa.int8(), 3)})),
    "seconds": pa.timestamp("s"), "fraction": pa.decimal128(3, 3),
}  # fmt: skip


def spec(method: Any) -> DeploymentSpec:
    return spec_of(fs.bind(type("Shop", (), {"ask": method})))


def sample(method: Any) -> Any:
    made = spec(method)
    return sample_of(made, made.methods[0])


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_sample_made_from_a_schema_is_taken(name: str) -> None:
    schema = pa.schema([pa.field("x", TYPES[name], nullable=TYPES[name] == pa.null())])

    @fs.method(input=schema)
    def ask(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    found = sample(ask)
    assert found.body is not None and not found.declared
    batch = build([parse(orjson.dumps(found.body), EdgeLimits(), schema)], schema)
    assert batch.schema.equals(schema) and batch.num_rows == 1
    batch.validate(full=True)


def test_where_nothing_is_known_there_is_none_and_why() -> None:
    def ask(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    assert sample(ask) == (None, False, NOTHING_KNOWN)

    @fs.method(input=pa.schema({"u": columns()["dense_union"].type}))
    def union(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    assert "dense_union" in sample(union).why


ORDER = pa.schema({"day": pa.date32(), "n": pa.int8()})
DAY = datetime.date(2013, 1, 2)


@pytest.mark.parametrize(
    "example",
    [
        {"day": [DAY], "n": [3]},
        [{"day": DAY, "n": 3}],
        pa.table({"n": [3], "day": [DAY]}),
        pa.record_batch({"day": [DAY], "n": [3]}),
    ],
)
def test_a_declared_example_is_shown(example: Any) -> None:
    @fs.method(input=ORDER, example=example)
    def ask(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    wanted = {"columns": {"day": ["2013-01-02"], "n": [3]}}
    assert sample(ask) == (wanted, True, "")
    made = spec(ask)
    assert describe_method(made, made.methods[0])["sample"]["body"] == wanted
    post = openapi([made])["paths"]["/v1/Shop/ask"]["post"]
    assert post["requestBody"]["content"]["application/json"]["example"] == wanted


def test_an_example_needs_no_schema() -> None:
    @fs.single_input
    @fs.method(example=[{"name": "Ada", "tags": ["x"]}])
    def ask(self: Any, row: dict[str, Any]) -> Any:
        return row

    assert sample(ask).body == {"columns": {"name": ["Ada"], "tags": [["x"]]}}


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"day": [DAY]}, "n"),
        ({"day": [DAY], "n": [1], "m": [1]}, "'m'"),
        ({"day": [DAY], "n": [1000]}, "1000"),
        ({"day": ["x"], "n": [1]}, "x"),
        ({"day": [], "n": []}, "no rows"),
        ([], "no rows"),
        ("rows", "columns by name"),
        ([1], "columns by name"),
        (pa.table({"n": [1]}), "day"),
        ({"day": [DAY] * 10_000, "n": [1] * 10_000}, "at most"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_when_the_app_is_made(example: Any, said: str) -> None:
    @fs.method(input=ORDER, example=example)
    def ask(self: Any, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    with pytest.raises(ConfigError, match=f"Shop.ask.*{said}"):
        spec(ask)


def test_a_warehouse_s_methods() -> None:
    warehouse = fs.sql.Warehouse({"t": pa.table({"x": [1], "c": ["UA"]})}, threads=1)
    warehouse.query("first", "SELECT x FROM t WHERE x = $x AND c = $c").query(
        "second", "SELECT x FROM t WHERE c = $c", example={"c": "UA"}
    )
    found = spec_of(warehouse.bind())
    samples = {method.name: sample_of(found, method) for method in found.methods}
    assert samples["first"].body == {"columns": {"x": [1], "c": ["text"]}}
    assert samples["second"] == ({"columns": {"c": ["UA"]}}, True, "")
    assert samples["query"].body == {"columns": {"sql": ["SELECT 1 AS one"], "parameters": [None]}}
    assert samples["execute"].body is None and samples["query_tagged"].body is None
    internal = {method.name for method in found.methods if describe_method(found, method)["internal"]}
    assert internal == {"query", "query_tagged", "execute", "describe", "tables", "refresh"}
    wrong = fs.sql.Warehouse({"t": pa.table({"c": ["UA"]})}).query("q", "FROM t WHERE c = $c", example={"d": "UA"})
    with pytest.raises(ConfigError, match=r"query 'q'.*example"):
        spec_of(wrong.bind())
