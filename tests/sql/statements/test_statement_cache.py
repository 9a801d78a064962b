"""What is remembered of statements: by number and by how much text, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.sql.engine import Engine
from flightserve.sql.statements.statement_cache import CHARACTERS_MAX, COLUMNS_MAX, StatementCache
from flightserve.sql.warehouse.queries import Runner
from tests.sql.warehouses import opened, watching


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 12)), max_size=40))
def test_against_plain_books(steps: list[tuple[bool, int, int]]) -> None:
    """The most recently used are there, as many and as much as the bounds allow."""
    remembered: StatementCache[int, int] = StatementCache(4, 20)
    books: list[tuple[int, int, int]] = []
    for value, (adds, key, characters) in enumerate(steps):
        known = next((entry for entry in books if entry[0] == key), None)
        books = [entry for entry in books if entry[0] != key]
        if adds:
            remembered.add(key, value, characters)
            books.append((key, value, characters))
            while len(books) > 4 or sum(entry[2] for entry in books) > 20:
                books.pop(0)
        else:
            assert remembered.find(key) == (known[1] if known else None)
            books += [known] if known else []
        assert repr(remembered) == f"<StatementCache {len(books)} of {sum(entry[2] for entry in books)}>"


@pytest.mark.parametrize("characters", [10, 11])
def test_what_is_longer_than_all_may_be_is_not_kept_and_costs_nothing_else(characters: int) -> None:
    remembered: StatementCache[str, int] = StatementCache(4, 10)
    remembered.add("long", 1, characters)
    assert remembered.find("long") == (1 if characters == 10 else None)
    remembered.add("a", 2, 3)
    remembered.add("long", 3, 11)
    assert remembered.find("a") == 2


def test_long_statements_that_differ_do_not_pile_up(engine: Engine) -> None:
    """Their trees were kept, 512 of up to 100 MB each."""
    with watching() as watch:
        runner = Runner(engine, watch)
        long = "/* " + "x" * (CHARACTERS_MAX // 3) + " */"
        first = runner.prepare_for(f"SELECT 0 {long}", None)
        assert runner.prepare_for(f"SELECT 0 {long}", None) is first
        for n in range(1, 4):
            runner.prepare_for(f"SELECT {n} {long}", None)
        assert runner.prepare_for(f"SELECT 0 {long}", None) is not first
        for remembered in (runner._prepared, runner._prepared_for, engine.parser._remembered):
            assert remembered.size <= CHARACTERS_MAX


def test_short_statements_of_many_columns_do_not_pile_up(engine: Engine) -> None:
    with watching() as watch:
        runner = Runner(engine, watch)
        narrow = runner.prepare_for("SELECT 1 AS a", None)
        assert narrow.result is narrow.result and narrow.result.names == ["a"]
        columns = 4 * (COLUMNS_MAX // 16)
        for n in range(5):
            wide = runner.prepare_for(f"SELECT {'*, ' * (columns // 4)}{n} FROM people", None)
            assert len(wide.result) == columns + 1
        assert repr(runner._schemas) == f"<StatementCache 3 of {3 * (columns + 1)}>"
        assert narrow.result.names == ["a"]
