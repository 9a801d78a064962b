"""Streams from strangers: every good one is taken whole, every bad one is refused with words."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.memory.decode import BATCHES_MAX, ROWS_FREE, decode_stream, validate_batch
from tests.columns import columns, encoded

LIMITS = EdgeLimits()
EOS = b"\xff\xff\xff\xff\0\0\0\0"


def decode(stream: bytes, limits: EdgeLimits = LIMITS) -> pa.RecordBatch:
    return decode_stream(pa.py_buffer(stream), limits)


def numbers(rows: int = 4) -> pa.RecordBatch:
    return pa.record_batch({"a": np.arange(rows, dtype=np.int64)})


# ---- good streams


@pytest.mark.parametrize("name", list(columns()))
def test_every_type_comes_out_as_it_went_in(name: str) -> None:
    batch = pa.record_batch({name: columns()[name]})
    got = decode(encoded(batch))
    got.validate(full=True)
    assert pa.ipc.open_stream(encoded(got)).read_next_batch().equals(batch)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_streams_are_taken(compression: str) -> None:
    batch = pa.record_batch({"a": ["x" * 100] * 100})
    assert decode(encoded(batch, compression=compression)).equals(batch)


def test_several_batches_become_one() -> None:
    batch = numbers(10)
    assert decode(encoded(batch.slice(0, 3), batch.slice(3, 0), batch.slice(3))).equals(batch)


def test_dictionaries_that_change_between_batches_are_joined() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    parts = [pa.record_batch({"d": pa.array(values, kind)}) for values in (["a", "b"], ["c", "a"])]
    assert decode(encoded(*parts)).column(0).to_pylist() == ["a", "b", "c", "a"]


def test_a_stream_without_batches_is_no_rows() -> None:
    schema = pa.record_batch(columns()).schema
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    got = decode_stream(sink.getvalue(), LIMITS)
    assert got.num_rows == 0
    assert got.schema.names == schema.names


def test_rows_without_columns_are_counted() -> None:
    empty = pa.record_batch({"a": [1, 2, 3]}).select([])
    got = decode(encoded(empty))
    assert (got.num_columns, got.num_rows) == (0, 3)


def test_a_large_body_is_not_copied() -> None:
    stream = pa.py_buffer(encoded(pa.record_batch({"a": np.zeros(1_250_000)})))
    got = decode_stream(stream, LIMITS).column(0).buffers()[1]
    assert stream.address <= got.address < got.address + got.size <= stream.address + stream.size


def test_bytes_at_an_odd_address_are_taken() -> None:
    stream = b"\0" + encoded(numbers())
    assert decode_stream(pa.py_buffer(stream).slice(1), LIMITS).equals(numbers())


def test_a_stream_may_end_without_its_mark_behind_a_batch() -> None:
    assert decode(encoded(numbers()).removesuffix(EOS)).equals(numbers())


# ---- extension types


class Hooked(pa.ExtensionType):
    """Counts how often it is made from a stranger's metadata."""

    calls = 0

    def __init__(self) -> None:
        super().__init__(pa.int64(), "flightserve.tests.hooked")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"metadata"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Hooked:
        cls.calls += 1
        return cls()


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    kind = Hooked()
    pa.register_extension_type(kind)
    yield kind
    pa.unregister_extension_type("flightserve.tests.hooked")


@pytest.mark.parametrize("with_dictionary", [False, True])
def test_no_extension_hook_runs(hooked: Hooked, with_dictionary: bool) -> None:
    storage = pa.array([1, 2], pa.int64())
    fields = {"e": pa.ExtensionArray.from_storage(hooked, storage)}
    if with_dictionary:
        fields["d"] = pa.array(["x", "y"]).dictionary_encode()
    batch = pa.record_batch(fields)
    stream = encoded(batch)
    Hooked.calls = 0
    got = decode(stream)
    assert Hooked.calls == 0
    assert got.schema.field("e").type == pa.int64()
    assert got.schema.field("e").metadata[b"ARROW:extension:name"] == b"flightserve.tests.hooked"
    again = pa.ipc.open_stream(encoded(got)).read_next_batch()
    assert again.schema.field("e").type == hooked


def test_nested_extension_types_keep_their_names() -> None:
    kind = pa.struct([pa.field("l", pa.list_(pa.uuid())), pa.field("m", pa.map_(pa.string(), pa.uuid()))])
    schema = pa.schema([pa.field("s", kind)], metadata={"a": "b"})
    batch = pa.record_batch([pa.nulls(2, kind)], schema=schema)
    again = pa.ipc.open_stream(encoded(decode(encoded(batch)))).read_next_batch()
    assert again.schema.equals(schema, check_metadata=True)


# ---- bad streams


