"""Which requests may be put together: small ones, of columns that a concatenation surely gives back as they went in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument
from flightserve.fabric.conversion.casting import is_taken
from flightserve.fabric.memory.batches import END_OF_STREAM
from flightserve.fabric.memory.decode import decode_stream
from flightserve.types import MethodSpec

# What is larger is not worth a second copy.
GROUPED_BYTES_MAX: Final = 16 << 10
# Requests of one group: more would make the first of them wait for the decoding of the last.
GROUP_REQUESTS_MAX: Final = 256


def groupable_within(limits: EdgeLimits) -> Callable[[bytes, MethodSpec], bool]:
    """What tells it, and remembers, by the bytes of a stream's schema and the method."""
    return functools.lru_cache(maxsize=1024)(functools.partial(_groupable, limits))


def _groupable(limits: EdgeLimits, head: bytes, spec: MethodSpec) -> bool:
    """Whether requests whose streams begin with these bytes may be put together. One that the method does not take
    goes by itself, to be told why."""
    if not (spec.row_aligned or spec.delimited) or spec.streaming:
        return False
    try:
        schema = decode_stream(pa.py_buffer(head + END_OF_STREAM), limits).schema
    except InvalidArgument:
        return False
    return bool(len(schema)) and is_taken(spec, schema) and all(_plain(field.type) for field in schema)


_PLAIN: Final = (
    pa.types.is_primitive,
    pa.types.is_decimal,
    pa.types.is_fixed_size_binary,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def _plain(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _PLAIN)
