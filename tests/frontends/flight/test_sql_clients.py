"""More of the clients people use, unmodified, over Flight SQL: SQLAlchemy, ibis, pandas, polars, the rest of ADBC.

What the clients themselves do not do is not tried here:
- sqlalchemy-adbc encrypts unless its URL has `tls=false`.
- pandas has neither `params` nor `chunksize` over ADBC; over SQLAlchemy it has both.
- polars takes no two columns of one name.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import ibis
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions
from pyarrow import flight
from sqlalchemy import orm

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.flight.sql_messages import pack, read_command
from flightserve.frontends.sql.metadata import like
from flightserve.metrics import Metrics
from flightserve.proto import sql_pb2 as pb
from flightserve.testing import LocalService
from tests.frontends.sql.support import DAY, NOON, PEOPLE, TYPES, UTC, warehouse
from tests.support import eventually

NAMES = PEOPLE["name"].to_pylist()
SESSION = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
SESSION_OPTIONS = ConnectionOptions.OPTION_SESSION_OPTIONS.value


@pytest.fixture(scope="module")
def frontend() -> Iterator[tuple[str, FlightFrontend]]:
    with LocalService(fs.App(warehouse())) as service:
        served = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
        yield served.start(), served
        served.stop()


@pytest.fixture(scope="module")
def address(frontend: tuple[str, FlightFrontend]) -> str:
    return frontend[0]


@pytest.fixture
def connection(address: str) -> Iterator[Any]:
    with adbc.connect(address, autocommit=True) as made:
        yield made


@pytest.fixture
def cursor(connection: Any) -> Iterator[Any]:
    with connection.cursor() as made:
        yield made


@pytest.fixture(scope="module")
def engine(address: str) -> Iterator[Any]:
    made = sa.create_engine(f"adbc+flightsql://{address.removeprefix('grpc://')}?tls=false")
    yield made
    made.dispose()


# ---- SQLAlchemy 2, by sqlalchemy-adbc's dialect


def test_sqlalchemy_runs_text_with_parameters(engine: Any) -> None:
    with engine.connect() as made:
        query = sa.text("SELECT id, name FROM people WHERE id < :most AND name <> :name ORDER BY id")
        assert made.execute(query, {"most": 5, "name": "Bo"}).fetchall() == [(1, "Ada"), (4, "Di")]
        assert made.execute(query, {"most": 3, "name": "Ada"}).fetchall() == [(2, "Bo")]
        values = {"i": 2**40, "f": 0.5, "s": "Zoë", "r": b"\x00\xff", "b": True, "d": DAY, "n": None}
        row = made.execute(sa.text("SELECT " + ", ".join(f":{name} AS {name}" for name in values)), values).one()
        assert tuple(row) == tuple(values.values())
        assert made.exec_driver_sql("SELECT name FROM people WHERE id = ?", (6,)).scalar() == "Flo"


def test_sqlalchemy_builds_queries(engine: Any) -> None:
    people = sa.table("people", sa.column("id"), sa.column("name"))
    query = (
        sa.select(people.c.name, people.c.id).where(people.c.id.in_([6, 1, 2])).order_by(people.c.id.desc()).limit(2)
    )
    counted = sa.select(sa.func.count().label("n")).select_from(people).where(people.c.name.is_(None))
    with engine.connect() as made:
        assert made.execute(query).fetchall() == [("Flo", 6), ("Bo", 2)]
        assert made.execute(counted).scalar_one() == 1
    with engine.begin() as made:
        assert made.execute(sa.select(people.c.id).where(people.c.name == "Ed")).scalars().all() == [5]


def test_sqlalchemy_maps_classes(engine: Any) -> None:
    class Base(orm.DeclarativeBase):
        pass

    class Person(Base):
        __tablename__ = "people"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
        name: orm.Mapped[str | None]

    with orm.Session(engine) as session:
        assert session.scalars(sa.select(Person).where(Person.name == "Bo")).one().id == 2
        assert session.get(Person, 3).name is None
        session.rollback()


def test_sqlalchemy_inspects_and_reflects(engine: Any) -> None:
    inspector = sa.inspect(engine)
    assert inspector.get_schema_names() == ["main"]
    assert inspector.get_table_names() == inspector.get_table_names("main") == ["people", "types"]
    assert inspector.has_table("people") and not inspector.has_table("nobody")
    assert inspector.get_pk_constraint("people")["constrained_columns"] == []
    kinds = {column["name"]: type(column["type"]) for column in inspector.get_columns("types")}
    assert list(kinds) == TYPES.schema.names
    assert (kinds["i64"], kinds["day"], kinds["price"]) == (sa.types.BigInteger, sa.types.Date, sa.types.Numeric)
    people = sa.Table("people", sa.MetaData(), autoload_with=engine)
    with engine.connect() as made:
        assert made.execute(sa.select(people).where(people.c.id > 4)).fetchall() == [(5, "Ed"), (6, "Flo")]


def test_sqlalchemy_is_told_what_is_wrong(engine: Any) -> None:
    with engine.connect() as made:
        for query, says in (
            ("INSERT INTO people VALUES (7, 'Gus')", "INSERT statements are not allowed: this server is read-only"),
            ("SELECT * FROM nobody", "nobody"),
        ):
            with pytest.raises(sa.exc.ProgrammingError, match=says):
                made.exec_driver_sql(query)


def test_pandas_reads_by_sqlalchemy(engine: Any) -> None:
    query = sa.text("SELECT id, name FROM people WHERE id < :most ORDER BY id")
    frame = pd.read_sql(query, engine, params={"most": 3})
    assert frame.to_dict("list") == {"id": [1, 2], "name": ["Ada", "Bo"]}
    assert [len(part) for part in pd.read_sql("people", engine, chunksize=4)] == [4, 2]
    assert pl.read_database("SELECT count(*) AS n FROM people", engine)["n"].to_list() == [6]


# ---- clients that go on with the handle they prepared, as those from before Flight SQL had another


def prepared(client: Any, sql: str) -> bytes:
    body = pack(pb.ActionCreatePreparedStatementRequest(query=sql))
    (result,) = client.do_action(flight.Action("CreatePreparedStatement", body))
    created: Any = read_command(result.body.to_pybytes())
    return bytes(created.prepared_statement_handle)


def bind(client: Any, descriptor: Any, batch: pa.RecordBatch) -> None:
    writer, reader = client.do_put(descriptor, batch.schema)
    writer.write(batch)
    writer.done_writing()
    reader.read()
    writer.close()


def test_what_was_bound_is_remembered_for_the_handle_that_was_prepared(address: str) -> None:
    with flight.connect(address) as client:

        def prepared_descriptor() -> Any:
            handle = prepared(client, "SELECT name FROM people WHERE id = ?")
            command = pack(pb.CommandPreparedStatementQuery(prepared_statement_handle=handle))
            return flight.FlightDescriptor.for_command(command)

        def names(of: Any) -> list[str]:
            info = client.get_flight_info(of)
            found: list[str] = client.do_get(info.endpoints[0].ticket).read_all()["name"].to_pylist()
            return found

        mine, other = prepared_descriptor(), prepared_descriptor()
        with pytest.raises(pa.ArrowInvalid, match="no values came"):
            names(mine)
        bind(client, mine, pa.record_batch({"0": pa.array([2, 1])}))
        assert names(mine) == ["Bo", "Ada"]
        bind(client, mine, pa.record_batch({"0": pa.array([6])}))
        assert names(mine) == ["Flo"], "the parameters bound last"
        with pytest.raises(pa.ArrowInvalid, match="no values came"):
            names(other)


# ---- ibis


def test_ibis_expressions_run_as_duckdb_sql(connection: Any, cursor: Any) -> None:
    people = ibis.table(ibis.Schema.from_pyarrow(connection.adbc_get_table_schema("people")), name="people")
    named = people.filter(people.name.notnull()).mutate(long=lambda t: t.name.length() > 2)
    expression = (
        named.group_by("long").agg(n=lambda t: t.count(), last=lambda t: t.id.max(), names=lambda t: t.name.max())
    ).order_by("long")
    cursor.execute(str(ibis.to_sql(expression, dialect="duckdb")))
    table = cursor.fetch_arrow_table()
    assert table.to_pydict() == {"long": [False, True], "n": [3, 2], "last": [5, 6], "names": ["Ed", "Flo"]}
    assert ibis.Schema.from_pyarrow(table.schema) == expression.schema()
    first = people.mutate(place=ibis.row_number().over(order_by=people.id.desc())).filter(lambda t: t.place < 2)
    cursor.execute(str(ibis.to_sql(first.join(people, "id").select("id", "place").order_by("place"), dialect="duckdb")))
    assert cursor.fetchall() == [(6, 0), (5, 1)]


# ---- ADBC: metadata


def schemas_of(reader: Any) -> Any:
    (catalog,) = reader.read_all().to_pylist()
    assert catalog["catalog_name"] == "lake"
    return catalog["catalog_db_schemas"]


def test_adbc_gets_objects_at_every_depth(connection: Any) -> None:
    get = connection.adbc_get_objects
    assert schemas_of(get(depth="catalogs")) is None
    assert schemas_of(get(depth="db_schemas")) == [{"db_schema_name": "main", "db_schema_tables": None}]
    (main,) = schemas_of(get(depth="tables"))
    assert [(t["table_name"], t["table_type"], t["table_columns"]) for t in main["db_schema_tables"]] == [
        ("people", "table", None),
        ("types", "table", None),
    ]
    for depth in ("columns", "all"):
        (main,) = schemas_of(get(depth=depth))
        tables = {t["table_name"]: t for t in main["db_schema_tables"]}
        columns = tables["types"]["table_columns"]
        assert [c["column_name"] for c in columns] == TYPES.schema.names
        assert [c["ordinal_position"] for c in columns] == list(range(1, 1 + len(columns)))
        assert tables["people"]["table_constraints"] == []


def test_adbc_gets_objects_with_filters(connection: Any) -> None:
    get = connection.adbc_get_objects
    (main,) = schemas_of(get(depth="columns", table_name_filter="peop%", column_name_filter="n_me"))
    (table,) = main["db_schema_tables"]
    assert table["table_name"] == "people"
    assert [(c["column_name"], c["ordinal_position"]) for c in table["table_columns"]] == [("name", 2)]
    assert len(schemas_of(get(depth="tables", catalog_filter="la%", db_schema_filter="ma__"))) == 1
    assert schemas_of(get(depth="tables", db_schema_filter="other")) == []
    assert schemas_of(get(depth="tables", table_name_filter="nobody")) == [
        {"db_schema_name": "main", "db_schema_tables": []}
    ]
    assert get(depth="tables", catalog_filter="nobody").read_all().num_rows == 0
    for pattern, wanted in [("peopl_", ["people"]), (r"peopl\_", []), (r"\people", []), ("%" * 500 + "x", [])]:
        (main,) = schemas_of(get(depth="tables", table_name_filter=pattern))
        assert [table["table_name"] for table in main["db_schema_tables"]] == wanted, pattern


def test_patterns_of_names() -> None:
    """As SQL's LIKE; a regular expression would take years for some of these."""
    long = "a" * 128
    matching = [("%", ""), ("", ""), ("a%", "abc"), ("%c", "abc"), ("_b_", "abc"), ("a%b%c", "a1b2c"), ("%ab%", "aab")]
    matching += [(r"a\_b", "a_b"), (r"100\%", "100%"), (r"a\\b", r"a\b"), (r"a\b", r"a\b")]
    matching += [("%" * 1000, "abc"), ("%a" * 50, long)]
    for pattern, text in matching:
        assert like(pattern, text), (pattern, text)
    others = [("", "a"), ("a", ""), ("a_", "a"), (r"a\_b", "axb"), (r"100\%", "1000"), ("%ab", "aba"), ("A%", "abc")]
    others += [("%" * 1000 + "x", long), ("%a" * 50 + "%b", long), ("_" * 129, long)]
    for pattern, text in others:
        assert not like(pattern, text), (pattern, text)


