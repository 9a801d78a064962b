"""What values become when they are written out, compared with writing them out."""

from __future__ import annotations

import orjson
import pyarrow as pa
import pytest

from flightserve.frontends.http import streams as http_streams
from flightserve.frontends.json.text_sizes import text_bytes
from tests.frontends.http.support import ARROW, JSON, NDJSON, http_served, ipc

LONG = "x" * 100_000


def batch_of(array: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([array], ["a"])


SHARING = {
    "dictionary": pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int8()), pa.array([LONG])),
    "views": pa.array([LONG] * 2000, pa.string_view()),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2000], pa.int32()), pa.array([LONG])),
    "list views": pa.ListViewArray.from_arrays([0] * 2000, [1] * 2000, pa.array([LONG])),
    "in a struct": pa.StructArray.from_arrays(
        [pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int8()), pa.array([LONG]))], ["b"]
    ),
}


@pytest.mark.parametrize("array", SHARING.values(), ids=SHARING)
def test_values_that_rows_share_are_counted_for_each(array: pa.Array) -> None:
    batch = batch_of(array)
    written = len(orjson.dumps(batch.column(0).to_pylist()))
    assert 0.9 * written <= text_bytes(batch) <= 1.2 * written
    half = batch.slice(1000)
    assert 0.4 * written <= text_bytes(half) <= 0.6 * written


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, None, 3]),
        pa.array([True, None]),
        pa.nulls(1000),
        pa.array(["a", None, "bcd"]),
        pa.array([[1, 2], None, []]),
        pa.array([{"a": "x", "b": 1}, None]),
        pa.array([["a", None], None], pa.list_(pa.string_view())),
        pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array(["a", None])),
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array([1, 2])),
        pa.DictionaryArray.from_arrays(pa.array([], pa.int8()), pa.array([], pa.string())),
        pa.array([], pa.string_view()),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
    ],
)
def test_every_kind_is_counted(array: pa.Array) -> None:
    assert text_bytes(batch_of(array)) >= 4 * len(array)
    assert text_bytes(batch_of(array.slice(1))) <= text_bytes(batch_of(array))


def test_an_answer_that_would_be_larger_than_it_may_is_refused_before_it_is_made() -> None:
    body = ipc(batch_of(SHARING["dictionary"]))
    with http_served() as (_, client):
        headers = {"content-type": ARROW}
        whole = client.post("/v1/Probe/identity", content=body, headers={**headers, "accept": JSON})
        assert (whole.status_code, whole.json()["error"]["code"]) == (413, "RESOURCE_EXHAUSTED")
        assert client.post("/v1/Probe/identity", content=body, headers={**headers, "accept": ARROW}).status_code == 200


def test_lines_are_written_in_parts_of_bounded_size() -> None:
    batch = batch_of(SHARING["dictionary"])
    parts = list(http_streams._parts(batch, 4096, 64 << 20))
    assert sum(part.num_rows for part in parts) == 2000
    assert max(map(text_bytes, parts)) <= http_streams.PART_BYTES
    assert list(http_streams._parts(batch, 0, 64 << 20)) == [batch]
    with http_served() as (_, client):
        headers = {"content-type": ARROW, "accept": NDJSON}
        with client.stream("POST", "/v1/Probe/pieces", content=ipc(batch.slice(0, 20)), headers=headers) as answer:
            assert sum(len(line) > len(LONG) for line in answer.iter_lines()) == 20
