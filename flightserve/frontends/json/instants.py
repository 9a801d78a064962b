"""Dates, times and instants as JSON and CSV have them.

Arrow's own text is right for the years 0 to 9999, and most columns have no others. Beyond, years have a sign and six
digits or more, as ISO 8601 has them; the ends of a type's range are the engine's `infinity` and `-infinity`, but for
nanoseconds, where they are moments of 1677 and 2262. A time of day that is none is a ValueError.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from flightserve.core.civil import DAY_S, FIRST_DAY, LAST_DAY, clock, iso_date

_PER_SECOND: Final = {"s": 1, "ms": 1000, "us": 1_000_000}
# Of so many values Python's own loop finds the least sooner than a call of Arrow's.
FEW: Final = 64
_DATE_END: Final = 2**31 - 1
_INSTANT_END: Final = 2**63 - 1


def instant_texts(array: pa.Array) -> pa.Array:
    """Dates, times or timestamps as strings. Raises ArrowInvalid (a ValueError) for times of day that are none."""
    kind = array.type
    if pt.is_time(kind):
        array.validate(full=True)
        return array.cast(pa.string())
    if pt.is_date(kind):
        return array.cast(pa.string()) if _plain(array, 1 if pt.is_date32(kind) else DAY_S * 1000) else _dates(array)
    # No count of nanoseconds is beyond a year of four digits.
    if kind.unit != "ns" and not _plain(array, DAY_S * _PER_SECOND[kind.unit]):
        return _instants(array)
    # Arrow keeps instants in UTC; casting the zone away gives the UTC wall clock. `Z` says so, and needs no
    # time zone database.
    text = pc.replace_substring(array.cast(pa.timestamp(kind.unit)).cast(pa.string()), " ", "T", max_replacements=1)
    if kind.tz is not None:
        text = pc.binary_join_element_wise(text, "Z", "")
    return text


def _counts(array: pa.Array) -> pa.Array:
    return array.view(pa.int32() if pt.is_date32(array.type) else pa.int64())


def _plain(array: pa.Array, per_day: int) -> bool:
    """Whether all are within the years 0 to 9999."""
    first, last = ends_of(_counts(array))
    return first >= FIRST_DAY * per_day and last < (LAST_DAY + 1) * per_day


def ends_of(integers: pa.Array) -> tuple[int, int]:
    """The least and the greatest; 0 where there are none."""
    if len(integers) <= FEW:
        values = [value for value in integers.to_pylist() if value is not None]
        return min(values, default=0), max(values, default=0)
    ends = pc.min_max(integers)
    return ends["min"].as_py() or 0, ends["max"].as_py() or 0


def _dates(array: pa.Array) -> pa.Array:
    def text(count: int) -> str:
        if pt.is_date64(array.type):
            return iso_date(count // (DAY_S * 1000))
        return _infinite(count, _DATE_END) or iso_date(count)

    return _each(array, text)


def _instants(array: pa.Array) -> pa.Array:
    per_second, zone = _PER_SECOND[array.type.unit], "" if array.type.tz is None else "Z"

    def text(count: int) -> str:
        days, time = clock(count, per_second)
        return _infinite(count, _INSTANT_END) or f"{iso_date(days)}T{time}{zone}"

    return _each(array, text)


def _each(array: pa.Array, text: Any) -> pa.Array:
    return pa.array([None if n is None else text(n) for n in _counts(array).to_pylist()], pa.string())


def _infinite(count: int, end: int) -> str:
    """What the engine means by the ends of the range; "" for all between."""
    return "infinity" if count == end else "-infinity" if count == -end else ""
