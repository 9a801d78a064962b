"""JSON bodies to record batches and back.

A body is `{"columns": {"a": [1, 2]}}` or `{"rows": [{"a": 1}, {"a": 2}]}`; the answer has the shape of the question.

| Arrow | out | in, where the method declares the type |
|---|---|---|
| integers | number, all 64 bits exact | number without a fraction, in the type's range |
| float16, 32, 64 | number; NaN and the infinities are null | number; an integer only if the float holds it exactly |
| boolean, string (all layouts), null | the same | the same |
| timestamp with a zone | `2013-01-01T05:00:00.000Z`: ISO 8601, UTC | ISO 8601 with an offset or Z; a count of units |
| timestamp without | `2013-01-01T05:00:00.000` | ISO 8601 without an offset; a count of units |
| date32, date64 | `2013-01-01` | the same; or a count of days / milliseconds |
| of other years than 0 to 9999 | `+010000-01-01`; the ends of the range `infinity`, `-infinity` | a count |
| time32, time64 | `05:00:00.000`; what is no time of day is an error | the same, or `05:00`; or a count of its unit |
| duration | number: a count of its unit | the same |
| interval | `{"months": 1, "days": 2, "nanoseconds": 3}` | the same; what is left out is 0 |
| decimal | string, all digits | string or number; a number's digits beyond 17 need a string |
| binary (all layouts) | base64 string | the same |
| list (all layouts) | list | the same |
| struct | object; two fields of one name are an error | object; an absent field is null, an unknown one refused |
| map | list of [key, value] pairs | the same, or an object |
| dictionary, run-end encoded | their values | values |
| union | the value | not taken |
| extension | its storage | its storage |

Answers to SQL differ in their numbers, and where a name comes twice (`json.style`).

Where a method declares no schema, a column's type follows from its own values: int64 (uint64 where a value needs
it), float64 where there are fractions, string, boolean, null where there is nothing else; lists and objects as
Arrow infers them. Texts stay strings. A column of numbers and texts is refused, never converted.

In `rows`, a key that a row leaves out is null there; columns come in the order of their first appearance.

Refused with InvalidArgument: what is not JSON or not UTF-8, NaN literals, integers beyond 64 bits, nesting beyond
the limit, columns of unequal length, and a key that comes twice in one object (the decoder keeps the last one; see
`refuse_repeated_keys`). Columns or types that a declared schema does not have are SchemaMismatch.

**Groups.** Requests that arrive together become one record batch: their lists are concatenated, and each column is
built once. Requests share a batch only where each alone would have had the same schema, so that nobody's answer
depends on a neighbour; where a column cannot be built, the requests are taken one by one, and the faulty one fails.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson
import pyarrow as pa

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, InvalidArgument, MethodFailed, SchemaMismatch
from flightserve.frontends.json.arrays import (
    CELLS_MIN,
    CONVERSION_ERRORS,
    BadValue,
    arrays_of,
    check_cells,
    declared,
    infer_array,
    infer_type,
)
from flightserve.frontends.json.style import METHODS, Style, numbered
from flightserve.frontends.json.values import values_of

Columns = dict[str, list[Any]]


class _Parsed(msgspec.Struct, forbid_unknown_fields=True):
    columns: Columns | None = None
    rows: list[dict[str, Any]] | None = None


_DECODER: Final = msgspec.json.Decoder(_Parsed)


class JsonBody(msgspec.Struct, eq=False):
    """One parsed body: `columns` by name, all of `num_rows` values; `as_rows` tells the shape of the answer.
    Bodies of the same `key` may share a record batch."""

    columns: Columns
    num_rows: int
    as_rows: bool
    key: tuple[object, ...] = ()


# ---- in


def parse(data: bytes, limits: EdgeLimits, schema: pa.Schema | None = None) -> JsonBody:
    """One request's body. Raises InvalidArgument; what a schema finds wrong comes later, from `build`."""
    try:
        parsed = _DECODER.decode(data)
    except UnicodeDecodeError as error:
        raise InvalidArgument("the body is not UTF-8") from error
    except RecursionError as error:
        raise InvalidArgument(f"the body nests deeper than {limits.json_depth_max}") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f'the body is not {{"columns": {{...}}}} or {{"rows": [...]}}: {error}') from error
    columns, rows = parsed.columns, parsed.rows
    if (columns is None) is (rows is None):
        raise InvalidArgument('the body has exactly one of "columns" and "rows"')
    keys = 1
    if columns is not None:
        keys += len(columns)
        brackets = 2 + len(columns)
        num_rows = len(next(iter(columns.values()), ()))
        body = JsonBody(columns, num_rows, False)
    else:
        assert rows is not None
        keys += sum(map(len, rows))
        brackets = 2 + len(rows)
        body = JsonBody(_columns_of(rows, limits), len(rows), True)
    _check_lengths(body, limits)
    # Counting bytes is the cheapest proof that nothing nests and no key repeats: an object's key has one colon.
    if data.count(b"[") + data.count(b"{") > brackets:
        keys += keys_within(list(body.columns.values()), 1, limits, schema is None)
    refuse_repeated_keys(data, keys)
    if schema is None:
        kinds = [infer_type(values) for values in body.columns.values()]
        # A body whose types take a closer look (None) shares a batch with no other: id() is its own.
        body.key = (*body.columns, *kinds) if None not in kinds else (id(body),)
    else:
        body.key = tuple(body.columns)
    return body


