"""ibis by its backend `flightserve`: over Flight SQL, a warehouse without a data plane behind it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from importlib import metadata
from typing import Any

import ibis
import ibis.common.exceptions as exc
import pandas as pd
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.ibis import MEMORY_ROWS_MAX, Backend
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.sql.support import PEOPLE, TYPES, warehouse

# ibis sets an option of pandas that pandas 3 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalService(fs.App(warehouse())) as service:
        served = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        yield served.start()
        served.stop()


@pytest.fixture(scope="module")
def con(address: str) -> Iterator[Any]:
    made = Backend().connect(address, catalog="lake")
    yield made
    made.disconnect()


def test_ibis_finds_the_backend_by_its_name(address: str) -> None:
    (point,) = metadata.entry_points(group="ibis.backends", name="flightserve")
    assert point.load().Backend is Backend
    for query, tables in (("", ["people", "types"]), ("/lake", ["people", "types"])):
        made = ibis.connect(address.replace("grpc://", "flightserve://ann:secret@") + query)
        assert made.list_tables() == tables
        made.disconnect()


def test_one_of_several_warehouses_is_chosen() -> None:
    other = fs.sql.Warehouse({"things": TYPES}, name="other", threads=1)
    with LocalService(fs.App(warehouse(), other)) as service:
        served = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        named = served.start().replace("grpc://", "flightserve://")
        for url, tables in ((f"{named}/other", ["things"]), (f"{named}/lake", ["people", "types"])):
            for each in (url, url.replace("://", "://ann:secret@")):
                made = ibis.connect(each)
                assert made.list_tables() == tables and made.current_catalog == url.rpartition("/")[2]
                made.disconnect()
        served.stop()


def test_it_lists_what_there_is(con: Any) -> None:
    assert (con.current_catalog, con.current_database) == ("lake", "main")
    assert con.version.startswith("duckdb v")
    assert con.list_tables() == con.list_tables(database="main") == con.list_tables(database=("lake", "main"))
    assert con.list_tables(like="peo.*") == ["people"] and con.list_tables(database=("other", "main")) == []
    assert con.table("types").schema().names == tuple(TYPES.schema.names)
    assert con.table("people", database=("lake", "main")).count().execute() == 6
    with pytest.raises(exc.TableNotFound, match="nobody"):
        con.table("nobody")


def test_expressions_run_at_the_warehouse(con: Any) -> None:
    people = con.table("people")
    named = people.filter(people.name.notnull()).mutate(long=lambda t: t.name.length() > 2)
    counted = named.group_by("long").agg(n=lambda t: t.count(), ids=lambda t: t.id.sum()).order_by("long")
    assert counted.execute().to_dict("list") == {"long": [False, True], "n": [3, 2], "ids": [11, 7]}
    assert (people.id.max().execute(), people.id.max().to_pyarrow()) == (6, pa.scalar(6))
    assert people.order_by("id").id.to_pyarrow().to_pylist() == PEOPLE["id"].to_pylist()
    number = ibis.param("int64")
    assert people.filter(people.id == number).name.execute(params={number: 2}).tolist() == ["Bo"]
    assert con.sql("SELECT id + 1 AS next FROM people").next.min().execute() == 2
    assert people.head(2).to_polars().height == 2


def test_rows_come_in_batches_of_the_expression_s_types(con: Any) -> None:
    types = con.table("types")
    reader = types.to_pyarrow_batches(chunk_size=1)
    assert reader.schema == types.schema().to_pyarrow()
    assert [batch.num_rows for batch in reader] == [1, 1]
    many = con.sql("SELECT range AS n FROM range(300000)")
    assert sum(batch.num_rows for batch in many.to_pyarrow_batches()) == many.count().execute() == 300_000


def test_what_is_in_memory_is_written_into_the_query(con: Any) -> None:
    mine = ibis.memtable({"id": [1, 4, 9], "text": ["it's", '"', None], "list": [[1], [], None]})
    joined = mine.join(con.table("people"), "id").select("name", "text", "list").order_by("name")
    assert joined.to_pyarrow().to_pylist() == [
        {"name": "Ada", "text": "it's", "list": [1]},
        {"name": "Di", "text": '"', "list": []},
    ]
    moment = pd.Timestamp("2020-01-01 01:02:03.5", tz="UTC")
    frame = {
        "at": [moment],
        "price": [Decimal("1.50")],
        "raw": [b"a\0"],
        "day": [datetime.date(2020, 1, 1)],
        "x": [0.1],
    }
    assert con.to_pyarrow(ibis.memtable(frame)).to_pylist() == [{name: value for name, (value,) in frame.items()}]
    assert con.to_pyarrow(ibis.memtable({"a": []}, schema={"a": "int32"})).schema == pa.schema([("a", pa.int32())])
    assert con.execute(ibis.memtable({"a": range(MEMORY_ROWS_MAX)}).a.sum()) == sum(range(MEMORY_ROWS_MAX))
    with pytest.raises(exc.UnsupportedOperationError, match=f"at most {MEMORY_ROWS_MAX}"):
        con.execute(ibis.memtable({"a": range(MEMORY_ROWS_MAX + 1)}).count())


def test_nothing_is_created(con: Any) -> None:
    people = con.table("people")
    for attempt in (
        lambda: con.create_table("copy", people),
        lambda: con.create_view("copy", people),
        lambda: con.drop_table("people"),
        lambda: con.insert("people", people),
        people.cache,
    ):
        with pytest.raises(exc.UnsupportedOperationError, match="read-only"):
            attempt()