@pytest.mark.parametrize("name", ["lake.main.people", "main.people", '"lake"."main"."people"', "lake.people"])
def test_tables_have_the_names_that_the_metadata_says(cursor: Any, name: str) -> None:
    cursor.execute(f"SELECT count(*) FROM {name}")
    assert cursor.fetchall() == [(6,)]


def test_adbc_is_told_types_by_the_engine_s_names(connection: Any) -> None:
    (main,) = schemas_of(connection.adbc_get_objects(depth="columns", table_name_filter="types"))
    (table,) = main["db_schema_tables"]
    assert {c["column_name"]: c["xdbc_type_name"] for c in table["table_columns"]} == {
        "i8": "TINYINT",
        "u64": "UBIGINT",
        "i64": "BIGINT",
        "f32": "REAL",
        "f64": "DOUBLE",
        "yes": "BOOLEAN",
        "text": "VARCHAR",
        "empty": "VARCHAR",
        "raw": "BLOB",
        "day": "DATE",
        "at": "TIMESTAMP",
        "when": "TIMESTAMP WITH TIME ZONE",
        "clock": "TIME",
        "price": "DECIMAL",
        "code": "VARCHAR",
        "list": "BIGINT[]",
        "pair": "struct<x: int64, y: string>",
    }


def test_adbc_gets_table_schemas_and_info(connection: Any) -> None:
    get = connection.adbc_get_table_schema
    assert get("types").names == TYPES.schema.names
    assert get("people", catalog_filter="lake", db_schema_filter="main").types == [pa.int64(), pa.utf8()]
    for asked in ({"table_name": "nobody"}, {"table_name": "people", "catalog_filter": "nobody"}):
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="NOT_FOUND"):
            get(**asked)
    info = connection.adbc_get_info()
    assert (info["vendor_arrow_version"], info["driver_name"]) == (pa.__version__, "ADBC Flight SQL Driver - Go")


