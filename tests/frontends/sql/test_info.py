"""What the server says of itself, beside what the engine and the server do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from flightserve.declare import check_name
from flightserve.errors import ConfigError, TooLarge
from flightserve.frontends.sql.info import CASTS, CONVERTED, sql_info, xdbc_types
from flightserve.sql.sources import find_sources
from tests.sql.warehouses import PEOPLE, opened


@pytest.fixture
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def known() -> dict[int, Any]:
    table = sql_info([], "2.0.0")
    return dict(zip(table["info_name"].to_pylist(), table["value"].to_pylist(), strict=True))


# A value of each type, as the engine writes it.
SAMPLES = {
    **dict.fromkeys(("BIGINT", "BOOLEAN", "DECIMAL", "DOUBLE", "INTEGER", "REAL", "SMALLINT", "TINYINT"), "1"),
    "BLOB": "'a'",
    "DATE": "'2013-01-02'",
    "INTERVAL": "'1 day'",
    "TIME": "'12:30:00'",
    "VARCHAR": "'text'",
    "TIMESTAMP": "'2013-01-02 12:30:00'",
}


def casts(engine: duckdb.DuckDBPyConnection, kind: str, to: str) -> bool:
    """Whether the engine casts a value of one type to the other; a text is one of the other's."""
    value = f"CAST({SAMPLES[to if kind == 'VARCHAR' else kind]} AS {kind})"
    try:
        engine.execute(f"SELECT CAST({value} AS {to})").fetchall()
    except duckdb.Error:
        return False
    return True


def test_what_casts_to_what_is_what_the_engine_casts(engine: duckdb.DuckDBPyConnection) -> None:
    pairs = list(itertools.product(CONVERTED, repeat=2))
    assert [pair for pair in pairs if casts(engine, *pair)] == [(kind, to) for kind, to in pairs if to in CASTS[kind]]
    bigint, blob = (dict(known()[517])[n] for n in (0, 1))
    assert 7 in bigint and 16 not in bigint and blob == [1, 3, 10, 11, 18, 19]


def test_every_code_of_the_specification_has_a_value() -> None:
    """JDBC's driver takes a missing one for an error. 6 and 7 are of Substrait, which is not served."""
    wanted = {*range(6), 8, 9, 10, 11, 100, 101, *range(500, 577)}
    assert set(known()) == wanted


def test_the_greatest_lengths_are_those_that_are_taken() -> None:
    found = known()
    with opened() as engine:
        text = "SELECT 1 AS one --"
        engine.parser.parse(text.ljust(found[557]))
        with pytest.raises(TooLarge):
            engine.parser.parse(text.ljust(found[557] + 1))
    check_name("n" * found[554])
    find_sources({"n" * found[559]: PEOPLE})
    with pytest.raises(ConfigError):
        check_name("n" * (found[554] + 1))
    with pytest.raises(ConfigError):
        find_sources({"n" * (found[559] + 1): PEOPLE})


def test_the_words_and_functions_are_the_engine_s(engine: duckdb.DuckDBPyConnection) -> None:
    found = known()
    words = {word for (word,) in engine.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
    functions = {name for (name,) in engine.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    assert {word.lower() for word in found[508]} <= words
    assert {name for code in (509, 510, 511, 512) for name in found[code]} <= functions
    for character in found[514]:
        assert engine.execute(f"SELECT 1 AS a{character}b").fetchall() == [(1,)]


def likes(engine: duckdb.DuckDBPyConnection, kind: str) -> bool:
    try:
        engine.execute(f"SELECT CAST(NULL AS {kind}) LIKE 'x'")
    except duckdb.BinderException:
        return False
    return True


def test_types_are_the_engine_s_and_in_order(engine: duckdb.DuckDBPyConnection) -> None:
    rows = xdbc_types(None).to_pylist()
    assert [(row["data_type"], row["type_name"]) for row in rows] == sorted(
        (row["data_type"], row["type_name"]) for row in rows
    )
    for row in rows:
        engine.execute(f"SELECT CAST(NULL AS {row['type_name']})")
        assert (row["searchable"] == 3) == likes(engine, row["type_name"])
    by_name = {row["type_name"]: row for row in rows}
    dates = {name: (by_name[name]["sql_data_type"], by_name[name]["datetime_subcode"]) for name in by_name}
    assert dates["DATE"] == (9, 1)
    assert dates["TIME"] == (9, 2)
    assert dates["TIMESTAMP"] == (9, 3)
    assert dates["TIMESTAMP WITH TIME ZONE"] == (9, 5)
    assert dates["BIGINT"] == (-5, None)
    assert [row["type_name"] for row in xdbc_types(12).to_pylist()] == ["UUID", "VARCHAR"]
