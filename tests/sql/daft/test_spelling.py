"""Expressions of a plan, spelled again and run by themselves, give what the statement gives. Without Daft."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.errors import ConfigError, FlightserveError, InvalidArgument, Unimplemented
from flightserve.sql.daft.plans import read_plan, tables_of
from flightserve.sql.daft.programs import Program, pack, unpack
from flightserve.sql.daft.spelling import conjuncts, references, result_kind, shifted, spell
from flightserve.sql.daft.types import Kind, kind_of
from tests.sql.warehouses import opened, run

ROWS = pa.table(
    {
        "n": pa.array([1, -7, None, 0, 40_000], pa.int32()),
        "d": pa.array([1, None, 250, -3, 99], pa.int64()).cast(pa.decimal128(20, 0)).cast(pa.decimal128(15, 2)),
        "f": pa.array([0.5, None, float("nan"), -0.0, 1e30]),
        "s": ["abc", "a%c", None, "", "Äöü"],
        "t": pa.array([0, 9_000, None, -400, 20_000], pa.int32()).cast(pa.date32()),
    }
)
EXPRESSIONS = [
    "n + 1, n * 2 - 3, -n, abs(n), n % 3, n // 2, n / 2",
    "d * d, d * (1 - d) * (1 + d), d - n, d + 0.005, d / 3, round(f, 1), CAST(d AS INTEGER), TRY_CAST(s AS INTEGER)",
    "f > 1, f = f, f IS NOT DISTINCT FROM NULL, f + n, CAST(f AS FLOAT)",
    "s || 'x''y', upper(s), s LIKE 'a%', s LIKE 'a\\%c' ESCAPE '\\', s NOT ILIKE 'A%', substring(s, 1, 2), length(s)",
    "t - INTERVAL 90 DAY, t + 1, extract(year FROM t), date_trunc('month', t), t > DATE '1971-01-01'",
    "CASE WHEN n > 0 THEN 'p' WHEN n < 0 THEN 'm' END, coalesce(s, 'none'), nullif(n, 1), n BETWEEN 0 AND 5",
    "n IN (1, 2, NULL), s NOT IN ('abc'), n > 0 AND f < 1 OR s IS NULL, NOT (n > 0), n IS NOT NULL AND true",
    "CAST(n AS HUGEINT) * 4611686018427387904 * 4, TIMESTAMP '2020-01-01 01:02:03.000004', NULL IS NULL, 1.50, 1e10, n",
]


@pytest.mark.parametrize("expressions", EXPRESSIONS)
def test_spelled_again_they_give_the_same(expressions: str) -> None:
    text = f"SELECT {expressions} FROM rows"
    with opened({"rows": ROWS}) as engine:
        plan = read_plan(engine.shadow, text)
        (source,) = plan["children"]
        taken = [source["column_indexes"][n]["index"] for n in range(len(source["column_indexes"]))]
        kinds = tuple(kind_of(source["returned_types"][index]) for index in taken)
        outputs = tuple(
            (f"o{n}", spell(each, "c{}".format), result_kind(each)) for n, each in enumerate(plan["expressions"])
        )
        program = Program(kinds, outputs)
        program.check(engine.shadow)
        found = program.run([ROWS.column(index).combine_chunks() for index in taken])
        wanted = run(engine, text)
        assert str(found.to_pydict().values()) == str(
            {str(n): column.to_pylist() for n, column in enumerate(wanted.columns)}.values()
        )
        assert found.schema.types == wanted.schema.types


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("[n]", "values of type LIST"),
        ("list_transform([1], lambda x: x + n)", "LIST"),
        ("CAST(s AS STRUCT(a INTEGER))", "STRUCT"),
        ("s COLLATE NOCASE = 'a'", "a collation"),
    ],
)
def test_what_is_not_spelled_is_refused_by_name(expression: str, named: str) -> None:
    with opened({"rows": ROWS}) as engine:
        plan = read_plan(engine.shadow, f"SELECT {expression} FROM rows")
        (expression_node,) = plan["expressions"]
        with pytest.raises(Unimplemented, match=f"engine 'daft' does not take .*{named}"):
            spell(expression_node, "c{}".format)


def test_an_expression_that_binds_to_another_type_is_refused() -> None:
    program = Program((Kind("BIGINT"),), (("o", "c0 + 1", Kind("INTEGER")),))
    with (
        opened({"rows": ROWS}) as engine,
        pytest.raises(Unimplemented, match="INTEGER in the plan and BIGINT by itself"),
    ):
        program.check(engine.shadow)


@pytest.mark.parametrize(
    ("text", "said"),
    [("c0 + 2147483647", "Overflow in addition"), ("CAST(c1 AS INTEGER)", "Could not convert string 'abc' to INT32$")],
)
def test_errors_are_the_engines_and_pass_through_any_text(text: str, said: str) -> None:
    inputs = (Kind("INTEGER"), Kind("VARCHAR"))
    program = Program(inputs, (("o", text, Kind("INTEGER")),))
    with pytest.raises(InvalidArgument, match=said) as raised:
        program.run([ROWS.column("n").combine_chunks(), ROWS.column("s").combine_chunks()])
    packed = f"Traceback: ray::x() ValueError('{pack(raised.value)}')\nmore"
    found = unpack(packed)
    assert type(found) is InvalidArgument and found.message == raised.value.message
    assert unpack("no error of ours") is None


def test_a_program_reaches_no_file() -> None:
    program = Program((Kind("INTEGER"),), (("o", "(SELECT count(*) FROM '/etc/x.csv') + c0", Kind("BIGINT")),))
    with pytest.raises(FlightserveError, match=r"disabled|not allowed|Permission"):
        program.run([pa.array([1], pa.int32())])


def test_conditions_are_taken_apart_and_moved() -> None:
    with opened({"rows": ROWS}) as engine:
        plan = read_plan(engine.shadow, "SELECT 1 FROM rows WHERE (n > 0 AND f < 1) AND (s = 'a' OR n IS NULL)")
        (node,) = plan["children"]
        parts = list(conjuncts(node["expressions"]))
        assert [sorted(references(each)) for each in parts] == [[0], [1], [0, 2]]
        assert references(shifted(parts[2], 5)) == {5, 7} and shifted(parts[2], 0) is parts[2]
        assert tables_of(plan) == {"rows"} and tables_of(read_plan(engine.shadow, "DESCRIBE rows")) == set()


def test_options_that_mean_nothing_to_it_are_refused() -> None:
    options: list[dict[str, Any]] = [
        {"threads": 2},
        {"memory_limit": "1GB"},
        {"spill_limit": "1GB"},
        {"init": "SELECT"},
    ]
    for option in options:
        with pytest.raises(ConfigError, match=f"{next(iter(option))} is of engine='duckdb'"):
            fs.sql.Warehouse({"rows": ROWS}, engine="daft", **option)
    with pytest.raises(ConfigError, match=r"it is one of 'duckdb', 'daft'"):
        fs.sql.Warehouse({"rows": ROWS}, engine="spark")  # type: ignore[arg-type]


@pytest.mark.skipif(find_spec("daft") is not None, reason="Daft is installed")
def test_without_the_extra_its_name_is_said() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'flightserve\[daft\]'"):
        _ = fs.App(fs.sql.Warehouse({"rows": ROWS}, engine="daft")).specs