# ---- ADBC: queries


def test_adbc_fetches_every_type(cursor: Any) -> None:
    cursor.execute("SELECT * FROM types")
    values, nulls = cursor.fetchall()
    got = dict(zip(TYPES.schema.names, values, strict=True))
    assert (got["u64"], got["raw"], got["day"], got["at"]) == (2**64 - 1, b"\x00\xff", DAY, NOON)
    assert (got["when"], got["clock"]) == (NOON.replace(tzinfo=UTC), NOON.time())
    assert (got["price"], got["code"]) == (decimal.Decimal("12345678901234567.89"), "red")
    assert (got["list"], got["pair"]) == ([1, None, 3], {"x": 1, "y": "b"})
    assert set(nulls) == {None}


def test_adbc_streams_record_batches(cursor: Any) -> None:
    cursor.execute("SELECT range AS n, range % 7 AS m FROM range(3000000)")
    reader = cursor.fetch_record_batch()
    assert reader.schema.names == ["n", "m"]
    rows = [batch.num_rows for batch in reader]
    assert sum(rows) == 3_000_000 and len(rows) > 1
    cursor.execute("SELECT id FROM people WHERE false")
    assert cursor.fetch_record_batch().read_all().num_rows == 0


def test_adbc_cancels_what_runs(cursor: Any, frontend: tuple[str, FlightFrontend]) -> None:
    cursor.execute("SELECT range FROM range(100000000000)")
    reader = cursor.fetch_record_batch()
    assert reader.read_next_batch().num_rows
    assert frontend[1].statistics()["queries"] == 1
    cursor.adbc_cancel()
    with pytest.raises(OSError, match=r"(?i)cancel"):
        while True:
            reader.read_next_batch()
    eventually(lambda: frontend[1].statistics()["queries"] == 0, 20, what="no query runs")
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_adbc_partitions_are_read_by_another_connection(cursor: Any, address: str) -> None:
    partitions, schema = cursor.adbc_execute_partitions("SELECT id FROM people WHERE id > ? ORDER BY id", (4,))
    assert schema.names == ["id"]
    with adbc.connect(address, autocommit=True) as other, other.cursor() as reader:
        found = []
        for partition in partitions:
            reader.adbc_read_partition(partition)
            found += reader.fetchall()
    assert found == [(5,), (6,)]