def _columns_of(rows: list[dict[str, Any]], limits: EdgeLimits) -> Columns:
    if not rows:
        return {}
    names = list(rows[0])
    if all(row.keys() == rows[0].keys() for row in rows):
        return {name: [row[name] for row in rows] for name in names}
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    if len(names) > limits.columns_max:
        raise InvalidArgument(f"the rows have {len(names)} different keys; at most {limits.columns_max} are taken")
    check_cells(len(names) * len(rows), len(rows) + sum(map(len, rows)))
    return {name: [row.get(name) for row in rows] for name in names}


def _check_lengths(body: JsonBody, limits: EdgeLimits) -> None:
    if len(body.columns) > limits.columns_max:
        raise InvalidArgument(f"{len(body.columns)} columns; at most {limits.columns_max} are taken")
    for name, values in body.columns.items():
        if len(values) != body.num_rows:
            first = next(iter(body.columns))
            raise InvalidArgument(
                f"columns are of unequal length: {first!r} has {body.num_rows} values, {name!r} has {len(values)}"
            )


def keys_within(values: list[Any], depth: int, limits: EdgeLimits, inferred: bool = True) -> int:
    """How many keys the objects have that are in `values`, or in those. `depth` is how deep in the body `values` is;
    `inferred` says that objects become structs of all the fields that any of them has.
    Raises InvalidArgument where nesting goes too deep, or objects leave too many fields out."""
    keys = objects = cells = 0
    depth += 1
    level: list[Any] = [v for v in values if type(v) is list or type(v) is dict]
    while level:
        depth += 1
        if depth > limits.json_depth_max:
            raise InvalidArgument(f"the body nests deeper than {limits.json_depth_max}")
        sizes = [len(v) for v in level if type(v) is dict]
        keys += sum(sizes)
        objects += len(sizes)
        # No object has more fields than all of its level together.
        cells += len(sizes) * sum(sizes)
        inner = (v.values() if type(v) is dict else v for v in level)
        level = [v for v in itertools.chain.from_iterable(inner) if type(v) is list or type(v) is dict]
    if inferred and cells > CELLS_MIN:
        _check_fields(values, objects + keys, limits)
    return keys


