"""Streams whose headers came before are not walked again: what comes out is what the walk would have said."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, InvalidArgument
from flightserve.fabric.memory import decode
from flightserve.fabric.memory.decode import decode_stream

LIMITS = EdgeLimits()


def encoded(batch: pa.RecordBatch, compression: str | None = None, ends: bool = True) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue().to_pybytes()
    return stream if ends else stream[:-8]


INTS = pa.record_batch({"a": pa.array([1, 2, None], pa.int64()), "b": [0.5, 1.5, 2.5]})
TEXTS = pa.record_batch({"t": ["a", None, "ccc"], "n": pa.array([b"x", b"", b"zz"])})
STREAMS = {
    "ints": encoded(INTS),
    "texts": encoded(TEXTS),
    "without end": encoded(INTS, ends=False),
    "compressed": encoded(INTS, "zstd"),
    "none": encoded(INTS.slice(0, 0)),
    "dictionary": encoded(pa.record_batch({"d": pa.array(["x", "y"]).dictionary_encode()})),
}


def outcome(stream: bytes) -> Any:
    try:
        return decode_stream(pa.py_buffer(stream), LIMITS)
    except FlightserveError as error:
        return type(error), str(error)


def cold(stream: bytes) -> Any:
    decode._layouts.clear()
    return outcome(stream)


@pytest.mark.parametrize("name", STREAMS)
def test_the_second_time_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    walk = decode._walk

    def counted(memory: memoryview, limits: EdgeLimits) -> Any:
        walks.append(len(memory))
        return walk(memory, limits)

    monkeypatch.setattr(decode, "_walk", counted)
    stream = STREAMS[name]
    first = cold(stream)
    assert isinstance(first, pa.RecordBatch)
    assert outcome(stream) == first
    assert len(walks) == (1 if name in ("ints", "texts", "without end", "none") else 2)


def test_other_rows_of_the_same_shape_are_read() -> None:
    cold(encoded(pa.record_batch({"a": [1, 2, 3]})))
    assert len(decode._layouts) == 1
    assert outcome(encoded(pa.record_batch({"a": [7, 8, 9]})))["a"].to_pylist() == [7, 8, 9]
    assert len(decode._layouts) == 1


def test_rows_are_validated_each_time() -> None:
    good = encoded(pa.record_batch({"t": ["ab", "cd"]}))
    cold(good)
    at = good.index(b"\0\0\0\0\2\0\0\0\4\0\0\0")
    assert outcome(good[: at + 4] + b"\x63\0\0\0" + good[at + 8 :])[0] is InvalidArgument


def test_limits_of_others_do_not_hold() -> None:
    stream = STREAMS["ints"]
    cold(stream)
    with pytest.raises(InvalidArgument, match="fields"):
        decode_stream(pa.py_buffer(stream), EdgeLimits(columns_max=1))


def test_they_are_bounded() -> None:
    decode._layouts.clear()
    for rows in range(3 * decode._CACHED_LAYOUTS_MAX):
        outcome(encoded(pa.record_batch({"a": list(range(rows))})))
        assert len(decode._layouts) <= decode._CACHED_LAYOUTS_MAX
    decode._layouts.clear()
    large = pa.record_batch({"x" * decode._CACHED_MESSAGE_BYTES_MAX: [1]})
    assert outcome(encoded(large)) == large
    assert not decode._layouts


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_what_was_changed_is_told_as_if_it_came_first(name: str, data: st.DataObject) -> None:
    stream = STREAMS[name]
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 8, 16, 40]))
    other = bytes(changed)[: len(stream) - cut] + data.draw(st.sampled_from([b"", b"", b"\0" * 8, stream]))
    expected = cold(other)
    cold(stream)
    assert outcome(other) == expected
    # Nor does it change what comes behind it.
    assert outcome(stream) == cold(stream)