def test_adbc_executes_many(cursor: Any) -> None:
    cursor.executemany("SELECT id FROM people WHERE id <= ?", [(i % 8,) for i in range(1000)])
    assert cursor.rowcount == 125 * (0 + 1 + 2 + 3 + 4 + 5 + 6 + 6)
    cursor.executemany("SELECT id FROM people WHERE id <= ?", [(None,), (2,)])
    assert cursor.rowcount == 2
    cursor.executemany("SELECT id FROM people", None)
    assert cursor.rowcount == 6
    with pytest.raises(adbc_driver_manager.Error, match=r"(?i)read-only"):
        cursor.executemany("INSERT INTO people VALUES (?, ?)", [(7, "Gus")])


def test_adbc_runs_scripts_of_one_statement_that_writes_nothing(cursor: Any) -> None:
    cursor.executescript("SELECT count(*) FROM people")
    for script, what in (
        ("SELECT 1; SELECT 2", "one at a time"),
        ("CREATE TABLE t (a INT)", "read-only"),
        ("DELETE FROM people", "read-only"),
        ("SELECT * FROM nobody", "nobody"),
    ):
        with pytest.raises(adbc_driver_manager.Error, match=what):
            cursor.executescript(script)


@pytest.mark.parametrize("mode", ["create", "append", "replace", "create_append"])
def test_adbc_ingestion_is_refused_in_every_mode(cursor: Any, mode: str) -> None:
    with pytest.raises(adbc_driver_manager.NotSupportedError, match="read-only"):
        cursor.adbc_ingest("people", PEOPLE, mode=mode)
    cursor.execute("SELECT count(*) FROM people")
    assert cursor.fetchone() == (6,)


