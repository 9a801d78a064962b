"""JSON Schema of what the JSON forms of Arrow types are, as `json.columns` writes and reads them.

Formats are those of OpenAPI's own registry. A time without an offset is no RFC 3339 `date-time`, and has the format
that the registry has for it.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.types as pt

Json = dict[str, Any]


def field_schema(field: pa.Field, sums: bool = False) -> Json:
    """A column's value, or one within another. `oneOf` takes no value that both of its schemas take."""
    value = json_schema(field.type, sums)
    takes_null = not value or value == {"type": "null"}
    if not field.nullable or takes_null:
        return value
    return {"oneOf": [*value.get("oneOf", [value]), {"type": "null"}]}


def json_schema(kind: pa.DataType, sums: bool = False) -> Json:
    """JSON Schema of a value of an Arrow type, as `json.columns` says it; of a method's whose `sums` are numbers, as
    `json.style` does."""
    if sums and pt.is_decimal(kind):
        return {"oneOf": [{"type": "number"}, _DECIMAL]} if kind.scale > 0 else {"type": "integer"}
    if pt.is_integer(kind):
        low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
        if pt.is_unsigned_integer(kind):
            low, high = 0, 2**kind.bit_width - 1
        # orjson writes 64 bits; so does this. Without a format, generators take 32 bits for enough.
        return {"type": "integer", "format": str(kind), "minimum": low, "maximum": high}
    if pt.is_timestamp(kind) and kind.tz is None:
        return {"type": "string", "format": "date-time-local"}
    for matches, schema in _TEXTS:
        if matches(kind):
            return dict(schema)
    if isinstance(kind, pa.BaseExtensionType):
        return json_schema(kind.storage_type, sums)
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return json_schema(kind.value_type, sums)
    if pt.is_struct(kind):
        return {"type": "object", "properties": {field.name: field_schema(field, sums) for field in kind}}
    if pt.is_map(kind):
        pair = [field_schema(kind.key_field, sums), field_schema(kind.item_field, sums)]
        return {"type": "array", "items": {"type": "array", "prefixItems": pair, "minItems": 2, "maxItems": 2}}
    if pt.is_nested(kind) and not pt.is_union(kind):
        return {"type": "array", "items": field_schema(kind.value_field, sums)}
    return {}


_DECIMAL: Final = {"type": "string", "format": "decimal"}
_TEXTS: Final = (
    (pt.is_floating, {"type": "number"}),
    (pt.is_boolean, {"type": "boolean"}),
    (pt.is_null, {"type": "null"}),
    (lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t), {"type": "string"}),
    (pt.is_timestamp, {"type": "string", "format": "date-time"}),
    (pt.is_date, {"type": "string", "format": "date"}),
    (pt.is_time, {"type": "string", "format": "time-local"}),
    (pt.is_duration, {"type": "integer"}),
    (pt.is_decimal, _DECIMAL),
    (
        lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t) or pt.is_binary_view(t),
        {"type": "string", "contentEncoding": "base64"},
    ),
)
