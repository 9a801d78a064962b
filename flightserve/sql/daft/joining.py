"""Joins: what is equal finds its like by Daft's own joins, other conditions are looked at behind them.

To Daft NULL is equal to nothing. Where the plan takes NULL for NULL's like, a column goes into the join as two: whether
it is NULL, and its value or some other. A mark says of each row on the left whether the right has its like, and is
NULL where that is not known, as the value of IN may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flightserve.sql.daft.frames import Composer, Frame, FrameColumn, mark
from flightserve.sql.daft.library import daft
from flightserve.sql.daft.plans import Node, check_parts, refused
from flightserve.sql.daft.spelling import COMPARISONS
from flightserve.sql.daft.types import Kind

_HOW: Final = {"INNER": "inner", "LEFT": "left", "RIGHT": "right", "FULL": "outer", "SEMI": "semi", "ANTI": "anti"}
_EQUAL: Final = "COMPARE_EQUAL"
_ALIKE: Final = "COMPARE_NOT_DISTINCT_FROM"
_PARTS: Final = {"conditions", "join_type", "left_projection_map", "right_projection_map"}
_TRUTH: Final = Kind("BOOLEAN")
_COUNT: Final = Kind("BIGINT")


def cross(left: Frame, right: Frame) -> Frame:
    """Every row with every row."""
    rows = left.narrow().rows.join(right.narrow().rows, how="cross")
    return Frame(rows, (*left.columns, *right.columns))


def join(composer: Composer, left: Frame, right: Frame, node: Node) -> Frame:
    """The operator's result. Raises Unimplemented."""
    check_parts(node, _PARTS)
    how, conditions = node["join_type"], node["conditions"]
    for each in conditions:
        if not {"left", "right", "comparison"} <= set(each):
            raise refused("this kind of join condition")
    kept_left = node.get("left_projection_map") or range(len(left.columns))
    kept_right = node.get("right_projection_map") or range(len(right.columns))
    wide_left, on_left = composer.extend(left, [each["left"] for each in conditions])
    wide_right, on_right = composer.extend(right, [each["right"] for each in conditions])
    sides = Sides(composer, wide_left, wide_right, [each["comparison"] for each in conditions], on_left, on_right)
    if how == "MARK":
        found = sides.marked()
        return found.select([*kept_left, len(found.columns) - 1])
    if how in ("SEMI", "ANTI"):
        if not sides.only_equal:
            raise refused(f"a {how} join on other than equality")
        return sides.joined(_HOW[how]).select(kept_left)
    if how not in _HOW:
        raise refused(f"{how} joins")
    if not sides.only_equal and how != "INNER":
        raise refused(f"a {how} JOIN on other than equality")
    found = sides.joined(_HOW[how]) if sides.equal else cross(wide_left, wide_right)
    offset = len(wide_left.columns)
    return sides.fitting(found).select([*kept_left, *(offset + number for number in kept_right)])


class Sides:
    """Both sides of a join, each with the columns that the conditions compare, which have these numbers."""

    def __init__(
        self,
        composer: Composer,
        left: Frame,
        right: Frame,
        comparisons: Sequence[str],
        on_left: Sequence[int],
        on_right: Sequence[int],
    ) -> None:
        self._composer = composer
        self._left, self._right = left, right
        self._comparisons = list(comparisons)
        self._pairs = list(zip(on_left, on_right, strict=True))
        self.equal = [n for n, each in enumerate(comparisons) if each in (_EQUAL, _ALIKE)]
        for number in (on_left[n] for n in self.equal):
            if left.columns[number].kind.floating:
                raise refused("a join on equal floating-point numbers")

    def __repr__(self) -> str:
        return f"<Sides on {self._comparisons}>"

    @property
    def only_equal(self) -> bool:
        return len(self.equal) == len(self._comparisons) > 0

    def joined(self, how: str) -> Frame:
        """By what has to be equal."""
        left = [self._pairs[n][0] for n in self.equal]
        right = [self._pairs[n][1] for n in self.equal]
        alike = [self._comparisons[n] == _ALIKE for n in self.equal]
        return join_on(self._left, left, self._right, right, alike, how)

    def fitting(self, found: Frame) -> Frame:
        """Of the rows of an inner join, those for which the other conditions hold."""
        offset = len(self._left.columns)
        others = [n for n in range(len(self._comparisons)) if n not in self.equal]
        if not others:
            return found
        expressions = [
            _comparison(self._comparisons[n], found, self._pairs[n][0], offset + self._pairs[n][1]) for n in others
        ]
        return self._composer.filter(found, expressions)

    # ---- marks

    def marked(self) -> Frame:
        """The left side with the mark behind its columns."""
        unsure = [n for n, each in enumerate(self._comparisons) if each not in (_ALIKE, "COMPARE_DISTINCT_FROM")]
        if not unsure:
            return self._with_found()
        if len(unsure) > 1 or self._comparisons[unsure[0]] != _EQUAL or len(self.equal) < len(self._comparisons):
            raise refused("a comparison of other than one value with the rows of a subquery")
        return self._with_truth(unsure[0])

    def _with_found(self) -> Frame:
        """Where no condition is ever NULL: whether there is a row on the right."""
        numbers = [each for each, _ in self._pairs]
        if self.only_equal:
            likes = self._right.select([each for _, each in self._pairs])
        else:
            # Whether there is one depends on nothing of the left row but these.
            asked = _distinct(self._composer, self._left.select(numbers))
            pairs = [(n, number) for n, (_, number) in enumerate(self._pairs)]
            lefts, rights = [each for each, _ in pairs], [each for _, each in pairs]
            inner = Sides(self._composer, asked, self._right, self._comparisons, lefts, rights)
            found = inner.joined("inner") if inner.equal else cross(asked, self._right)
            likes = inner.fitting(found).select(range(len(numbers)))
        likes = _with_constant(self._composer, _distinct(self._composer, likes))
        found = join_on(self._left, numbers, likes, range(len(numbers)), [True] * len(numbers), "left")
        text = f"({mark(len(found.columns) - 1)} IS NOT NULL)"
        return _behind(self._composer, found, len(self._left.columns), text)

    def _with_truth(self, asked: int) -> Frame:
        """For IN: NULL where there is no like, but a NULL on either side. The other conditions say among which rows it
        is looked for."""
        composer, others = self._composer, [n for n in range(len(self._comparisons)) if n != asked]
        value, likes = self._pairs[asked]
        keys = [self._pairs[n][1] for n in others]
        found = _with_constant(composer, _distinct(composer, self._right.select([*keys, likes])))
        lefts = [self._pairs[n][0] for n in others]
        alike = [*[True] * len(others), False]
        left = join_on(self._left, [*lefts, value], found, range(len(keys) + 1), alike, "left")
        hit = len(left.columns) - 1
        counts = _counts(composer, self._right, keys, likes)
        rows = (
            join_on(left, lefts, counts, range(len(keys)), [True] * len(keys), "left") if keys else cross(left, counts)
        )
        last = len(rows.columns) - 1
        number, filled = mark(last - 1), mark(last)
        text = (
            f"CASE WHEN {mark(hit)} IS NOT NULL THEN true WHEN coalesce({number}, 0) = 0 THEN false "
            f"WHEN {mark(value)} IS NULL OR {number} > {filled} THEN CAST(NULL AS BOOLEAN) ELSE false END"
        )
        return _behind(composer, rows, len(self._left.columns), text)


