"""Parameters as clients bind them: unions of types, and for whom they are remembered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pytest

from flightserve.errors import InvalidArgument
from flightserve.frontends.sql.gateway import without_rows
from flightserve.frontends.sql.parameters import BoundParameters, read_parameters, untagged

WORDS = pa.array(["a", None, "b"])
NUMBERS = pa.array([1, 2, 3])


def dense(types: list[int], offsets: list[int]) -> pa.UnionArray:
    return pa.UnionArray.from_dense(
        pa.array(types, pa.int8()), pa.array(offsets, pa.int32()), [NUMBERS, WORDS], ["n", "w"], [5, 7]
    )


def test_a_union_of_one_type_is_a_plain_column() -> None:
    got = untagged(pa.record_batch({"0": dense([7, 7], [2, 1]), "x": pa.array([0.5, 1.5]), "1": dense([5, 5], [0, 0])}))
    assert got.to_pydict() == {"0": ["b", None], "x": [0.5, 1.5], "1": [1, 1]}
    assert got.schema.types == [pa.utf8(), pa.float64(), pa.int64()]
    sparse = pa.UnionArray.from_sparse(pa.array([1, 1, 1], pa.int8()), [NUMBERS, WORDS])
    assert untagged(pa.record_batch({"0": sparse}))["0"].equals(WORDS)


def test_without_unions_nothing_is_touched() -> None:
    batch = pa.record_batch({"0": WORDS})
    assert untagged(batch) is batch


def test_a_union_of_several_types_or_without_rows() -> None:
    with pytest.raises(InvalidArgument, match="'0' has values of several types"):
        untagged(pa.record_batch({"0": dense([5, 7], [0, 0])}))
    assert untagged(pa.record_batch({"0": dense([], [])})).schema.types == [pa.null()]


# What begins as a message does and is none: of this pyarrow raises OSError.
NO_MESSAGE = b"\xff\xff\xff\xff\x08\0\0\0xxxxxxxx"


def test_parameters_that_are_no_stream_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no Arrow IPC stream"):
        without_rows(NO_MESSAGE)

    class Reader:
        schema = pa.schema([("0", pa.int64())])

        def __iter__(self) -> Iterator[None]:
            yield pa.ipc.open_stream(NO_MESSAGE)

    with pytest.raises(InvalidArgument, match="cannot be read"):
        read_parameters(Reader())


UUIDS = pa.array([], pa.uuid())
NO_ROWS = {
    "list of UUIDs": pa.ListArray.from_arrays(pa.array([0], pa.int32()), UUIDS),
    "struct of a union": pa.StructArray.from_arrays([dense([], [])], names=["u"]),
    "dictionary of structs": pa.DictionaryArray.from_arrays(
        pa.array([], pa.int8()), pa.StructArray.from_arrays([NUMBERS], names=["n"])
    ),
    "numbers": NUMBERS.slice(0, 0),
}


@pytest.mark.parametrize("kind", NO_ROWS)
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_parameters_without_rows_are_read_of_any_type(kind: str, batches: int) -> None:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([NO_ROWS[kind]], names=["0"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)

    class Piece(NamedTuple):
        data: pa.RecordBatch

    class Reader:
        schema = batch.schema

        def __iter__(self) -> Iterator[Piece]:
            yield from map(Piece, pa.ipc.open_stream(sink.getvalue()))

    whole = pa.ipc.open_stream(read_parameters(Reader()))
    assert whole.schema.equals(batch.schema)
    assert sum(each.num_rows for each in whole) == 0


def test_what_is_bound_last_is_remembered_until_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = BoundParameters(bytes_max=10)
    bound.put("a", b"1234")
    bound.put("b", b"5678")
    bound.put("a", b"12")
    assert (bound.get("a"), bound.get("b"), bound.get("c")) == (b"12", b"5678", b"")
    bound.put("c", b"abcdef")
    assert (bound.get("a"), bound.get("b"), bound.get("c")) == (b"12", b"", b"abcdef"), "the oldest went"
    bound.put("a", b"")
    assert bound.get("a") == b""
    bound.put("d", b"1234")
    assert (bound.get("c"), bound.get("d")) == (b"abcdef", b"1234"), "what is forgotten no longer counts"
    monkeypatch.setattr(bound._known, "entries_max", 1)
    bound.put("e", b"1")
    assert (bound.get("d"), bound.get("e")) == (b"", b"1")
