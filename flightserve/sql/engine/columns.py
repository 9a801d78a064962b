"""Columns of results that Arrow has no type for, or no value.

The engine gives Arrow its own bytes for bits and large numbers, a time without its offset, and whole numbers of 128
bits without sign as negative ones. Such columns, and such parts of lists and structs, are texts (`project`). Types
depend on types alone, so that a statement's description, its executions and its merged form agree.

Single values of other types are refused, because a client would read another one: whole numbers of more than 38 digits,
a time of 24:00:00, infinite times in nanoseconds (`Refusals`), and intervals of more microseconds than fit into Arrow's
nanoseconds (`project`, because Arrow gets them wrapped around).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.errors import InvalidArgument
from flightserve.sql.sources.spelling import quoted, quoted_name

# The engine's types, by `id`, and what their columns are instead.
_TEXTS: Final = {
    "bit": "VARCHAR",
    "bignum": "VARCHAR",
    "time with time zone": "VARCHAR",
    "uhugeint": "VARCHAR",
    "variant": "JSON",
}
_NESTED: Final = frozenset({"array", "list", "map", "struct", "tuple", "union"})
_LOOKED_AT: Final = frozenset({*_TEXTS, *_NESTED, "interval"})
# The most hours of an interval's microseconds, less one: Arrow counts nanoseconds, in 64 bits.
_HOURS_MAX: Final = 2_562_046
_OVER: Final = "an interval has more microseconds than Arrow holds as nanoseconds; cast it to VARCHAR"


def meant(kind: Any) -> str:
    """The engine's type that a result's column of this one has, as SQL spells it."""
    try:
        return _spelled(kind) or str(kind)
    except RecursionError:
        return str(kind)


def project(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The relation with such columns as Arrow has types for; most are so already."""
    types: list[Any] = relation.types
    if not any(kind.id in _LOOKED_AT for kind in types):
        return relation
    columns = [f"#{n}" for n in range(1, len(types) + 1)]
    try:
        chosen = [_expression(column, kind) for column, kind in zip(columns, types, strict=True)]
    except RecursionError:
        # Arrow takes 64 types within each other, and says so.
        return relation
    if chosen == columns:
        return relation
    return relation.project(
        ", ".join(f"{e} AS {quoted_name(n)}" for e, n in zip(chosen, relation.columns, strict=True))
    )


def _expression(column: str, kind: Any) -> str:
    text, over = _spelled(kind), _over(column, kind)
    cast = column if text is None else f"CAST({column} AS {text})"
    return cast if over is None else f"CASE WHEN {over} THEN error('{_OVER}') ELSE {cast} END"


def _spelled(kind: Any) -> str | None:
    """What to cast the type to; None where all of it has a meaning in Arrow."""
    name = kind.id
    if name not in _NESTED:
        return _TEXTS.get(name)
    children = [(label, child, _spelled(child)) for label, child in _children(kind)]
    if not any(text for _, _, text in children):
        return None
    parts = [text or str(child) for _, child, text in children]
    if name == "list":
        return f"{parts[0]}[]"
    if name == "array":
        return f"{parts[0]}[{dict(kind.children)['size']}]"
    if name == "map":
        return f"MAP({', '.join(parts)})"
    named = ", ".join(f"{quoted_name(label)} {part}" for (label, _, _), part in zip(children, parts, strict=True))
    return f"{'UNION' if name == 'union' else 'STRUCT'}({named})"


def _children(kind: Any) -> list[tuple[str, Any]]:
    if kind.id == "array":
        return [("", dict(kind.children)["child"])]
    if kind.id == "tuple":
        # So its parts are called in Arrow.
        return [(f"element{n}", child) for n, (_, child) in enumerate(kind.children, 1)]
    # The first part of a union is its tag.
    return [(str(label), child) for label, child in (kind.children[1:] if kind.id == "union" else kind.children)]


def _over(value: str, kind: Any) -> str | None:
    """A condition that finds intervals which Arrow does not hold; None where there are none."""
    if kind.id == "interval":
        return f"date_part('hour', {value}) NOT BETWEEN -{_HOURS_MAX} AND {_HOURS_MAX}"
    if kind.id not in _NESTED:
        return None
    places = [(_place(value, kind, label), child) for label, child in _children(kind)]
    if kind.id == "map":
        places = [(f"map_{part}({value})", child) for part, (_, child) in zip(("keys", "values"), places, strict=True)]
    parts = [_over_each(p, child) if kind.id in ("array", "list", "map") else _over(p, child) for p, child in places]
    found = [part for part in parts if part is not None]
    return f"({' OR '.join(found)})" if found else None


def _over_each(values: str, kind: Any) -> str | None:
    each = _over("__fs_e", kind)
    return None if each is None else f"len(list_filter({values}, lambda __fs_e: {each})) > 0"


def _place(value: str, kind: Any, label: str) -> str:
    if kind.id == "tuple":
        return f"struct_extract({value}, {label.removeprefix('element')})"
    take = {"struct": "struct_extract", "union": "union_extract"}.get(kind.id)
    return value if take is None else f"{take}({value}, {quoted(label)})"


# ---- single values


class Refusals:
    """The columns of a result in which there may be values that Arrow does not have, and `check` that finds them."""

    __slots__ = ("_columns",)

    def __init__(self, schema: pa.Schema) -> None:
        self._columns = [n for n, kind in enumerate(schema.types) if _may_lack(kind)]

    def check(self, batch: pa.RecordBatch) -> None:
        """Raise InvalidArgument that names the column."""
        for n in self._columns:
            try:
                _check(batch.column(n))
            except (pa.ArrowInvalid, ValueError) as error:
                raise InvalidArgument(
                    f"column {batch.schema.names[n]!r} has a value that Arrow does not have; cast it to VARCHAR: "
                    f"{str(error).partition(chr(10))[0][:256]}"
                ) from error


# What `pa.types` asks, by number: it is asked for each column of each result.
_DECIMAL: Final = pa.decimal128(38, 0).id
_TIME: Final = pa.time64("us").id
_TIMESTAMP: Final = pa.timestamp("ns").id


def _may_lack(kind: pa.DataType) -> bool:
    if kind.num_fields:
        return any(_may_lack(kind.field(n).type) for n in range(kind.num_fields))
    number = kind.id
    if number == _DECIMAL:
        return bool(kind.precision == 38 and kind.scale == 0)
    return bool(number == _TIME or (number == _TIMESTAMP and kind.unit == "ns"))


def _check(array: pa.Array) -> None:
    """Raise ValueError for a value that Arrow's type does not have, at any depth."""
    kind = array.type
    if kind.id == _TIMESTAMP:
        ends = pc.min_max(array.view(pa.int64()))
        if ends["max"].as_py() == _INFINITE or ends["min"].as_py() == -_INFINITE:
            raise ValueError("it is infinite, in nanoseconds")
    elif kind.num_fields:
        for part in _parts(array):
            if _may_lack(part.type):
                _check(part)
    else:
        # All digits of decimals, and the range of times.
        array.validate(full=True)


_INFINITE: Final = 2**63 - 1


def _parts(array: Any) -> Sequence[pa.Array]:
    kind = array.type
    if pt.is_struct(kind):
        return array.flatten()  # type: ignore[no-any-return]
    if pt.is_union(kind):
        return [array.field(n) for n in range(kind.num_fields)]
    if pt.is_map(kind):
        whole = pc.list_flatten(array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
        return whole.flatten()  # type: ignore[no-any-return]
    return [pc.list_flatten(array)]