def join_on(
    left: Frame, on_left: Sequence[int], right: Frame, on_right: Sequence[int], alike: Sequence[bool], how: str
) -> Frame:
    """Daft's join on these columns; where they are `alike`, NULL is NULL's like."""
    lefts = [each for number, nulls in zip(on_left, alike, strict=True) for each in _keys(left, number, nulls)]
    rights = [each for number, nulls in zip(on_right, alike, strict=True) for each in _keys(right, number, nulls)]
    rows = left.narrow().rows.join(right.narrow().rows, left_on=lefts, right_on=rights, how=how)
    return Frame(rows, left.columns if how in ("semi", "anti") else (*left.columns, *right.columns))


def _keys(frame: Frame, number: int, alike: bool) -> list[Any]:
    column, kind = frame.column(number), frame.columns[number].kind
    if not alike:
        return [column]
    return [column.is_null(), column.fill_null(daft().lit(kind.zero).cast(kind.daft))]


def _comparison(sort: str, frame: Frame, left: int, right: int) -> Node:
    """The condition as an expression over the joined rows."""
    if sort not in COMPARISONS:
        raise refused(f"joins by {sort}")
    sides = [_reference(frame, left), _reference(frame, right)]
    return {"expression_class": "BOUND_FUNCTION", "type": sort, "return_type": {"id": "BOOLEAN"}, "children": sides}


def _reference(frame: Frame, number: int) -> Node:
    kind = frame.columns[number].kind
    found: Node = {"id": kind.name}
    if kind.name == "DECIMAL":
        found["type_info"] = {"width": kind.width, "scale": kind.scale}
    return {"expression_class": "BOUND_REF", "type": "BOUND_REF", "index": number, "return_type": found}


def _distinct(composer: Composer, frame: Frame) -> Frame:
    """The rows once each, under names of their own: they may be joined with what they come from."""
    renamed = composer.compute(frame, [(mark(n), column.kind) for n, column in enumerate(frame.columns)])
    return Frame(renamed.rows.distinct(), renamed.columns)


def _with_constant(composer: Composer, frame: Frame) -> Frame:
    own = [(mark(n), column.kind) for n, column in enumerate(frame.columns)]
    return composer.compute(frame, [*own, ("true", _TRUTH)])


def _behind(composer: Composer, frame: Frame, count: int, text: str) -> Frame:
    """The first columns, and the expression's behind them."""
    own = [(mark(n), column.kind) for n, column in enumerate(frame.columns[:count])]
    return composer.compute(frame, [*own, (text, _TRUTH)])


def _counts(composer: Composer, right: Frame, keys: Sequence[int], value: int) -> Frame:
    """By the keys, how many rows there are, and how many have a value."""
    frame = composer.compute(right, [(mark(n), right.columns[n].kind) for n in [*keys, value]])
    names, last = [column.name for column in frame.columns], frame.column(len(keys))
    made = (FrameColumn(composer.new_name(), _COUNT), FrameColumn(composer.new_name(), _COUNT))
    calls = [
        last.count(mode="all").cast(_COUNT.daft).alias(made[0].name),
        last.count().cast(_COUNT.daft).alias(made[1].name),
    ]
    rows = frame.rows.groupby(*names[: len(keys)]).agg(*calls) if keys else frame.rows.agg(*calls)
    return Frame(rows, (*frame.columns[: len(keys)], *made))