@pytest.mark.parametrize("stream", [b"", b"x", b"ARROW1\0\0" + b"\0" * 64, b"\xff\xff\xff\xff", EOS, b"\0" * 64])
def test_what_is_no_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"IPC stream"):
        decode(stream)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_refused(garbage: bytes, marked: bool) -> None:
    with pytest.raises(InvalidArgument):
        decode(b"\xff\xff\xff\xff" * marked + garbage)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_truncated_streams_are_refused(data: st.DataObject) -> None:
    stream = encoded(numbers())
    cut = data.draw(st.integers(0, len(stream) - len(EOS) - 1))
    with pytest.raises(InvalidArgument):
        decode(stream[:cut])


def test_every_cut_of_a_stream_with_dictionaries_is_refused_or_whole() -> None:
    batch = pa.record_batch({"d": pa.array(["x", "y"]).dictionary_encode()})
    stream = encoded(batch)
    for cut in range(len(stream)):
        try:
            assert decode(stream[:cut]).equals(batch)
            assert cut == len(stream) - len(EOS)
        except InvalidArgument:
            pass


def test_a_file_in_the_place_of_a_stream_is_called_one() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("a", pa.int64())])):
        pass
    with pytest.raises(
        InvalidArgument, match=r"an Arrow IPC file \(Feather\), not an Arrow IPC stream: write a stream"
    ):
        decode_stream(sink.getvalue(), EdgeLimits())


def test_a_batch_before_its_schema_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="does not begin with a schema"):
        decode(numbers().serialize().to_pybytes() + EOS)


def test_a_second_schema_is_refused() -> None:
    other = pa.record_batch({"b": [1.5]})
    with pytest.raises(InvalidArgument, match="second schema"):
        decode(encoded(numbers()).removesuffix(EOS) + encoded(other))


def test_a_second_stream_behind_the_first_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="bytes follow the end"):
        decode(encoded(numbers()) * 2)


def test_a_batch_of_another_schema_is_refused() -> None:
    schema = pa.schema([("a", pa.string())]).serialize().to_pybytes()
    with pytest.raises(InvalidArgument):
        decode(schema + numbers().serialize().to_pybytes() + EOS)


def broken(kind: pa.DataType, length: int, *buffers: bytes) -> bytes:
    """A stream of one column whose buffers say what they like."""
    array = pa.Array.from_buffers(kind, length, [None, *(pa.py_buffer(buffer) for buffer in buffers)])
    return encoded(pa.RecordBatch.from_arrays([array], names=["a"]))


def test_offsets_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"[Oo]ffset"):
        decode(broken(pa.string(), 2, struct.pack("<3i", 0, 1000, 4), b"abcd"))


def test_negative_offsets_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        decode(broken(pa.string(), 2, struct.pack("<3i", 0, -5, 4), b"abcd"))


def test_strings_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="UTF8"):
        decode(broken(pa.string(), 1, struct.pack("<2i", 0, 2), b"\xff\xfe"))


def test_names_that_are_not_utf8_are_refused() -> None:
    stream = encoded(pa.record_batch({"marked": [1]})).replace(b"marked", b"\xff\xfe\xff\xfe\xff\xfe")
    with pytest.raises(InvalidArgument, match="schema cannot be read"):
        decode(stream)


def test_dictionary_indices_out_of_range_are_refused() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), pa.array(["x"]), safe=False)
    with pytest.raises(InvalidArgument):
        decode(encoded(pa.RecordBatch.from_arrays([array], names=["d"])))


def messages(stream: bytes) -> list[bytes]:
    return [message.serialize().to_pybytes() for message in pa.ipc.MessageReader.open_stream(stream)]


def test_a_missing_dictionary_is_refused() -> None:
    schema, _, batch = messages(encoded(pa.record_batch({"d": pa.array(["x"]).dictionary_encode()})))
    with pytest.raises(InvalidArgument):
        decode(schema + batch + EOS)


def deltas(*dictionaries: list[str]) -> bytes:
    """A batch for each, which names its last value; each dictionary begins with the one before."""
    parts = [
        pa.record_batch({"d": pa.DictionaryArray.from_arrays(pa.array([len(values) - 1], pa.int8()), pa.array(values))})
        for values in dictionaries
    ]
    return encoded(*parts, emit_dictionary_deltas=True)


def test_dictionaries_grow_and_are_replaced_within_a_stream() -> None:
    stream = deltas(["a"], ["a", "b"], ["a", "b", "c"], ["z"])
    assert decode(stream)["d"].to_pylist() == ["a", "b", "c", "z"]


def test_what_a_delta_holds_is_validated() -> None:
    schema, whole, first, delta, second = messages(deltas(["a"], ["a", "b"]))
    assert decode(schema + whole + first + delta + second + EOS)["d"].to_pylist() == ["a", "b"]
    body = delta.rindex(b"b")
    with pytest.raises(InvalidArgument, match="UTF8"):
        decode(schema + whole + first + delta[:body] + b"\xff" + delta[body + 1 :] + second + EOS)
    for spoiled in (schema + delta + first, schema + delta + whole + first, schema + whole + first + second):
        with pytest.raises(InvalidArgument):
            decode(spoiled + EOS)


