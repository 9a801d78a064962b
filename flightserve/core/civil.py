"""Days and instants as dates, for years that Python's and Arrow's own have no text for.

The proleptic Gregorian calendar; the method is `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date
Algorithms" (2013). Year 0 is 1 BC.
"""

from __future__ import annotations

from typing import Final

DAY_S: Final = 86_400
# The first and the last day of the years 0 to 9999, which ISO 8601 writes with four digits.
FIRST_DAY: Final = -719_528
LAST_DAY: Final = 2_932_896
# Of year 1, Python's first.
FIRST_YEAR_DAY: Final = FIRST_DAY + 366

_ERA_DAYS: Final = 146_097
# From the first of March of year 0 to the first of January 1970.
_EPOCH_DAYS: Final = 719_468


def civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of so many days since 1970-01-01."""
    era, day_of_era = divmod(days + _EPOCH_DAYS, _ERA_DAYS)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march + 2) // 5 + 1
    month = march + 3 if march < 10 else march - 9
    return year + 400 * era + (month <= 2), month, day


def clock(count: int, per_second: int) -> tuple[int, str]:
    """Days since 1970-01-01 and the time of day, `05:00:00.000`, of a count of a second's parts (a power of ten)."""
    days, rest = divmod(count, DAY_S * per_second)
    seconds, part = divmod(rest, per_second)
    digits = len(str(per_second)) - 1
    fraction = f".{part:0{digits}}" if digits else ""
    return days, f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"


def iso_date(days: int) -> str:
    """The date by ISO 8601: years of more than four digits, and those before 0, have a sign and six digits or more."""
    year, month, day = civil(days)
    digits = f"{year:04}" if 0 <= year <= 9999 else f"{year:+07}"
    return f"{digits}-{month:02}-{day:02}"


def sql_date(days: int) -> tuple[str, str]:
    """The date as SQL has it, and what stands behind it in years before 1."""
    year, month, day = civil(days)
    return (f"{year:04}-{month:02}-{day:02}", "") if year > 0 else (f"{1 - year:04}-{month:02}-{day:02}", " (BC)")
