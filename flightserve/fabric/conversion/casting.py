"""Rows for a method's declared input: columns of another type are cast, where every value stays what it is.

What a data frame becomes in Arrow is seldom what a method declares, to the letter: large strings, string views,
categories, 64-bit whole numbers, times in nanoseconds, columns without values. Such columns are taken for the declared
type; a value that does not fit is refused with its row. What a type means never changes: text is no number, a time
without a zone none with one, true is not 1. Columns of the declared type are passed on as they lie.

Which columns are cast how is decided once for each schema; `castable` says which may be, `casts` does it.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

import pyarrow as pa

from flightserve.errors import SchemaMismatch
from flightserve.fabric.conversion.castable import castable
from flightserve.fabric.conversion.casts import Budget, cast
from flightserve.fabric.memory.schemas import decode_schema, differences, same_type
from flightserve.types import MethodSpec

_PLANS_MAX: Final = 1024
_VALUE_CHARACTERS_MAX: Final = 80


class _Plan(NamedTuple):
    """The columns that are cast, by place. `schema` is whose it is, metadata and all; `result` what it becomes."""

    schema: pa.Schema
    casts: tuple[tuple[int, pa.DataType], ...]
    result: pa.Schema


_plans: dict[tuple[bytes, bool, pa.Schema], _Plan] = {}
_last: dict[tuple[bytes, bool], _Plan] = {}
_lock: Final = threading.Lock()


def is_taken(spec: MethodSpec, schema: pa.Schema) -> bool:
    """Whether rows of that schema are such as the method takes, or may be cast to them."""
    try:
        taken_as(spec, schema, "")
    except SchemaMismatch:
        return False
    return True


def fitted(batch: pa.RecordBatch, spec: MethodSpec, where: str, bytes_max: int) -> pa.RecordBatch:
    """The rows as the method declares its input; the batch itself where they are that. Raises SchemaMismatch that names
    `where` with every column that cannot be taken, or with a row and column whose value does not fit, and TooLarge."""
    plan = taken_as(spec, batch.schema, where)
    if plan is None:
        return batch
    columns = batch.columns
    budget = Budget(bytes_max)
    for place, kind in plan.casts:
        columns[place] = _fit(columns[place], kind, budget, where, batch.schema.names[place])
    return pa.RecordBatch.from_arrays(columns, schema=plan.result)


def taken_as(spec: MethodSpec, schema: pa.Schema, where: str) -> _Plan | None:
    """How rows of that schema are cast; None where they need not be. Raises SchemaMismatch."""
    if spec.input_schema is None:
        if not len(schema) and spec.row_aligned:
            raise SchemaMismatch(f"{where} needs at least one column; the batch has none")
        return None
    expected = decode_schema(spec.input_schema)
    if schema.equals(expected):
        return None
    # To look by a schema takes longer than to compare it with that of the request before.
    before = spec.input_schema, spec.strict
    plan = _last.get(before)
    if plan is None or not plan.schema.equals(schema, check_metadata=True):
        plan = _plans.get((*before, schema))
        if plan is None or not plan.schema.equals(schema, check_metadata=True):
            plan = _planned(expected, schema, spec, where)
        _last[before] = plan
    return plan if plan.casts else None


def _planned(expected: pa.Schema, schema: pa.Schema, spec: MethodSpec, where: str) -> _Plan:
    found = differences(expected, schema, same_type if spec.strict else castable)
    if found:
        raise SchemaMismatch(f"{where} does not take these columns: {'; '.join(found)}")
    casts, fields = [], []
    for place, got in enumerate(schema):
        kind = expected.field(got.name).type
        same = same_type(kind, got)
        fields.append(got if same else expected.field(got.name).with_nullable(True))
        if not same:
            casts.append((place, kind))
    plan = _Plan(schema, tuple(casts), pa.schema(fields, metadata=schema.metadata))
    with _lock:
        if len(_plans) >= _PLANS_MAX:
            _plans.clear()
            _last.clear()
        _plans[spec.input_schema or b"", spec.strict, schema] = plan
    return plan


# ---- values


def _fit(array: pa.Array, kind: pa.DataType, budget: Budget, where: str, name: str) -> pa.Array:
    try:
        return cast(array, kind, budget)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
        row = _first_misfit(array, kind)
        reason = str(error).partition("\n")[0][:256]
    if row is None:
        raise SchemaMismatch(f"{where}: column {name!r} cannot be taken as {kind}: {reason}")
    raise SchemaMismatch(
        f"{where}: row {row} of column {name!r}: {_shown(array[row])} does not fit {kind}, which is declared"
    )


def _shown(value: pa.Scalar) -> str:
    try:
        text = repr(value.as_py())
    except (ValueError, OverflowError):
        # Times that Python has no object for.
        return "the value"
    return text if len(text) <= _VALUE_CHARACTERS_MAX else f"{text[: _VALUE_CHARACTERS_MAX - 3]}..."


def _first_misfit(array: pa.Array, kind: pa.DataType) -> int | None:
    """The first row that cannot be cast, by halves; None where each by itself can."""
    start, stop = 0, len(array)
    if _casts(array, kind):
        return None
    while stop - start > 1:
        middle = (start + stop) // 2
        if _casts(array.slice(start, middle - start), kind):
            start = middle
        else:
            stop = middle
    return start if not _casts(array.slice(start, 1), kind) else None


def _casts(array: pa.Array, kind: pa.DataType) -> bool:
    try:
        # What is made was within bounds when all of it was.
        cast(array, kind, Budget(1 << 62))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        return False
    return True
