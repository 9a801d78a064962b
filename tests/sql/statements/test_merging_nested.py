"""Merged executions give what each gives by itself: relations in relations, drawn from a grammar.

Every relation has the same four columns, so that any can stand where another can: in joins of every type, below windows
and grouping sets, in subqueries that name rows around them, in recursion. Parameters stand anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flightserve.sql.warehouse.queries import Runner
from tests.sql.statements.comparing import TABLES, compare
from tests.sql.warehouses import opened, watching

# What the engine does not take merged, though it takes it: its planner trips, or its text for a tree is another's.
TRIPPED = ("INTERNAL Error", "the engine's own text of it means something else")
TYPES = {"x": "INTEGER", "y": "BIGINT", "z": "VARCHAR", "n": "BIGINT"}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "x": st.sampled_from([None, -1, 0, 1, 2, 3, 99]),
    "y": st.sampled_from([None, -1, 0, 2, 7, 30]),
    "z": st.sampled_from([None, "a", "", "q'x"]),
    "n": st.sampled_from([None, 0, 1, 2, 6]),
}
COMPARED = ("<", "=", ">=", "<>")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with opened(TABLES) as engine, watching() as watch:
        yield Runner(engine, watch)


class Grammar:
    """Draws statements. A method's `a` is the relation whose columns i, k, s and v may be named."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._aliases = 0

    def one(self, *choices: str) -> str:
        return self._draw(st.sampled_from(choices))

    def alias(self) -> str:
        self._aliases += 1
        return f"a{self._aliases}"

    def parameter(self) -> str:
        return self.one("$x", "$y", "$x + 1", "coalesce($x, $y)", "(SELECT $x)", "(SELECT max(k) FROM u WHERE k < $y)")

    def number(self, a: str, depth: int) -> str:
        kind = self.one("column", "parameter", *(("case", "list", "struct", "scalar", "top") if depth > 0 else ()))
        if kind == "column":
            return self.one(f"{a}.i", f"{a}.k", f"length({a}.s)", f"{a}.i % 3")
        if kind == "parameter":
            return self.parameter()
        if kind == "case":
            return f"CASE WHEN {self.condition(a, depth - 1)} THEN {a}.i ELSE {self.parameter()} END"
        if kind == "list":
            return f"len(list_filter([1, 2, {a}.k], lambda q: q > {self.one('$x', '$y')}))"
        if kind == "struct":
            return f"({{'z': {self.number(a, depth - 1)}}}).z"
        b = self.alias()
        found = f"FROM {self.relation(depth - 1)} AS {b} WHERE {self.related(b, a)}"
        if kind == "top":
            return f"(SELECT {b}.i {found} ORDER BY {b}.i LIMIT 1)"
        total = self.one("count(*)", f"max({b}.i)", f"count(*) FILTER (WHERE {b}.k > $x)", f"max({b}.i) + {a}.k")
        return f"(SELECT {total} {found}{self.one('', ' HAVING count(*) > 1', f' HAVING max({b}.i) > $y')})"

    def related(self, b: str, a: str) -> str:
        """A condition on b that names a."""
        own = self.one(
            f"{b}.k = {a}.k", f"{b}.k > {a}.k", f"{b}.i < {a}.i", f"{b}.k IS NOT DISTINCT FROM {a}.k", "true"
        )
        return f"{own} {self.one('AND', 'OR')} {self.condition(b, 0)}"

    def condition(self, a: str, depth: int) -> str:
        kind = self.one("plain", *(("both", "compared", "exists", "in", "any") if depth > 0 else ()))
        if kind == "plain":
            return self.one(
                *(f"{a}.k = $x", f"{a}.i > $y", f"{a}.k IS NULL", f"{a}.s = $z", f"{a}.k IN ($x, $y)", f"{a}.v < $y"),
                *(f"{a}.k IS NOT DISTINCT FROM $x", f"{a}.i BETWEEN $x AND $y + 20", "$x = 1", "$z IS NULL"),
            )
        if kind == "both":
            both = f"({self.condition(a, depth - 1)} {self.one('AND', 'OR')} {self.condition(a, depth - 1)})"
            return self.one("", "NOT ") + both
        if kind == "compared":
            return f"{self.number(a, depth - 1)} {self.one(*COMPARED)} {self.number(a, depth - 1)}"
        b = self.alias()
        found = f"FROM {self.relation(depth - 1)} AS {b} WHERE {self.related(b, a)}"
        if kind == "any":
            return f"{a}.i {self.one(*COMPARED)} {self.one('ANY', 'ALL')} (SELECT {b}.k {found})"
        what = f"EXISTS (SELECT 1 {found})" if kind == "exists" else f"{a}.k IN (SELECT {b}.k {found})"
        return f"{self.one('', 'NOT ')}({what})"

    def columns(self, a: str, depth: int) -> str:
        i = self.one(f"{a}.i", self.number(a, depth))
        s = self.one(f"{a}.s", "$z", f"coalesce({a}.s, $z)")
        return f"{i}::BIGINT AS i, {a}.k::BIGINT AS k, {s}::VARCHAR AS s, {self.one(f'{a}.v', '$x')}::DOUBLE AS v"

    def relation(self, depth: int) -> str:
        if depth <= 0:
            return self.one("t", "t", "(SELECT k::BIGINT AS i, k, name AS s, k::DOUBLE AS v FROM u)")
        shapes = ("plain", "grouped", "sets", "window", "joined", "halved", "combined", "first", "unnested", "cte")
        a, shape = self.alias(), self.one(*shapes, "lateral", "recursive", "values")
        found = f"FROM {self.relation(depth - 1)} AS {a} WHERE {self.condition(a, depth - 1)}"
        rest = f"{a}.k::BIGINT AS k, {a}.s, {a}.v::DOUBLE AS v"
        if shape == "grouped":
            total = self.one("count(*)", f"max({a}.i)", f"count(*) + {self.parameter()}")
            some = f"{total}::BIGINT AS i, max({a}.k)::BIGINT AS k, min({a}.s) AS s, 1.5::DOUBLE AS v {found}"
            return f"(SELECT {some} {self.one('', f'GROUP BY {a}.k', f'GROUP BY {a}.s HAVING count(*) > $x')})"
        if shape == "sets":
            sets = self.one("ROLLUP", "CUBE", "GROUPING SETS")
            return f"(SELECT count(*) AS i, {a}.k, {a}.s, 0.5::DOUBLE AS v {found} GROUP BY {sets} ({a}.k, {a}.s))"
        if shape == "window":
            by = self.one("", f"PARTITION BY {a}.k ")
            over = f"({by}ORDER BY {a}.i, {a}.k, {a}.s, {a}.v)"
            value = self.one("row_number()", f"sum({a}.i)", f"lag({a}.i, 1, -7)", f"rank() OVER {over} + count(*)")
            last = self.one("", f" QUALIFY count(*) OVER (PARTITION BY {a}.s) > $x")
            return f"(SELECT ({value} OVER {over})::BIGINT AS i, {rest} {found}{last})"
        if shape == "combined":
            b, word = self.alias(), self.one("UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL", "INTERSECT ALL")
            return f"(SELECT {self.columns(a, 0)} {found} {word} SELECT {self.columns(b, 0)} FROM t AS {b})"
        if shape == "first":
            on = self.one("", f"DISTINCT ON ({a}.k) ")
            by = f"{a}.k, {a}.i, {a}.s, {a}.v" if on else "ALL"
            return f"(SELECT {on}{a}.i::BIGINT AS i, {rest} {found} ORDER BY {by} LIMIT {self.one('2', '5 OFFSET 1')})"
        if shape == "unnested":
            values = self.one("[1, 2]", f"[{self.parameter()}, 3]", f"[{a}.i, {a}.k]", "[]::BIGINT[]")
            return f"(SELECT unnest({values})::BIGINT AS i, {rest} {found})"
        if shape == "cte":
            c, how = self.alias(), self.one("", "MATERIALIZED ")
            more = self.one(f"WHERE i >= (SELECT avg(i) FROM {c})", f"UNION ALL FROM {c}")
            return f"(WITH {c} AS {how}(SELECT {self.columns(a, 0)} {found}) SELECT * FROM {c} {more})"
        if shape == "recursive":
            step = f"SELECT i + 1, k + 1 FROM r WHERE i < {self.one('4', '$x + 3')} AND k < 5"
            rows = f"SELECT {self.parameter()}::BIGINT, 0::BIGINT UNION {self.one('', 'ALL')} {step}"
            return f"(WITH RECURSIVE r(i, k) AS ({rows}) SELECT i, k, $z::VARCHAR AS s, 1.0::DOUBLE AS v FROM r)"
        if shape == "values":
            values = f"(VALUES (1, {self.parameter()}), ({self.parameter()}, 2)) AS q(i, k)"
            return f"(SELECT i::BIGINT AS i, k::BIGINT AS k, $z::VARCHAR AS s, 0.5::DOUBLE AS v FROM {values})"
        if shape in ("joined", "halved", "lateral"):
            return self.joined(shape, a, depth)
        return f"(SELECT {self.columns(a, depth - 1)} {found})"

    def joined(self, shape: str, a: str, depth: int) -> str:
        b, left, right = self.alias(), self.relation(depth - 1), self.relation(depth - 1)
        if shape == "lateral":
            inner = f"SELECT {self.columns(b, 0)} FROM {right} AS {b} WHERE {b}.i < 9 AND ({self.related(b, a)})"
            order = self.one("", "ORDER BY ALL LIMIT 2")
            return f"(SELECT q.* FROM {left} AS {a}, LATERAL ({inner} {order}) AS q)"
        on = self.one(
            *(
                f"{a}.k = {b}.k AND {b}.k = $x",
                f"{a}.k = {b}.k AND {a}.i < $y",
                f"{a}.i = {b}.i",
                f"{a}.i = {b}.i + $x",
            ),
            *(f"{a}.k IS NOT DISTINCT FROM {b}.k AND {b}.i < 4", f"{a}.k > {b}.k AND {b}.i < 3"),
        )
        if shape == "halved":
            kind = self.one("SEMI", "ANTI")
            return f"(SELECT {self.columns(a, 0)} FROM {left} AS {a} {kind} JOIN {right} AS {b} ON {on})"
        c, kind = self.one(a, b), self.one("", "LEFT", "RIGHT", "FULL")
        rows = f"coalesce({a}.i, {b}.i)::BIGINT AS i, {c}.k::BIGINT AS k, {c}.s, {c}.v::DOUBLE AS v"
        return f"(SELECT {rows} FROM {left} AS {a} {kind} JOIN {right} AS {b} ON {on})"

    def statement(self) -> str:
        a = self.alias()
        found = f"FROM {self.relation(2)} AS {a} WHERE {self.condition(a, 1)}"
        if self.one("rows", "rows", "aggregate") == "aggregate":
            last = self.one("", "HAVING count(*) > $x", "GROUP BY ALL")
            return f"SELECT count(*) AS c, sum({a}.i)::BIGINT AS d, {self.parameter()} AS p {found} {last}"
        key = self.one("ALL", "ALL DESC", "s NULLS FIRST, 1, 2, 3, 4", f"{a}.i + 0, 1, 2, 3, 4", "$x + k, 1, 2, 3, 4")
        limit = self.one("", "LIMIT 3 OFFSET 1", "LIMIT $n", "LIMIT $n OFFSET 1", "OFFSET $n")
        return f"SELECT {self.columns(a, 1)} {found} {self.one('', f'ORDER BY {key} {limit}')}"


@st.composite
def statements(draw: st.DrawFn) -> str:
    return Grammar(draw).statement()


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=statements(), data=st.data())
def test_nested_relations_agree(runner: Runner, sql: str, data: st.DataObject) -> None:
    names = runner.engine.parser.parse(sql).parameters
    prepared = runner.prepare(sql, {name: TYPES[name] for name in names})
    if not names:
        return
    if prepared.merged is None:
        assert any(words in prepared.reason for words in TRIPPED), f"{prepared.reason}: {sql}"
        return
    drawn = data.draw(st.lists(st.tuples(*(VALUES[name] for name in names)), min_size=2, max_size=4), label="rows")
    compare(runner, prepared, [*drawn, drawn[0]])
