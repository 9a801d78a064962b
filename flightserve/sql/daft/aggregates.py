"""Aggregates: prepared by DuckDB, gathered by Daft over all nodes, finished by DuckDB.

Sums are of decimals of 38 digits, or of doubles, so that nothing wraps around: whole numbers of 64 bits and decimals of
up to `SAFE_DIGITS` cannot fill them with fewer than 10^10 rows. For wider ones a sum of doubles goes along, by which a
sum that would be beyond them is told from one that is not. A mean is a sum and a count, divided as DuckDB does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flightserve.sql.daft.frames import Composer, Frame, FrameColumn, mark
from flightserve.sql.daft.plans import NONE, Node, check_parts, function_name, refused
from flightserve.sql.daft.spelling import result_kind
from flightserve.sql.daft.types import DIGITS_MAX, Kind

SAFE_DIGITS: Final = 28
_HUGE: Final = Kind("HUGEINT")
_COUNT: Final = Kind("BIGINT")
_DOUBLE: Final = Kind("DOUBLE")
_KNOWN: Final = frozenset({"avg", "count", "count_star", "first", "max", "min", "sum"})
_PARTS: Final = {"aggregate_type", "expression_class", "filter", "qname", "return_type", "state_export", "arguments"}


@dataclass(frozen=True, slots=True)
class Gathered:
    """Columns to gather (a spelled expression, its type, how, and the type of what comes of it), and what is made of
    them: the expression's text, given the texts that stand for them."""

    inputs: tuple[tuple[str, Kind, str, Kind], ...]
    finish: Callable[..., str]
    kind: Kind


def group(composer: Composer, frame: Frame, node: Node) -> Frame:
    """The operator's result: the groups' columns, then the aggregates'."""
    check_parts(node, {"expressions", "groups", "grouping_sets", "group_index", "aggregate_index", "groupings_index"})
    keys, sets = node.get("groups", []), node.get("grouping_sets", [])
    if sets not in ([], [list(range(len(keys)))]):
        raise refused("GROUPING SETS, ROLLUP or CUBE")
    wanted = [_gathered(composer, frame, each, node) for each in node.get("expressions", [])]
    texts = [(_key(composer.spelled(frame, each), result_kind(each)), result_kind(each)) for each in keys]
    inputs = [one for each in wanted for one in each.inputs]
    # A row that has no column is lost to Daft.
    columns = [*texts, *((text, kind) for text, kind, _, _ in inputs)] or [("1", _COUNT)]
    ready = composer.compute(frame, columns)
    names = [column.name for column in ready.columns]
    made = tuple(FrameColumn(composer.new_name(), kind) for _, _, _, kind in inputs)
    calls = [
        _call(ready.column(len(keys) + n), how, made[n]).alias(made[n].name) for n, (_, _, how, _) in enumerate(inputs)
    ]
    if not keys:
        rows = ready.rows.agg(*calls)
    elif calls:
        rows = ready.rows.groupby(*names[: len(keys)]).agg(*calls)
    else:
        rows = ready.rows.select(*names[: len(keys)]).distinct()
    return _finished(composer, Frame(rows, (*ready.columns[: len(keys)], *made)), len(keys), wanted)


def _finished(composer: Composer, frame: Frame, keys: int, wanted: list[Gathered]) -> Frame:
    texts = [(mark(n), column.kind) for n, column in enumerate(frame.columns[:keys])]
    place = keys
    for each in wanted:
        parts = [mark(place + n) for n in range(len(each.inputs))]
        place += len(parts)
        texts.append((each.finish(*parts), each.kind))
    return composer.compute(frame, texts)


def _key(text: str, kind: Kind) -> str:
    """To DuckDB 0.0 and -0.0 are equal, to Daft they are not."""
    return f"({text} + CAST(0 AS {kind}))" if kind.floating else text


def _call(column: Any, how: str, made: FrameColumn) -> Any:
    calls = {
        "all": lambda: column.count(mode="all"),
        "count": column.count,
        "distinct": column.count_distinct,
        "sum": column.sum,
        "mean": column.mean,
        "min": column.min,
        "max": column.max,
        "one": column.any_value,
    }
    return calls[how]().cast(made.kind.daft)


