"""How an answer's numbers and names are written, where JSON leaves it open: `Style`.

Methods have one style: integers are numbers, decimals texts with all digits, NaN and the infinities null, and two
columns of one name an error. In answers to SQL a client that has but floats, as a browser or a chart, has to get
numbers: a sum of integers is a decimal for Arrow, and so is `1.5`. There the value decides. It is a number where a
64-bit float keeps it: whole up to `EXACT_MAX`, of a decimal with a fraction up to `EXACT_DIGITS` digits. Beyond that it
is a text; whole ones are numbers all the same where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, cast

# The greatest whole number up to which a 64-bit float holds each; and so many decimal digits come back from one.
EXACT_MAX: Final = 2**53
EXACT_DIGITS: Final = 15
INTEGERS: Final = ("text", "number")
NANS: Final = ("null", "text")
_INFINITIES: Final = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


class Style(NamedTuple):
    """`integers`: "typed" as methods have them, else what becomes of whole numbers that no float holds. `nan`: whether
    NaN and the infinities are nulls or texts; "" is null in JSON, text in CSV. `unique`: repeated names are numbered.
    """

    integers: Literal["typed", "text", "number"] = "typed"
    nan: Literal["", "null", "text"] = ""
    unique: bool = False


METHODS: Final = Style()
# Of queries by name, which are methods: decimals by their values, and whole numbers numbers as methods have them.
SUMS: Final = Style("number")


def sql_style(integers: str = "text", nan: str = "") -> Style:
    """Of an answer to SQL: `integers` is one of INTEGERS, `nan` one of NANS or ""."""
    return Style(cast(Literal["text", "number"], integers), cast(Literal["", "null", "text"], nan), unique=True)


def said_float(value: float | None) -> float | str | None:
    """A float, NaN and the infinities by their names in JavaScript."""
    if value is None or value - value == 0:
        return value
    return _INFINITIES.get(value, "NaN")


def numbered(names: Sequence[str]) -> list[str]:
    """The names, those that come again with a number behind: `id`, `id_1`, `id_2`. No new name is like one that is
    there, in small or capital letters: what reads files often takes these for the same."""
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    counts: dict[str, int] = {}
    made = []
    for name in names:
        new = name
        while new in seen:
            counts[name] = counts.get(name, 0) + 1
            candidate = f"{name}_{counts[name]}"
            new = name if candidate.lower() in taken else candidate
        seen.add(new)
        taken.add(new.lower())
        made.append(new)
    return made