def test_dictionaries_that_grow_are_bounded_together() -> None:
    """A long one with many small deltas, of each of which there is a copy with all before it."""
    schema, whole, first, delta, second = messages(deltas(["x" * 100_000], ["x" * 100_000, "b"]))
    limits = EdgeLimits(body_bytes_max=1 << 20)
    assert decode(schema + whole + first + (delta + second) * 10 + EOS, limits).num_rows == 11
    with pytest.raises(TooLarge, match="deltas"):
        decode(schema + whole + first + (delta + second) * 11 + EOS, limits)


# ---- limits, at and past them


def nested(depth: int) -> pa.Schema:
    kind = pa.int8()
    for _ in range(depth - 1):
        kind = pa.list_(kind)
    return pa.schema([("a", kind)])


def no_batches(schema: pa.Schema) -> bytes:
    return schema.serialize().to_pybytes() + EOS


def test_nesting_is_bounded() -> None:
    limits = EdgeLimits(nesting_max=8)
    assert decode(no_batches(nested(8)), limits).num_rows == 0
    with pytest.raises(InvalidArgument, match="9 types deep"):
        decode(no_batches(nested(9)), limits)


def test_nesting_over_64_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        decode(no_batches(nested(65)))


def test_columns_are_bounded_at_every_depth() -> None:
    limits = EdgeLimits(columns_max=5)
    flat = pa.schema([(str(i), pa.int8()) for i in range(6)])
    assert decode(no_batches(pa.schema(list(flat)[:5])), limits).num_columns == 5
    with pytest.raises(InvalidArgument, match="at most 5"):
        decode(no_batches(flat), limits)
    with pytest.raises(InvalidArgument, match="at most 5"):
        decode(no_batches(pa.schema([("s", pa.struct(list(flat)[:5]))])), limits)


def test_100_000_columns_are_refused_before_they_are_read() -> None:
    schema = pa.schema([(str(i), pa.int8()) for i in range(100_000)])
    with pytest.raises(InvalidArgument, match="100000 columns"):
        decode(no_batches(schema))


def test_unpacked_size_is_bounded() -> None:
    stream = encoded(pa.record_batch({"a": np.zeros(1000)}), compression="zstd")
    assert decode(stream, EdgeLimits(body_bytes_max=8000)).num_rows == 1000
    with pytest.raises(TooLarge, match="unpacks to more than 7999"):
        decode(stream, EdgeLimits(body_bytes_max=7999))


def test_a_huge_unpacked_size_is_refused_before_it_is_allocated() -> None:
    stream = encoded(pa.record_batch({"a": np.zeros(1000)}), compression="zstd")
    lying = stream.replace(struct.pack("<q", 8000), struct.pack("<q", 1 << 50))
    assert lying != stream
    with pytest.raises(TooLarge):
        decode(lying)
    with pytest.raises(InvalidArgument):
        decode(stream.replace(struct.pack("<q", 8000), struct.pack("<q", -2)))


def test_rows_without_bytes_are_bounded() -> None:
    assert decode(encoded(pa.record_batch({"n": pa.nulls(ROWS_FREE)}))).num_rows == ROWS_FREE
    with pytest.raises(InvalidArgument, match=f"claims {ROWS_FREE + 1} rows"):
        decode(encoded(pa.record_batch({"n": pa.nulls(ROWS_FREE + 1)})))


def test_batches_of_a_stream_are_bounded() -> None:
    schema, batch = messages(encoded(numbers(1)))
    assert decode(schema + batch * BATCHES_MAX + EOS).num_rows == BATCHES_MAX
    with pytest.raises(InvalidArgument, match=f"more than {BATCHES_MAX} batches"):
        decode(schema + batch * (BATCHES_MAX + 1) + EOS)


def test_batches_of_other_libraries_are_validated_alike() -> None:
    validate_batch(numbers(), LIMITS)
    kind = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<2i", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(InvalidArgument, match="not valid"):
        validate_batch(pa.RecordBatch.from_arrays([kind], names=["a"]), LIMITS)
    with pytest.raises(InvalidArgument, match="at most 1"):
        validate_batch(pa.record_batch({"a": [1], "b": [1]}), EdgeLimits(columns_max=1))


# ---- nothing crashes


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_streams_never_crash(seed: int) -> None:
    command = [sys.executable, "-m", "tests.fabric.memory.mutated_streams", str(seed), "3000"]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    taken, refused = map(int, ended.stdout.split())
    assert taken > 0
    assert refused > 0
    assert taken + refused == 3000


def test_threads_may_decode_at_once() -> None:
    streams = [encoded(pa.record_batch({f"c{i}": [i] * 10})) for i in range(8)]
    wrong: list[int] = []

    def run(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(200):
            index = dice.randrange(8)
            if decode(streams[index]).column(0).to_pylist() != [index] * 10:
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