def _check_fields(values: list[Any], sent: int, limits: EdgeLimits) -> None:
    """Count, place by place, what objects become as structs of the same fields."""
    cells = 0
    places = [[value] for value in values]
    while places:
        place = places.pop()
        objects = [v for v in place if type(v) is dict]
        names = set(itertools.chain.from_iterable(objects))
        if len(names) > limits.columns_max:
            raise InvalidArgument(f"objects have {len(names)} different keys; at most {limits.columns_max} are taken")
        cells += len(objects) * len(names)
        check_cells(cells, sent)
        fields: dict[str, list[Any]] = {}
        for name, value in itertools.chain.from_iterable(one.items() for one in objects):
            if type(value) is list or type(value) is dict:
                fields.setdefault(name, []).append(value)
        places.extend(fields.values())
        if within := list(itertools.chain.from_iterable(v for v in place if type(v) is list)):
            places.append(within)


def refuse_repeated_keys(data: bytes, keys: int) -> None:
    """Raise InvalidArgument where an object has a key twice; `keys` is how many keys survived decoding.

    A colon that ends a key follows a quote, or space after a quote; most colons inside of strings (times, URLs) do
    not. Only where that count is still too high is the body parsed again, slowly and exactly.
    """
    if data.count(b":") == keys:
        return
    if sum(data.count(mark) for mark in (b'":', b" :", b"\t:", b"\n:", b"\r:")) != keys:
        json.loads(data, object_pairs_hook=_checked_object, parse_float=_ignored, parse_int=_ignored)


