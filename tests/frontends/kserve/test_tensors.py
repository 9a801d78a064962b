"""Tensors and columns: what goes in comes out, bit by bit, and what is no tensor is refused."""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from flightserve.errors import FlightserveError, InvalidArgument, SchemaMismatch, Unimplemented
from flightserve.frontends.kserve.tensors import FIXED, InputTensor, column_of, tensor_of

NUMPY = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}").type for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
SHAPES = st.tuples(st.integers(0, 5), st.lists(st.integers(1, 4), max_size=3)).map(lambda s: [s[0], *s[1]])


def bytes_of(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


@given(st.sampled_from(sorted(NUMPY)), SHAPES, st.binary(min_size=8 * 320, max_size=8 * 320))
def test_raw_contents_come_back_as_they_were(datatype: str, shape: list[int], noise: bytes) -> None:
    kind = np.dtype(NUMPY[datatype])
    count = math.prod(shape)
    values = np.frombuffer(noise, np.uint8)[: count * kind.itemsize].copy()
    if datatype == "BOOL":
        values &= 1
    column = column_of(InputTensor("x", datatype, shape, values.tobytes()), None)
    column.validate(full=True)
    back = tensor_of("x", column)
    assert len(column) == shape[0]
    assert bytes(back.raw()) == values.tobytes()
    assert back.datatype == datatype
    assert back.shape == (shape[:1] if shape[1:] == [1] else shape)


@given(SHAPES, st.lists(st.binary(max_size=5), min_size=320, max_size=320))
def test_bytes_come_back_as_they_were(shape: list[int], values: list[bytes]) -> None:
    sent = np.array(values[: math.prod(shape)], dtype=object).reshape(shape)
    raw = serialize_byte_tensor(sent).item() if sent.size else b""
    column = column_of(InputTensor("x", "BYTES", shape, raw), None)
    column.validate(full=True)
    back = tensor_of("x", column)
    assert bytes(back.raw()) == raw
    assert list(deserialize_bytes_tensor(bytes(back.raw()))) == list(sent.flatten())


@given(st.lists(st.integers(0, 2**16 - 1), max_size=20))
def test_every_bf16_is_a_float_and_comes_back(bits: list[int]) -> None:
    sent = np.array(bits, np.uint16).view(ml_dtypes.bfloat16)
    column = column_of(InputTensor("x", "BF16", [len(bits)], sent.tobytes()), None)
    assert np.array_equal(np.asarray(column), sent.astype(np.float32), equal_nan=True)
    back = np.frombuffer(tensor_of("x", column, "BF16").raw(), ml_dtypes.bfloat16)
    assert np.array_equal(back.astype(np.float32), sent.astype(np.float32), equal_nan=True)


@given(st.lists(st.floats(width=32), max_size=20))
def test_floats_become_the_nearest_bf16(values: list[float]) -> None:
    sent = np.array(values, np.float32)
    back = np.frombuffer(tensor_of("x", pa.array(sent), "BF16").raw(), ml_dtypes.bfloat16)
    assert np.array_equal(back, sent.astype(ml_dtypes.bfloat16), equal_nan=True)


@given(
    st.sampled_from([*NUMPY, "BYTES", "BF16", "", "INT4"]),
    st.lists(st.integers(-2, 2**63), max_size=4),
    st.binary(max_size=40),
)
def test_what_is_no_tensor_is_refused(datatype: str, shape: list[int], raw: bytes) -> None:
    """Whatever lengths and shapes say: a column of so many rows, or a typed error."""
    try:
        column = column_of(InputTensor("x", datatype, shape, raw), None)
    except InvalidArgument:
        return
    column.validate(full=True)
    assert len(column) == shape[0]


@pytest.mark.parametrize("datatype", sorted(FIXED))
def test_raw_contents_are_the_column_s_own_buffer(datatype: str) -> None:
    raw = bytes(8 * 6)
    width = FIXED[datatype].bit_width // 8
    column = column_of(InputTensor("x", datatype, [2, 3], memoryview(raw)[: 6 * width]), None)
    (values,) = [buffer for buffer in column.buffers() if buffer is not None]
    assert values.address == pa.py_buffer(raw).address
    assert pa.py_buffer(tensor_of("x", column).raw()).address == values.address


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (InputTensor("x", "FP32", [2, 2], bytes(12)), r"12 bytes; \[2, 2\] of FP32 takes 16"),
        (InputTensor("x", "FP32", [2**62, 2**62], bytes(4)), "at most 2147483647 values"),
        (InputTensor("x", "FP32", [2**62], bytes(4)), "takes 18446744073709551616"),
        (InputTensor("x", "FP32", [-1], b""), "rows are 0 or more"),
        (InputTensor("x", "FP32", [2**40, 0], b""), "other dimensions 1 or more"),
        (InputTensor("x", "FP32", [0, 2**40], b""), "at most 2147483647 values"),
        (InputTensor("x", "FP32", [], bytes(4)), "the shape is empty"),
        (InputTensor("x", "FP32", [1] * 40, bytes(4)), "40 dimensions"),
        (InputTensor("x", "FP8", [1], b"a"), "'FP8' is none of"),
        (InputTensor("x", "FP32", [1]), "no contents"),
        (InputTensor("x", "BOOL", [3], b"\0\1\2"), "value 2 is 2"),
        (InputTensor("x", "BYTES", [2], bytes_of(b"a")), "2 elements take at least 8"),
        (InputTensor("x", "BYTES", [1], bytes_of(b"abc")[:-1]), "element 0 of 1 ends beyond"),
        (InputTensor("x", "BYTES", [2], bytes_of(b"abcdef")), "element 1 of 2 ends beyond"),
        (InputTensor("x", "BYTES", [1], bytes_of(b"a", b"b")), "5 bytes follow"),
        (InputTensor("x", "BYTES", [2**60], bytes(8)), "at least"),
        (InputTensor("x", "INT8", [1], None, [128]), "row 0: 128 is not int8"),
        (InputTensor("x", "INT32", [1], None, [1.5]), "takes no fraction"),
        (InputTensor("x", "INT32", [1], None, [True]), "takes no boolean"),
        (InputTensor("x", "INT32", [2], None, [1, None]), "value 1 is null"),
        (InputTensor("x", "INT32", [2], None, [1]), r"1 values; the shape \[2\] has 2"),
        (InputTensor("x", "BYTES", [1], None, [1]), "is text"),
        (InputTensor("x", "BYTES", [1], None, ["\ud800"]), "surrogate"),
        (InputTensor("x", "BF16", [1], None, [1.001]), "no BF16"),
    ],
)
def test_it_is_said_what_is_wrong(tensor: InputTensor, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        column_of(tensor, None)


def test_a_text_that_is_none_is_named() -> None:
    raw = bytes_of(b"fine", b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="element 1 is no UTF-8"):
        column_of(InputTensor("x", "BYTES", [2], raw), pa.string())
    assert column_of(InputTensor("x", "BYTES", [2], raw), None).to_pylist() == [b"fine", b"\xff\xfe"]
    assert column_of(InputTensor("x", "BYTES", [2], raw), pa.binary()).to_pylist() == [b"fine", b"\xff\xfe"]


def test_bytes_that_nothing_is_declared_for_are_what_all_of_them_are() -> None:
    raw = bytes_of(b"fine", "\u00e9".encode())
    assert column_of(InputTensor("x", "BYTES", [2], raw), None).equals(pa.array(["fine", "\u00e9"]))
    assert column_of(InputTensor("x", "BYTES", [2], raw), pa.binary()).type == pa.binary()
    assert column_of(InputTensor("x", "BYTES", [0], b""), None).type == pa.string()


@pytest.mark.parametrize(
    ("kind", "shape", "got"),
    [
        (pa.float32(), [2], pa.float32()),
        (pa.float32(), [2, 1], pa.float32()),
        (pa.list_(pa.float32(), 1), [2, 1], pa.list_(pa.float32(), 1)),
        (pa.list_(pa.float32(), 1), [2], pa.list_(pa.float32(), 1)),
        (pa.list_(pa.float32(), 3), [2, 3], pa.list_(pa.float32(), 3)),
        (pa.list_(pa.float32()), [2, 3], pa.list_(pa.float32(), 3)),
        (pa.large_list(pa.list_(pa.float32(), 2)), [2, 3, 2], pa.list_(pa.list_(pa.float32(), 2), 3)),
        (pa.float32(), [2, 3], None),
        (pa.list_(pa.float32(), 3), [2, 4], None),
        (pa.list_(pa.float32(), 3), [2], None),
        (pa.list_(pa.float32(), 3), [2, 3, 1], None),
    ],
)
def test_shapes_and_declared_types(kind: pa.DataType, shape: list[int], got: pa.DataType | None) -> None:
    tensor = InputTensor("x", "FP32", shape, bytes(4 * math.prod(shape)))
    if got is None:
        with pytest.raises(SchemaMismatch, match="the method takes"):
            column_of(tensor, kind)
    else:
        assert column_of(tensor, kind).type == got


def test_times_are_numbers_and_decimals_are_texts() -> None:
    moment = datetime.datetime(2020, 1, 2)
    column = pa.array([moment], pa.timestamp("s"))
    tensor = tensor_of("at", column)
    assert (tensor.datatype, int.from_bytes(tensor.raw(), "little")) == ("INT64", 1577923200)
    assert column_of(InputTensor("at", "INT64", [1], tensor.raw()), column.type) == column
    assert column_of(InputTensor("at", "BYTES", [1], bytes_of(b"2020-01-02T00:00:00")), column.type) == column
    price = pa.array([decimal.Decimal("1.25")], pa.decimal128(9, 2))
    assert bytes(tensor_of("price", price).raw()) == bytes_of(b"1.25")
    assert column_of(InputTensor("price", "BYTES", [1], bytes_of(b"1.25")), price.type) == price
    with pytest.raises(InvalidArgument, match="is not decimal128"):
        column_of(InputTensor("price", "BYTES", [1], bytes_of(b"much")), price.type)
    with pytest.raises(SchemaMismatch, match="not time32"):
        column_of(InputTensor("t", "INT32", [1], (90_000).to_bytes(4, "little")), pa.time32("s"))


@pytest.mark.parametrize(
    ("column", "datatype", "shape"),
    [
        (pa.array([[1, 2], [3, 4]]), "INT64", [2, 2]),
        (pa.array([[[True], [False]]]), "BOOL", [1, 2, 1]),
        (pa.array([], pa.list_(pa.int8())), "INT8", [0, 0]),
        (pa.array([], pa.list_(pa.int8(), 3)), "INT8", [0, 3]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "BYTES", [3]),
        (pa.array(["a"], pa.string_view()), "BYTES", [1]),
        (pa.array([b"ab"], pa.binary(2)), "BYTES", [1]),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2))[1:], "INT8", [2, 2]),
        (pa.array([True, False, True])[1:], "BOOL", [2]),
    ],
)
def test_columns_as_tensors(column: pa.Array, datatype: str, shape: list[int]) -> None:
    tensor = tensor_of("y", column)
    assert (tensor.datatype, tensor.shape) == (datatype, shape)
    back = column_of(
        InputTensor("y", datatype, [max(size, i and 1) for i, size in enumerate(shape)], tensor.raw()), None
    )
    flat: Any = column.to_pylist()
    expected = [value.decode() if isinstance(value, bytes) else value for value in flat]
    assert back.to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([1, None]), "has a null, value 1"),
        (pa.array([[1, None]]), "has a null, value 1"),
        (pa.array([[1], [1, 2]]), "lists of 2 lengths"),
        (pa.array([{"a": 1}]), "which no tensor has"),
        (pa.nulls(2), "has a null"),
    ],
)
def test_what_no_tensor_says_is_refused(column: pa.Array, says: str) -> None:
    with pytest.raises(Unimplemented, match=says) as caught:
        tensor_of("y", column)
    assert isinstance(caught.value, FlightserveError)
