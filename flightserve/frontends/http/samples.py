"""Bodies that a method takes, to try it with: the example that it declares, or one made from its input's schema, of one
row with a plain value of each type. Where nothing is known of what it takes there is none, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.types as pt

from flightserve.contracts.warehouse import is_internal
from flightserve.errors import MethodFailed
from flightserve.frontends.json.columns import JsonColumns, declared_schema
from flightserve.types import DeploymentSpec, MethodSpec

NOTHING_KNOWN: Final = (
    "The method declares neither what it takes nor an example: @fs.method(input=schema) or @fs.method(example={...})."
)
OF_FRONTENDS: Final = "The frontends call it, with Arrow data of their own."


class Sample(NamedTuple):
    """A JSON body, or None and `why` there is none. `declared` tells an example from one that was made."""

    body: dict[str, Any] | None
    declared: bool = False
    why: str = ""


def sample_of(spec: DeploymentSpec, method: MethodSpec) -> Sample:
    """A body for the method."""
    if method.example is not None:
        return _declared(method.example)
    if is_internal(spec, method):
        return Sample(None, why=OF_FRONTENDS)
    if method.input_schema is None:
        return Sample(None, why=NOTHING_KNOWN)
    schema = declared_schema(method.input_schema)
    try:
        return Sample({"columns": {field.name: [_value(field.type)] for field in schema}})
    except Unsayable as error:
        return Sample(None, why=f"JSON has no value for {error}; send Arrow.")


def _declared(stream: bytes) -> Sample:
    batch = pa.ipc.open_stream(stream).read_all().combine_chunks().to_batches()[0]
    try:
        text = JsonColumns(batch).encode(0, batch.num_rows, False)
    except MethodFailed as error:
        return Sample(None, why=f"Its example cannot be said in JSON: {error.message}")
    return Sample(orjson.loads(text), declared=True)


class Unsayable(Exception):
    """A type of which JSON requests have no values."""


def _value(kind: pa.DataType) -> Any:
    """A value of the type, as a JSON request has it. Raises Unsayable."""
    for matches, value in _PLAIN:
        if matches(kind):
            return value
    if pt.is_timestamp(kind):
        return "2024-01-01T12:00:00" + "Z" * (kind.tz is not None)
    if isinstance(kind, pa.BaseExtensionType):
        return _value(kind.storage_type)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return _value(kind.value_type)
    if pt.is_fixed_size_binary(kind):
        return _base64_of(kind.byte_width)
    if pt.is_struct(kind):
        return {field.name: _value(field.type) for field in kind}
    if pt.is_map(kind):
        return [[_value(kind.key_type), _value(kind.item_type)]]
    if pt.is_fixed_size_list(kind):
        return [_value(kind.value_type)] * kind.list_size
    if pt.is_nested(kind) and not pt.is_union(kind):
        return [_value(kind.value_type)]
    raise Unsayable(kind)


def _base64_of(width: int) -> str:
    full, rest = divmod(width, 3)
    return "AAAA" * full + ("", "AA==", "AAA=")[rest]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


_PLAIN: Final[tuple[tuple[Callable[[pa.DataType], bool], Any], ...]] = (
    (pt.is_integer, 1),
    (pt.is_floating, 1.5),
    (pt.is_boolean, True),
    (_is_text, "text"),
    (_is_bytes, "AAAA"),
    (pt.is_null, None),
    (pt.is_date, "2024-01-01"),
    (pt.is_time, "12:00:00"),
    (pt.is_duration, 1),
    (pt.is_interval, {"months": 1, "days": 0, "nanoseconds": 0}),
    (pt.is_decimal, "0"),
)