def test_adbc_without_autocommit_begins_and_ends_transactions(address: str) -> None:
    with adbc.connect(address) as made, made.cursor() as cursor:
        cursor.execute("SELECT name FROM people WHERE id = ?", (1,))
        assert cursor.fetchone() == ("Ada",)
        made.commit()
        cursor.execute("SELECT name FROM people WHERE id = ?", (2,))
        assert cursor.fetchone() == ("Bo",)
        made.rollback()


# ---- ADBC: sessions


@pytest.mark.parametrize(
    "how",
    [{"username": "ann", "password": "secret"}, {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}],
    ids=["login", "cookie"],
)
def test_adbc_keeps_session_options(address: str, how: dict[str, str]) -> None:
    with adbc.connect(address, db_kwargs=how, autocommit=True) as made:
        options = made.adbc_connection
        assert options.get_option(SESSION_OPTIONS) == "{}"
        made.adbc_current_catalog = "lake"
        options.set_options(**{SESSION + "schema": "main"})
        assert (made.adbc_current_catalog, made.adbc_current_db_schema) == ("lake", "main")
        for name, value, what in (("catalog", "nobody", "invalid value"), ("colour", "red", "invalid name")):
            with pytest.raises(adbc_driver_manager.ProgrammingError, match=what):
                options.set_options(**{SESSION + name: value})
        options.set_options(**{ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value + "schema": ""})
        assert options.get_option(SESSION_OPTIONS) == '{"catalog":"lake"}'
        with made.cursor() as cursor:
            cursor.execute("SELECT name FROM people WHERE id = ?", (2,))
            assert cursor.fetchall() == [("Bo",)]


def test_a_cookie_of_a_session_that_is_over_is_no_session(address: str) -> None:
    seen: list[str] = []

    class Jar(flight.ClientMiddleware):  # type: ignore[misc]
        def received_headers(self, headers: dict[str, list[str]]) -> None:
            seen.extend(headers.get("set-cookie", []))

        def sending_headers(self) -> dict[str, str]:
            return {"cookie": seen[-1]} if seen else {}

    class Jars(flight.ClientMiddlewareFactory):  # type: ignore[misc]
        def start_call(self, info: Any) -> Jar:
            return Jar()

    def act(name: str) -> None:
        list(client.do_action(flight.Action(name, b"")))

    with flight.FlightClient(address, middleware=[Jars()]) as client:
        act("GetSessionOptions")
        act("CloseSession")
        assert len(seen) == 1, "a client that has a session is offered no other"
        act("GetSessionOptions")
        assert len(seen) == 2 and seen[0] != seen[1]


# ---- pandas and polars over ADBC


def test_pandas_reads_over_adbc(connection: Any) -> None:
    frame = pd.read_sql("SELECT id, name FROM people ORDER BY id", connection, dtype_backend="pyarrow")
    assert frame["name"].astype(object).where(frame["name"].notna(), None).tolist() == NAMES
    for schema in (None, "main"):
        assert pd.read_sql_table("people", connection, schema=schema)["id"].tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(pd.errors.DatabaseError) as caught:
        frame.to_sql("copy", connection, index=False)
    assert isinstance(caught.value.__cause__, adbc_driver_manager.NotSupportedError)


def test_polars_reads_over_adbc(connection: Any, address: str) -> None:
    frame = pl.read_database("SELECT id, name FROM people ORDER BY id", connection)
    assert frame.to_dict(as_series=False) == {"id": [1, 2, 3, 4, 5, 6], "name": NAMES}
    asked = {"parameters": [3]}
    frame = pl.read_database("SELECT name FROM people WHERE id <= ?", connection, execute_options=asked)
    assert frame["name"].to_list() == NAMES[:3]
    batches = pl.read_database("SELECT range FROM range(1000000)", connection, iter_batches=True, batch_size=1000)
    assert sum(frame.height for frame in batches) == 1_000_000
    with pytest.raises(adbc_driver_manager.NotSupportedError, match="read-only"):
        frame.write_database("copy", connection, engine="adbc")
    address = address.replace("grpc://", "flightsql://") + "?transport=tcp"
    frame = pl.read_database_uri("SELECT name FROM people WHERE id = 6", address, engine="adbc")
    assert frame["name"].to_list() == ["Flo"]
