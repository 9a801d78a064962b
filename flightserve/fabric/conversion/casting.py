"""Rows for a method's declared input: columns of another type are cast, where every value stays what it is.

What a data frame becomes in Arrow is seldom what a method declares, to the letter: large strings, string views,
categories, 64-bit whole numbers, times in nanoseconds, columns without values. Such columns are taken for the declared
type; a value that does not fit is refused with its row. What a type means never changes: text is no number, a time
without a zone none with one, true is not 1. Columns of the declared type are passed on as they lie.

Which columns are cast how is decided once for each schema; `castable` says which may be, `casts` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import pyarrow as pa

from flightserve.errors import SchemaMismatch
from flightserve.fabric.conversion.casts import Budget, cast
from flightserve.fabric.conversion.plans import CastPlan, plan_of
from flightserve.fabric.conversion.required import holds_forbidden_null
from flightserve.types import MethodSpec

_VALUE_CHARACTERS_MAX: Final = 80
_MISFIT_ERRORS: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError)


def is_taken(spec: MethodSpec, schema: pa.Schema) -> bool:
    """Whether rows of that schema are such as the method takes, or may be cast to them, whatever their values."""
    try:
        plan = plan_of(spec, schema, "")
    except SchemaMismatch:
        return False
    return plan is None or not any(each.refusal for each in plan.casts)


def passes(spec: MethodSpec, schema: pa.Schema, where: str) -> bool:
    """Whether rows of that schema go on as they are. Raises SchemaMismatch."""
    plan = plan_of(spec, schema, where)
    return plan is None or plan.passes


def fitted(batch: pa.RecordBatch, spec: MethodSpec, where: str, bytes_max: int) -> pa.RecordBatch:
    """The rows as the method declares its input; the batch itself where they are that. Raises SchemaMismatch that names
    `where` with every column that cannot be taken, or with a row and column whose value does not fit, and TooLarge."""
    plan = plan_of(spec, batch.schema, where)
    if plan is None:
        return batch
    columns = batch.columns if plan.places is None else [batch.column(place) for place in plan.places]
    if plan.casts:
        _cast_columns(columns, plan, where, Budget(bytes_max, spec.rounds))
    for place, field in plan.required:
        _require(columns[place], field, where)
    return batch if plan.passes else pa.RecordBatch.from_arrays(columns, schema=plan.result_schema(batch.schema))


def _cast_columns(columns: list[pa.Array], plan: CastPlan, where: str, budget: Budget) -> None:
    """In place."""
    refused = [each.refusal for each in plan.casts if each.refusal and not _is_without_values(columns[each.place])]
    if refused:
        raise SchemaMismatch(f"{where} does not take these columns: {'; '.join(refused)}")
    for place, kind, refusal in plan.casts:
        column = pa.nulls(len(columns[place])) if refusal else columns[place]
        columns[place] = _fit(column, kind, budget, where, plan.result.names[place])


def _require(column: pa.Array, field: pa.Field, where: str) -> None:
    try:
        if not holds_forbidden_null(column, field):
            return
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(f"{where}: column {field.name!r} cannot be looked into for nulls: {error}") from error
    row = _first(column, partial(holds_forbidden_null, field=field))
    raise SchemaMismatch(f"{where}: row {row} of column {field.name!r} has a null where the schema allows none")


def _is_without_values(column: pa.Array) -> bool:
    """A column of no rows is one of its type: whoever sends it shall learn that the type is wrong."""
    return len(column) > 0 and column.null_count == len(column)


# ---- values


def _fit(array: pa.Array, kind: pa.DataType, budget: Budget, where: str, name: str) -> pa.Array:
    try:
        return cast(array, kind, budget)
    except _MISFIT_ERRORS as error:
        row = _first(array, partial(_misfits, kind=kind, budget=budget))
        reason = str(error).partition("\n")[0][:256]
    if row is None:
        raise SchemaMismatch(f"{where}: column {name!r} cannot be taken as {kind}: {reason}")
    misfit = f"row {row} of column {name!r}: {_shown(array[row])} does not fit {kind}, which is declared"
    if pa.types.is_floating(kind) and pa.types.is_floating(array.type) and not budget.rounds:
        misfit += f" (no {kind} is exactly that: round the column first, or declare double)"
    raise SchemaMismatch(f"{where}: {misfit}")


def _shown(value: pa.Scalar) -> str:
    try:
        text = repr(value.as_py())
    except (ValueError, OverflowError):
        # Times that Python has no object for.
        return "the value"
    return text if len(text) <= _VALUE_CHARACTERS_MAX else f"{text[: _VALUE_CHARACTERS_MAX - 3]}..."


def _first(array: pa.Array, fails: Callable[[pa.Array], bool]) -> int | None:
    """The first row that fails, by halves; None where each by itself does not."""
    start, stop = 0, len(array)
    while stop - start > 1:
        middle = (start + stop) // 2
        if fails(array.slice(start, middle - start)):
            stop = middle
        else:
            start = middle
    return start if start < stop and fails(array.slice(start, 1)) else None


def _misfits(array: pa.Array, kind: pa.DataType, budget: Budget) -> bool:
    """Raises TooLarge: the cast may have ended before it came to what is large."""
    try:
        cast(array, kind, Budget(budget.bytes_max, budget.rounds))
    except _MISFIT_ERRORS:
        return True
    return False
