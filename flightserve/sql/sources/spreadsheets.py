"""Workbooks (.xlsx, .xlsm, .xls, .ods), read by `python-calamine` (an extra). Each sheet that has rows is a table.

A sheet's first row names its columns. A column is of the one type that all its cells have, whole numbers where all
numbers are whole; cells of several types make it text.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.sql.sources.lakes import missing
from flightserve.sql.sources.problems import BadFile

_WORKBOOKS_MAX: Final = 256
# Whole numbers up to this are exact in what workbooks have for numbers.
_EXACT: Final = 1 << 53
_MIDNIGHT: Final = datetime.time()


@functools.lru_cache(maxsize=_WORKBOOKS_MAX)
def sheets_in(file: str, stamp: tuple[int, ...]) -> list[tuple[str, ...]]:
    """The names of the sheets that have something in them; `stamp` is of the file as it is. Raises BadFile."""
    book = _open(file)
    return [(name,) for name in book.sheet_names if _cells(file, book, name)]


def read_sheet(file: str, sheet: str) -> pa.Table:
    """The sheet's rows. Raises BadFile."""
    head, *rows = _cells(file, _open(file), sheet)
    width = max(len(head), *map(len, rows)) if rows else len(head)
    columns = [[row[n] if n < len(row) else "" for row in rows] for n in range(width)]
    heads = [str(head[n]).strip() if n < len(head) else "" for n in range(width)]
    kept = [(name, column) for name, column in zip(heads, columns, strict=True) if name or any(c != "" for c in column)]
    return pa.table([_array(column) for _, column in kept], names=_distinct([name for name, _ in kept]))


def _open(file: str) -> Any:
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise BadFile(file, missing("is a workbook", "xlsx")) from error
    try:
        return CalamineWorkbook.from_path(file)
    except (CalamineError, OSError) as error:
        raise BadFile(file, f"is no workbook that can be read: {error}") from error


def _cells(file: str, book: Any, sheet: str) -> list[list[Any]]:
    """The cells, without what is empty around them."""
    from python_calamine import CalamineError, WorksheetNotFound

    try:
        return list(book.get_sheet_by_name(sheet).to_python())
    except WorksheetNotFound as error:
        raise BadFile(file, f"has no sheet {sheet!r} any more") from error
    except CalamineError as error:
        raise BadFile(file, f"has a sheet {sheet!r} that cannot be read: {error}") from error


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that are missing made up, those that come twice with a number."""
    taken: set[str] = set()
    out = []
    for place, name in enumerate(names, 1):
        name = own = name or f"column{place}"
        number = 1
        while name.lower() in taken:
            name, number = f"{own}_{number}", number + 1
        taken.add(name.lower())
        out.append(name)
    return out


# ---- types


def _array(cells: Sequence[Any]) -> pa.Array:
    """The column, "" being no value."""
    values = [None if cell == "" else cell for cell in cells]
    for fits, make, kind in _KINDS:
        if all(value is None or fits(value) for value in values):
            return pa.array([None if value is None else make(value) for value in values], kind)
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_day(value: Any) -> bool:
    if isinstance(value, datetime.datetime):
        return value.time() == _MIDNIGHT
    return isinstance(value, datetime.date)


def _as_time(value: datetime.date) -> datetime.datetime:
    return value if isinstance(value, datetime.datetime) else datetime.datetime.combine(value, _MIDNIGHT)


def _text(value: Any) -> str:
    if _is_number(value) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return str(value).lower() if isinstance(value, bool) else str(value)


# What each value has to be, what it becomes, the column's type.
_KINDS: Final[Iterable[tuple[Callable[[Any], bool], Callable[[Any], Any], pa.DataType]]] = (
    (lambda value: isinstance(value, str), str, pa.string()),
    (lambda value: isinstance(value, bool), bool, pa.bool_()),
    (lambda value: _is_number(value) and float(value).is_integer() and abs(value) <= _EXACT, int, pa.int64()),
    (_is_number, float, pa.float64()),
    (_is_day, lambda value: _as_time(value).date(), pa.date32()),
    (lambda value: isinstance(value, datetime.date), _as_time, pa.timestamp("us")),
    (lambda value: isinstance(value, datetime.time), lambda value: value, pa.time64("us")),
    (lambda value: isinstance(value, datetime.timedelta), lambda value: value, pa.duration("us")),
)