def _gathered(composer: Composer, frame: Frame, expression: Node, node: Node) -> Gathered:
    """How the aggregate is gathered. Raises Unimplemented."""
    name, kind = function_name(expression), result_kind(expression)
    if name not in _KNOWN:
        raise refused(f"the aggregate {name}()")
    check_parts({**expression, "type": f"{name}()"}, _PARTS)
    distinct = expression["aggregate_type"] == "DISTINCT"
    texts = [composer.spelled(frame, each) for each in expression.get("children", [])]
    kinds = [result_kind(each) for each in expression.get("children", [])]
    if "filter" in expression:
        condition = composer.spelled(frame, expression["filter"])
        texts = [f"CASE WHEN {condition} THEN {text} END" for text in texts or ["1"]]
        name = "count" if name == "count_star" else name
    if name == "count_star":
        return Gathered((("1", _COUNT, "all", _COUNT),), str, _COUNT)
    text, given = texts[0], kinds[0] if kinds else Kind("INTEGER")
    if name == "count" and distinct and given.floating:
        # Each NaN would count by itself.
        raise refused("count(DISTINCT ...) of floating-point numbers")
    if name == "count":
        return Gathered(((_key(text, given), given, "distinct" if distinct else "count", _COUNT),), str, _COUNT)
    if name in ("min", "max"):
        return Gathered(((text, given, name, given),), str, given)
    if distinct:
        raise refused(f"{name}(DISTINCT ...)")
    if name == "first" and node.get("groupings_index", NONE) == NONE:
        # Of a subquery that gives one value: the plan itself counts its rows, and refuses more than one.
        return Gathered(((text, given, "one", given),), str, given)
    if name == "sum":
        return _sum(text, given, kind)
    if name == "avg" and kind == _DOUBLE:
        return _mean(text, given)
    raise refused(f"the aggregate {name}()")


def _sum(text: str, given: Kind, kind: Kind) -> Gathered:
    if kind == _DOUBLE:
        return Gathered(((f"CAST({text} AS DOUBLE)", _DOUBLE, "sum", _DOUBLE),), str, kind)
    if kind != _HUGE and (kind.name, kind.width) != ("DECIMAL", DIGITS_MAX):
        raise refused(f"sum() of {given}")
    wide = Kind("DECIMAL", DIGITS_MAX, kind.scale)
    exact = (f"CAST({text} AS {wide})", wide, "sum", kind)
    if given.whole or given.name == "BOOLEAN" or (given.name == "DECIMAL" and given.width <= SAFE_DIGITS):
        return Gathered((exact,), str, kind)
    about = (f"abs(CAST({text} AS DOUBLE))", _DOUBLE, "sum", _DOUBLE)
    most = f"CAST(9e{DIGITS_MAX - 1 - kind.scale} AS DOUBLE)"
    said = "'Out of Range Error: a sum may be beyond 38 digits'"
    return Gathered((exact, about), lambda s, a: f"CASE WHEN {a} > {most} THEN error({said}) ELSE {s} END", kind)


def _mean(text: str, given: Kind) -> Gathered:
    if given.floating:
        return Gathered(((f"CAST({text} AS DOUBLE)", _DOUBLE, "mean", _DOUBLE),), str, _DOUBLE)
    if not given.whole and (given.name != "DECIMAL" or given.width > SAFE_DIGITS):
        raise refused(f"avg() of {given}")
    wide = Kind("DECIMAL", DIGITS_MAX, given.scale)
    count = (f"CASE WHEN {text} IS NOT NULL THEN 1 END", Kind("INTEGER"), "count", _COUNT)
    return Gathered(
        ((f"CAST({text} AS {wide})", wide, "sum", wide), count),
        lambda s, n: f"(CAST({s} AS DOUBLE) / CAST({n} AS DOUBLE))",
        _DOUBLE,
    )
