"""`/openapi.json` says the truth: what is answered is what it describes, for every type that JSON has a form for."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import jsonschema
import orjson
import pyarrow as pa
import pytest

from flightserve.frontends.http.calls import STYLES
from flightserve.frontends.http.openapi import openapi
from flightserve.frontends.json.columns import JsonColumns
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec

DAY = dt.date(2013, 1, 1)
VALUES: dict[str, pa.Array] = {
    "int8": pa.array([-128, None], pa.int8()),
    "uint64": pa.array([2**64 - 1, None], pa.uint64()),
    "float": pa.array([float("nan"), 1.5, None]),
    "bool": pa.array([True, None]),
    "null": pa.nulls(2),
    "string": pa.array(["a", None]),
    "timestamp": pa.array([0, None], pa.timestamp("us", "UTC")),
    "date": pa.array([DAY, None]),
    "time": pa.array([1, None], pa.time64("ns")),
    "duration": pa.array([1, None], pa.duration("s")),
    "decimal": pa.array([Decimal("1.50"), None]),
    "whole decimal": pa.array([Decimal(10**30), None], pa.decimal128(38, 0)),
    "many digits": pa.array([Decimal("12345678901234567.5"), Decimal("0.5"), None]),
    "list of decimals": pa.array([[Decimal("1.50"), None], None]),
    "binary": pa.array([b"\x00", None]),
    "list": pa.array([[1, None], None, []]),
    "list of lists": pa.array([[[1, None], None], None]),
    "list view": pa.array([[1, None], None], pa.list_view(pa.int64())),
    "fixed list": pa.array([[1, None], None], pa.list_(pa.int64(), 2)),
    "struct": pa.array([{"a": 1, "b": [None, "x"]}, {"a": None, "b": None}, None]),
    "map": pa.array([[("k", 1), ("l", None)], None], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["a", None]).dictionary_encode(),
    "dictionary within": pa.array([["a", None], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "uuid": pa.array([b"1" * 16, None], pa.uuid()),
    "union": pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, None]), pa.array(["a", None])]),
}


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("name", sorted(VALUES))
def test_answers_are_as_they_are_described(name: str, sums: bool) -> None:
    batch = pa.record_batch({"c": VALUES[name]})
    schema = batch.schema.serialize().to_pybytes()
    method = MethodSpec("m", input_schema=schema, output_schema=schema, sums=sums)
    document: Any = openapi([DeploymentSpec("D", "1", DeploymentOptions(), (method,))])
    call = document["paths"]["/v1/D/m"]["post"]
    encoder = JsonColumns(batch, STYLES[sums])
    for as_rows in (False, True):
        body = orjson.loads(encoder.encode(0, batch.num_rows, as_rows))
        for described in (call["responses"]["200"], *([] if sums else [call["requestBody"]])):
            schema = described["content"]["application/json"]["schema"]
            jsonschema.validate(body, {**schema, "components": document["components"]})


@pytest.mark.parametrize(
    ("kind", "refused"), [(pa.list_(pa.field("item", pa.int64(), nullable=False)), [None]), (pa.int8(), 128)]
)
def test_what_is_never_answered_is_not_described(kind: pa.DataType, refused: Any) -> None:
    schema = pa.schema([("c", kind)]).serialize().to_pybytes()
    method = MethodSpec("m", output_schema=schema)
    document: Any = openapi([DeploymentSpec("D", "1", DeploymentOptions(), (method,))])
    described = document["paths"]["/v1/D/m"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"columns": {"c": [refused]}}, {**described, "components": document["components"]})
