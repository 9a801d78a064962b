"""Reads one workbook by `python-calamine`, and writes what was asked for as an Arrow stream; `spreadsheets.py` runs
this file as a program. It imports nothing of flightserve, which would take longer than most workbooks do.

    cells.py BYTES_MAX FILE          the names of the sheets that have something in them
    cells.py BYTES_MAX FILE SHEET    the sheet's rows

With status `BAD_FILE` standard output has what is wrong with the file, in words that go on after its name. Memory that
is not there ends it with `TOO_LARGE`, or, in the library, by SIGABRT.
"""

from __future__ import annotations

import datetime
import os
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pyarrow as pa

BAD_FILE: Final = 3
TOO_LARGE: Final = 4
# Whole numbers up to this are exact in what workbooks have for numbers.
_EXACT: Final = 1 << 53
_MIDNIGHT: Final = datetime.time()


def main(bytes_max: str, file: str, *sheet: str) -> int:
    """Answer; the exit status. `bytes_max` is the most memory it may take, as far as the kernel counts it as data."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(bytes_max), int(bytes_max)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Without memory, the library's account of where it panicked waits for ever.
    os.putenv("RUST_BACKTRACE", "0")
    from python_calamine import WorksheetNotFound

    try:
        table = _sheet(file, *sheet) if sheet else pa.table({"sheet": _sheets(file)})
    except WorksheetNotFound:
        return _refuse(f"has no sheet {sheet[0]!r} any more")
    except BaseException as error:  # the library's panics are no Exception
        if isinstance(error, MemoryError) or _memory_bytes() > int(bytes_max) // 2:
            return TOO_LARGE
        where = f"has a sheet {sheet[0]!r} that cannot be read" if sheet else "is no workbook that can be read"
        return _refuse(f"{where}: {error}")
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as out:
        out.write_table(table)
    return 0


def _memory_bytes() -> int:
    """The most that this program had. (`ru_maxrss` is the parent's at the start, where that is more.)"""
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")), 0)


def _refuse(why: str) -> int:
    sys.stdout.buffer.write(why.encode())
    return BAD_FILE


def _sheets(file: str) -> pa.Array:
    book = _open(file)
    return pa.array([name for name in book.sheet_names if _cells(book, name)], pa.string())


def _sheet(file: str, sheet: str) -> pa.Table:
    head, *rows = _cells(_open(file), sheet) or [[]]
    width = max(len(head), *map(len, rows)) if rows else len(head)
    columns = [[row[n] if n < len(row) else "" for row in rows] for n in range(width)]
    heads = [str(head[n]).strip() if n < len(head) else "" for n in range(width)]
    kept = [(name, column) for name, column in zip(heads, columns, strict=True) if name or any(c != "" for c in column)]
    return pa.table([_array(column) for _, column in kept], names=_distinct([name for name, _ in kept]))


def _open(file: str) -> Any:
    from python_calamine import CalamineWorkbook

    return CalamineWorkbook.from_path(file)


def _cells(book: Any, sheet: str) -> list[list[Any]]:
    """The cells, without what is empty around them."""
    return list(book.get_sheet_by_name(sheet).to_python())


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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