def _checked_object(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidArgument(f"the key {name[:64]!r} comes twice in one object")
        seen.add(name)


def _ignored(_: str) -> None:
    """Numbers were parsed already."""


# ---- batches


def build(bodies: Sequence[JsonBody], schema: pa.Schema | None) -> pa.RecordBatch:
    """One batch of the bodies' rows, in order. All have the same `key`.

    Raises InvalidArgument naming column and row, and SchemaMismatch where the declared schema is not met.
    """
    names = list(bodies[0].columns)
    if len(bodies) == 1:
        columns = bodies[0].columns
    else:
        chain = itertools.chain.from_iterable
        columns = {name: list(chain([body.columns[name] for body in bodies])) for name in names}
    if schema is None:
        if not names:
            raise SchemaMismatch("the body has no columns")
        return _shared(columns) if len(bodies) > 1 else _inferred(columns)
    if bodies[0].as_rows and not bodies[0].num_rows:
        columns = {name: [] for name in schema.names}
    if columns.keys() != set(schema.names):
        raise _wrong_columns(columns, schema)
    fields = list(schema)
    values = [columns[field.name] for field in fields]
    try:
        arrays = arrays_of(
            values, schema.types, lambda place: declared(values[place], fields[place].name, fields[place].type)
        )
    except BadValue as error:
        raise SchemaMismatch(error.message) from error
    for field, array in zip(fields, arrays, strict=True):
        if array.null_count and not field.nullable:
            row = array.is_null().index(True).as_py()
            raise SchemaMismatch(f"column {field.name!r}, row {row}: null, where the method's schema allows none")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _inferred(columns: Columns) -> pa.RecordBatch:
    """One body's rows, each column in the type that its values have."""
    names, values = list(columns), list(columns.values())
    kinds = [infer_type(each) for each in values]
    return pa.RecordBatch.from_arrays(
        arrays_of(values, kinds, lambda place: infer_array(values[place], names[place])), names
    )


def _shared(columns: Columns) -> pa.RecordBatch:
    """Several bodies' rows in the type that each body's own values have; one value that needs another is an error
    here, so that it changes nobody else's type."""
    values = list(columns.values())
    kinds = [infer_type(each) for each in values]
    try:
        arrays = arrays_of(values, kinds, lambda place: pa.array(values[place], kinds[place]))
    except CONVERSION_ERRORS as error:
        raise InvalidArgument("the bodies do not share their types") from error
    return pa.RecordBatch.from_arrays(arrays, list(columns))


def _wrong_columns(columns: Columns, schema: pa.Schema) -> SchemaMismatch:
    missing = [name for name in schema.names if name not in columns]
    extra = [name for name in columns if name not in set(schema.names)]
    parts = [f"missing columns {missing[:8]}"] * bool(missing) + [f"unknown columns {extra[:8]}"] * bool(extra)
    return SchemaMismatch("; ".join(parts) or f"columns named twice in the schema {schema.names[:8]}")


@dataclass(slots=True)
class Built:
    """A batch, and the places (in the sequence given to `build_all`) of the bodies whose rows it holds, in order."""

    batch: pa.RecordBatch
    members: list[int]


def build_all(bodies: Sequence[JsonBody], schema: pa.Schema | None) -> tuple[list[Built], dict[int, FlightserveError]]:
    """Batches of all the bodies that can be built, as few as their schemas allow; and the errors of the others."""
    groups: dict[tuple[object, ...], list[int]] = {}
    if len(bodies) == 1:
        groups[bodies[0].key] = [0]
    else:
        for index, body in enumerate(bodies):
            groups.setdefault((len(body.columns), *body.key), []).append(index)
    built: list[Built] = []
    failed: dict[int, FlightserveError] = {}
    for members in groups.values():
        try:
            built.append(Built(build([bodies[i] for i in members], schema), members))
        except FlightserveError as error:
            if len(members) == 1:
                failed[members[0]] = error
            else:
                _one_by_one(bodies, members, schema, built, failed)
    return built, failed


def _one_by_one(
    bodies: Sequence[JsonBody],
    members: list[int],
    schema: pa.Schema | None,
    built: list[Built],
    failed: dict[int, FlightserveError],
) -> None:
    for index in members:
        try:
            built.append(Built(build([bodies[index]], schema), [index]))
        except FlightserveError as error:
            failed[index] = error


# ---- out


class JsonColumns:
    """The columns of a result as Python lists, made once for all requests whose rows it holds."""

    __slots__ = ("_lists", "names")

    def __init__(self, batch: pa.RecordBatch, style: Style = METHODS) -> None:
        """Raises MethodFailed for a batch that JSON cannot say."""
        names: list[str] = batch.schema.names
        if len(set(names)) != len(names):
            if not style.unique:
                raise MethodFailed(f"the reply has two columns of one name ({', '.join(names[:16])}); ask for Arrow")
            names = numbered(names)
        self.names = names
        try:
            self._lists = [values_of(column, style) for column in batch.columns]
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise MethodFailed(f"the reply cannot be said in JSON; ask for Arrow: {str(error)[:200]}") from error

    def encode(self, start: int, stop: int, as_rows: bool) -> bytes:
        """Rows [start, stop) as a body."""
        if as_rows:
            return orjson.dumps({"rows": self.rows(start, stop)}, option=orjson.OPT_NON_STR_KEYS)
        names = self.names
        if len(names) == 1:
            return orjson.dumps({"columns": {names[0]: self._lists[0][start:stop]}})
        lists = self._lists
        return orjson.dumps({"columns": {name: lists[i][start:stop] for i, name in enumerate(names)}})

    def lists(self) -> Iterator[tuple[str, list[Any]]]:
        """Names and values of all columns."""
        return zip(self.names, self._lists, strict=True)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows [start, stop) as objects."""
        names = self.names
        if not names:
            return [{} for _ in range(start, stop)]
        return [dict(zip(names, row, strict=True)) for row in zip(*(c[start:stop] for c in self._lists), strict=True)]

    def lines(self) -> bytes:
        """All rows as NDJSON: one object a line."""
        count = len(self._lists[0]) if self._lists else 0
        return b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in self.rows(0, count)])


@functools.lru_cache(maxsize=1024)
def declared_schema(serialised: bytes) -> pa.Schema:
    """The schema that a `MethodSpec` carries."""
    return pa.ipc.read_schema(pa.py_buffer(serialised))
