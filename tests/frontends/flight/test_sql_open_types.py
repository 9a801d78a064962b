"""Parameters whose types only their values say, over ADBC, which prepares every statement before it has any."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.sql.support import warehouse

DAY, NOON = datetime.date(2020, 5, 6), datetime.datetime(2020, 1, 1, 12)
ID = uuid.UUID(int=2)


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    with LocalService(fs.App(warehouse())) as service:
        frontend = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        with adbc.connect(frontend.start(), autocommit=True) as made:
            yield made
        frontend.stop()


@pytest.fixture
def cursor(connection: Any) -> Iterator[Any]:
    with connection.cursor() as made:
        yield made


@pytest.mark.parametrize(
    ("sql", "values", "wanted"),
    [
        ("SELECT abs(?) AS v", (-5,), 5),
        ("SELECT ? + ? AS v", (1, 2.5), 3.5),
        ("SELECT ? - ? AS v", (DAY, datetime.date(2020, 5, 1)), 5),
        ("SELECT date_trunc('month', ?) AS v", (NOON,), datetime.datetime(2020, 1, 1)),
        ("SELECT strftime(?, '%Y') AS v", (NOON,), "2020"),
        ("SELECT timestamp '2020-01-01' + ? AS v", (datetime.timedelta(days=2),), datetime.datetime(2020, 1, 3)),
        ("SELECT ?.a AS v", ({"a": 1},), 1),
        ("SELECT max(n) AS v FROM (SELECT unnest(?) AS n)", ([1, 2],), 2),
        ("SELECT id + abs(?) AS v FROM people WHERE id = 1", (-1,), 2),
        ("SELECT max(id) AS v FROM people WHERE interval (id) second < ?", (datetime.timedelta(seconds=4),), 3),
        ("SELECT uuid '00000000-0000-0000-0000-000000000002' = ? AS v", (ID,), True),
        ("SELECT ? AS v", (ID,), str(ID)),
    ],
)
def test_values_say_what_the_statement_leaves_open(cursor: Any, sql: str, values: Any, wanted: Any) -> None:
    cursor.execute(sql, values)
    assert cursor.fetchall() == [(wanted,)]


def test_of_what_is_open_nothing_is_said_before(cursor: Any) -> None:
    assert cursor.adbc_prepare("SELECT abs(?) AS v") == pa.schema([("1", pa.null())])
    with pytest.raises(adbc_driver_manager.ProgrammingError, match="no values came"):
        cursor.execute("SELECT abs(?) AS v")


@pytest.mark.parametrize(
    ("sql", "values", "said"),
    [
        ("SELECT abs(?) FROM nobody", (1,), "nobody"),
        ("SELECT abs(?), nothing FROM people", (1,), "nothing"),
        ("SELECT abs(?", (1,), "Parser Error"),
        ("SELECT abs(?) AS v", ("x",), "abs"),
    ],
)
def test_what_is_wrong_is_said_all_the_same(cursor: Any, sql: str, values: Any, said: str) -> None:
    with pytest.raises(adbc_driver_manager.ProgrammingError, match=said):
        cursor.execute(sql, values)


def test_many_rows_of_what_is_open(cursor: Any) -> None:
    cursor.execute("SELECT abs(?) AS v", pa.record_batch({"0": [-1, 2, None, -3]}))
    assert cursor.fetchall() == [(1,), (2,), (None,), (3,)]
