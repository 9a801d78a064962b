"""Methods that round: models of narrow floats take wider numbers."""

from __future__ import annotations

import numpy
import pyarrow as pa
import pytest

from flightserve.errors import SchemaMismatch
from flightserve.fabric.conversion.casting import fitted
from flightserve.types import MethodSpec


def rounded(array: pa.Array, kind: pa.DataType) -> pa.Array:
    spec = MethodSpec("m", input_schema=pa.schema([("c", kind)]).serialize().to_pybytes(), rounds=True)
    return fitted(pa.record_batch({"c": array}), spec, "D.m", 1 << 20)["c"]


def test_what_rounds_takes_wider_numbers_as_near_as_they_come() -> None:
    odd = [0.1, None, float("inf"), -0.0]
    assert rounded(pa.array(odd), pa.float32()).equals(pa.array(odd, pa.float32()))
    assert rounded(pa.array([2**24 + 1]), pa.float32()).to_pylist() == [2**24]
    assert rounded(pa.array([[0.1, 2.0], [3.0, 4.0]]), pa.list_(pa.float32(), 2)).to_pylist()[1] == [3.0, 4.0]
    assert rounded(pa.array([0.1]), pa.float16()).to_pylist() == [numpy.float16(0.1)]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1.0, 1e300]), pa.float32()), (pa.array([1.0, 70000.0]), pa.float16()),
        (pa.array([1, 70000]), pa.float16()), (pa.array([1.0, 1.5]), pa.int64()), (pa.array(["1"]), pa.float32()),
    ],
)  # fmt: skip
def test_what_rounds_refuses_what_is_beyond_its_range_and_other_types(array: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="'c'"):
        rounded(array, kind)
