"""PIVOT without its values: `PIVOT t ON year USING sum(x)`, whose columns are what the rows hold.

The engine makes several statements of it, one of which makes a type. Here the values are looked up by a query and are
written into the statement, which the engine's parser can show then: `PIVOT t ON (year) IN ('2012', '2013')`. Values are
texts in the order of texts, as the engine has them. Both statements are looked at like any of a stranger's, so nothing
has to be right here for safety. It has to be for what comes back; where a statement's parts are not found, one is asked
to name the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from flightserve.errors import InvalidArgument, Unimplemented
from flightserve.sql.sources.spelling import quoted
from flightserve.sql.statements.words import Word, read_words

# Columns that a PIVOT may make of what it finds.
VALUES_MAX: Final = 1000
# Within one statement.
PIVOTS_MAX: Final = 8
# To pivot on: each is a query of its own, with all that the PIVOT is of.
COLUMNS_MAX: Final = 16
NAME_THEM: Final = "name them: PIVOT ... ON column IN ('a', 'b')"

_NEEDED: Final = f"PIVOT needs its values here; {NAME_THEM}"
_PIVOTS: Final = ("PIVOT", "PIVOT_WIDER")
# What a statement with a PIVOT in it may begin with.
BEGINNINGS: Final = frozenset({*_PIVOTS, "", "DESC", "DESCRIBE", "EXPLAIN", "FROM", "SELECT", "SUMMARIZE", "WITH"})
# What may follow the columns to pivot on.
_ENDS: Final = frozenset({"USING", "GROUP", "ORDER", "LIMIT", "OFFSET", "UNION", "INTERSECT", "EXCEPT", ";"})
_OPENS: Final = frozenset("([{")
_CLOSES: Final = frozenset(")]}")


@dataclass(frozen=True, slots=True)
class OpenPivot:
    """One in a statement: the queries that give each column's values, and where these belong, by bytes."""

    text: str
    queries: tuple[str, ...]
    # Where the expression begins and ends that has these values.
    places: tuple[tuple[int, int], ...]

    def filled(self, values: Sequence[Sequence[str]]) -> str:
        """The statement with the values in it. Raises InvalidArgument for none, Unimplemented for too many."""
        columns = math.prod(map(len, values))
        if not columns:
            raise InvalidArgument("PIVOT finds no values that it could make columns of")
        if columns > VALUES_MAX:
            raise Unimplemented(f"PIVOT would make more than {VALUES_MAX} columns; {NAME_THEM}")
        raw = self.text.encode()
        for (start, end), found in sorted(zip(self.places, values, strict=True), reverse=True):
            listed = ", ".join(map(quoted, found))
            raw = b"%b(%b) IN (%b)%b" % (raw[:start], raw[start:end], listed.encode(), raw[end:])
        return raw.decode()


class PivotValuesMissing(Unimplemented):
    """The statement has such a PIVOT; `pivot` says how it is filled."""

    def __init__(self, pivot: OpenPivot) -> None:
        super().__init__(_NEEDED)
        self.pivot = pivot


def find_open_pivot(text: str) -> OpenPivot:
    """The last PIVOT in the statement that has no values: one within another comes first. Raises Unimplemented where
    none is found."""
    words = read_words(text)
    pivots = [n for n, word in enumerate(words) if word.upper in _PIVOTS]
    if len(pivots) > PIVOTS_MAX:
        raise Unimplemented(f"the statement has more than {PIVOTS_MAX} PIVOTs")
    for place in reversed(pivots):
        found = _opened(text, words, place)
        if found is not None:
            return found
    raise Unimplemented(_NEEDED)


def _opened(text: str, words: Sequence[Word], place: int) -> OpenPivot | None:
    """The PIVOT that begins there, if it is one without values. Raises Unimplemented for one on too many columns."""
    raw = text.encode()
    outer = list(_outer(words, place + 1))
    on = next((n for n in outer if words[n].upper == "ON"), None)
    if on is None or on == place + 1:
        return None
    source = raw[words[place + 1].start : words[on - 1].end].decode()
    places, queries = [], []
    columns = list(_columns(words, [n for n in outer if n > on]))
    if len(columns) > COLUMNS_MAX:
        raise Unimplemented(f"PIVOT looks up the values of at most {COLUMNS_MAX} columns; {NAME_THEM}")
    for first, last in columns:
        start, end = words[first].start, words[last].end
        value = raw[start:end].decode()
        places.append((start, end))
        queries.append(
            f"{_with(raw, words, place)}SELECT v FROM (SELECT DISTINCT CAST({value} AS VARCHAR) AS v FROM {source}) "
            f"WHERE v IS NOT NULL ORDER BY v LIMIT {VALUES_MAX + 1}"
        )
    return OpenPivot(text, tuple(queries), tuple(places)) if places else None


def _columns(words: Sequence[Word], outer: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last word of each column to pivot on that has no values."""
    column: list[int] = []
    for n in (*outer, -1):
        ends = n < 0 or words[n].upper in _ENDS
        if not ends and words[n].text != ",":
            column.append(n)
            continue
        if column and not any(words[each].upper == "IN" for each in column):
            yield column[0], column[-1]
        column = []
        if ends:
            return


def _outer(words: Sequence[Word], start: int) -> Iterator[int]:
    """The places of the words from there on that are in no brackets but those around it."""
    depth = 0
    for n in range(start, len(words)):
        depth -= words[n].text in _CLOSES
        if depth < 0:
            return
        if depth == 0:
            yield n
        depth += words[n].text in _OPENS


def _with(raw: bytes, words: Sequence[Word], place: int) -> str:
    """The names that WITH gives right before the PIVOT."""
    before = words[:place]
    if not before or before[0].upper != "WITH" or before[-1].text != ")" or place - 1 not in _outer(before, 0):
        return ""
    return raw[: words[place].start].decode()
