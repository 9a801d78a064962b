"""Flight SQL with the clients people use: ADBC (DBAPI, pandas, polars) and plain pyarrow.

A real warehouse answers behind LocalService; the frontend, the sockets and the clients are the real ones.
"""

from __future__ import annotations

import base64
import datetime
import decimal
from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pytest
from google.protobuf import any_pb2
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.errors import NotFound
from flightserve.frontends.flight import server
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.flight.sql_messages import pack, read_command
from flightserve.frontends.sql import info as sql_info
from flightserve.frontends.sql import metadata as sql_metadata
from flightserve.frontends.sql.gateway import Statement
from flightserve.frontends.sql.tickets import PreparedHandle, QueryTicket, Tickets
from flightserve.metrics import Metrics
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from flightserve.sql.warehouse.declare import Warehouse
from flightserve.testing import LocalService
from tests.support import eventually

ROWS = 5_000
FLIGHTS = pa.table(
    {
        "id": pa.array(range(ROWS), pa.int64()),
        "carrier": pa.array([("AA", "UA", "DL", None)[i % 4] for i in range(ROWS)]),
        "delay": pa.array([i % 97 - 10.5 for i in range(ROWS)], pa.float64()),
        "day": pa.array([datetime.date(2013, 1, 1 + i % 28) for i in range(ROWS)]),
        "fare": pa.array([decimal.Decimal(i) / 100 for i in range(ROWS)], pa.decimal128(12, 2)),
    }
)
AIRLINES = pa.table({"carrier": ["AA", "UA", "DL"], "name": ["American", "United", "Delta"]})


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    warehouse = Warehouse({"flights": FLIGHTS, "airlines": AIRLINES}, name="nyc", threads=2, memory_limit="300MB")
    warehouse.query("by_carrier", "SELECT count(*) AS n FROM flights WHERE carrier = $carrier")
    with LocalService(fs.App(warehouse.bind())) as served:
        yield served


@pytest.fixture(scope="module")
def frontend(service: LocalService) -> Iterator[tuple[str, FlightFrontend]]:
    served = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32)
    address = served.start()
    yield address, served
    served.stop()


@pytest.fixture
def connection(frontend: tuple[str, FlightFrontend]) -> Iterator[Any]:
    with adbc.connect(frontend[0], autocommit=True) as made:
        yield made


@pytest.fixture
def client(frontend: tuple[str, FlightFrontend]) -> Iterator[Any]:
    with flight.connect(frontend[0]) as made:
        yield made


def select(client: Any, sql: str, options: Any = None) -> pa.Table:
    info = client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()), options)
    table = client.do_get(info.endpoints[0].ticket, options).read_all()
    assert table.schema == info.schema
    return table


# ---- plain pyarrow


def test_plain_pyarrow_reads_sql(client: Any) -> None:
    got = select(client, "SELECT carrier, count(*) AS n FROM flights GROUP BY carrier ORDER BY carrier NULLS LAST")
    assert got.to_pydict() == {"carrier": ["AA", "DL", "UA", None], "n": [ROWS // 4] * 4}
    descriptor = flight.FlightDescriptor.for_command(b"SELECT 1 AS one")
    assert client.get_schema(descriptor).schema.names == ["one"]


def test_a_result_without_rows_has_its_schema(client: Any) -> None:
    assert select(client, "SELECT id, fare FROM flights WHERE false").schema.names == ["id", "fare"]


def test_tables_are_flights_too(client: Any) -> None:
    paths = {tuple(info.descriptor.path or ()) for info in client.list_flights()}
    assert {(b"nyc", b"flights"), (b"nyc", b"by_carrier")} <= paths
    assert {tuple(info.descriptor.path or ()) for info in client.list_flights(b"nyc")} == paths
    assert list(client.list_flights(b"other")) == []
    (listed,) = (info for info in client.list_flights(b"nyc") if info.descriptor.path == [b"nyc", b"flights"])
    assert listed.total_records == FLIGHTS.num_rows and client.do_get(listed.endpoints[0].ticket).read_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "LISTED_MAX", 1)
        assert len(list(client.list_flights())) == 1
    descriptor = flight.FlightDescriptor.for_path("nyc", "flights")
    info = client.get_flight_info(descriptor)
    assert client.get_schema(descriptor).schema == info.schema
    assert client.do_get(info.endpoints[0].ticket).read_all().equals(FLIGHTS.cast(info.schema))


def test_dictionaries_arrive_whole(client: Any) -> None:
    got = select(client, "SELECT carrier::ENUM('AA', 'UA', 'DL') AS c FROM flights WHERE carrier IS NOT NULL")
    assert got["c"].cast(pa.utf8()).to_pylist() == [c for c in FLIGHTS["carrier"].to_pylist() if c is not None]


def test_a_ticket_is_read_by_several_at_once_and_cancelled_for_all(
    client: Any, frontend: tuple[str, FlightFrontend]
) -> None:
    info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM range(100000000)"))
    readers = [client.do_get(info.endpoints[0].ticket) for _ in range(2)]
    assert all(reader.read_chunk().data.num_rows for reader in readers)
    assert frontend[1].statistics()["queries"] == 2
    request = flight_pb2.CancelFlightInfoRequest(info=flight_pb2.FlightInfo.FromString(info.serialize()))
    action(client, "CancelFlightInfo", request.SerializeToString())
    for reader in readers:
        with pytest.raises(flight.FlightCancelledError):
            while True:
                reader.read_chunk()
    eventually(lambda: frontend[1].statistics()["queries"] == 0, 20, what="no query runs")


# ---- ADBC


def test_adbc_runs_statements_and_parameters(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, fare, day FROM flights WHERE id < ? ORDER BY id", (3,))
        assert cursor.fetchall() == [(i, decimal.Decimal(i) / 100, datetime.date(2013, 1, 1 + i)) for i in range(3)]
        assert [column[0] for column in cursor.description] == ["id", "fare", "day"]
        cursor.execute("SELECT ? AS a, ? AS b", ("x", None))
        assert cursor.fetchone() == ("x", None)


def test_adbc_binds_many_rows_and_gets_all_their_results(connection: Any) -> None:
    wanted = [4, 4, 17, -1, 9]
    rows = pa.record_batch({"0": pa.array(wanted, pa.int64())})
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, carrier FROM flights WHERE id = ?", rows)
        assert [row[0] for row in cursor.fetchall()] == [4, 4, 17, 9]
        cursor.executemany("SELECT id FROM flights WHERE id < ?", [(2,), (3,)])
        assert cursor.rowcount == 5


def test_adbc_pandas_and_polars(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM airlines ORDER BY carrier")
        assert cursor.fetch_df()["name"].tolist() == ["American", "Delta", "United"]
        cursor.execute("SELECT * FROM airlines ORDER BY carrier")
        assert cursor.fetch_polars()["carrier"].to_list() == ["AA", "DL", "UA"]
        cursor.execute("SELECT * FROM flights")
        assert cursor.fetch_arrow_table().num_rows == ROWS


def test_adbc_knows_the_tables(connection: Any) -> None:
    assert connection.adbc_get_table_types() == ["table", "view"]
    schema = connection.adbc_get_table_schema("flights", db_schema_filter="main")
    assert schema.names == FLIGHTS.schema.names
    (catalog,) = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    assert catalog["catalog_name"] == "nyc"
    (db_schema,) = catalog["catalog_db_schemas"]
    tables = {table["table_name"]: table for table in db_schema["db_schema_tables"]}
    assert set(tables) == {"flights", "airlines"}
    assert [c["column_name"] for c in tables["airlines"]["table_columns"]] == ["carrier", "name"]
    like = connection.adbc_get_objects(depth="tables", table_name_filter="air%").read_all().to_pylist()
    (db_schema,) = like[0]["catalog_db_schemas"]
    assert [t["table_name"] for t in db_schema["db_schema_tables"]] == ["airlines"]


def test_adbc_reads_what_the_server_is(connection: Any) -> None:
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "flightserve"
    assert info["vendor_version"].startswith("duckdb ")


def test_adbc_partitions(connection: Any) -> None:
    with connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT id FROM flights")
        assert schema.names == ["id"]
        rows = 0
        for partition in partitions:
            cursor.adbc_read_partition(partition)
            rows += cursor.fetch_arrow_table().num_rows
        assert rows == ROWS


def test_adbc_prepared_statements_tell_their_parameters(connection: Any) -> None:
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT id FROM flights WHERE carrier = ? AND delay > ?")
        assert len(schema) == 2
        assert pa.types.is_string(schema.field(0).type)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO airlines VALUES ('x', 'y')",
        "CREATE TABLE t (a INT)",
        "DROP TABLE flights",
        "COPY flights TO 'x.csv'",
        "ATTACH 'x.db'",
        "SET threads = 1",
        "SELECT * FROM read_csv('/etc/passwd')",
    ],
)
def test_what_would_write_or_reach_out_is_refused(connection: Any, sql: str) -> None:
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match=r"(?i)unauthorized|permission"):
        cursor.execute(sql)


@pytest.mark.parametrize("sql", ["SET TimeZone = 'UTC'", "USE nyc", "USE nyc.main", "BEGIN", "COMMIT", "ROLLBACK"])
def test_what_changes_nothing_is_answered(connection: Any, sql: str) -> None:
    """ibis opens with the first; others are prepared, or run for their row count."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        assert cursor.fetchall() == []
        cursor.adbc_statement.set_sql_query(sql)
        assert cursor.adbc_statement.execute_update() in (0, -1)
        cursor.execute("PRAGMA table_info('airlines')")
        assert [row[1] for row in cursor.fetchall()] == ["carrier", "name"]


def test_a_pivot_s_columns_are_told_before_its_rows(connection: Any) -> None:
    """Its values are looked up to describe it, and again to run it."""
    with connection.cursor() as cursor:
        for load in (cursor.execute, cursor.adbc_prepare, cursor.execute):
            load("PIVOT flights ON carrier USING count(*) GROUP BY day ORDER BY day")
        names = [column[0] for column in cursor.description]
        assert names[1:] == sorted({c for c in FLIGHTS["carrier"].to_pylist() if c is not None})
        assert sum(n for row in cursor.fetchall() for n in row[1:]) == ROWS - FLIGHTS["carrier"].null_count
        cursor.execute("EXPLAIN ANALYZE SELECT count(*) FROM flights WHERE id > ?", (3,))
        ((key, text),) = cursor.fetchall()
        assert key == "analyzed_plan" and "TABLE_SCAN" in text


def test_statements_that_are_wrong(connection: Any) -> None:
    for sql in (
        "SELEC 1",
        "SELECT 1; SELECT 2",
        "SELECT nothing FROM flights",
        "",
        "SELECT * FROM flights WHERE id = ?",
    ):
        with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match=r"(?i)invalid"):
            cursor.execute(sql)
            cursor.fetchall()
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match=r"(?i)not.?found"):
        cursor.execute("SELECT * FROM nowhere")
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match=r"(?i)invalid"):
        cursor.execute("SELECT id FROM flights WHERE id = ?", (1, 2))


def test_a_query_without_end_meets_its_deadline(client: Any) -> None:
    options = flight.FlightCallOptions(headers=[(b"x-timeout-ms", b"300")])
    with pytest.raises(flight.FlightTimedOutError):
        select(
            client,
            "SELECT count(*) FROM range(1000000000000) a, range(1000000000000) b WHERE a.range + b.range = 7",
            options,
        )
    assert select(client, "SELECT 1 AS a")["a"].to_pylist() == [1]


def test_a_query_over_the_memory_limit(client: Any) -> None:
    # RESOURCE_EXHAUSTED, as far as pyarrow can say it.
    with pytest.raises(flight.FlightUnavailableError, match=r"(?i)memory"):
        select(client, "SELECT list(range) FROM range(200000000)")
    assert select(client, "SELECT 1 AS a")["a"].to_pylist() == [1]


# ---- tickets, handles, sessions


def action(client: Any, name: str, body: bytes, options: Any = None) -> list[bytes]:
    return [result.body.to_pybytes() for result in client.do_action(flight.Action(name, body), options)]


def prepared(client: Any, sql: str, options: Any = None) -> bytes:
    body = pack(pb.ActionCreatePreparedStatementRequest(query=sql))
    (result,) = action(client, "CreatePreparedStatement", body, options)
    created: Any = read_command(result)
    return bytes(created.prepared_statement_handle)


def prepared_info(client: Any, handle: bytes, options: Any = None) -> Any:
    command = pack(pb.CommandPreparedStatementQuery(prepared_statement_handle=handle))
    return client.get_flight_info(flight.FlightDescriptor.for_command(command), options)


def logged_in(user: str) -> Any:
    credentials = base64.b64encode(f"{user}:secret".encode())
    return flight.FlightCallOptions(headers=[(b"authorization", b"Basic " + credentials)])


def test_tickets_that_are_not_ours(client: Any) -> None:
    good = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT 1")).endpoints[0].ticket.ticket
    flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good) - 60, len(good), 7)]
    for bad in (b"", b"\0" * 40, good[:-1], good + b"x", *flipped):
        with pytest.raises(pa.ArrowInvalid):
            client.do_get(flight.Ticket(bad)).read_all()


def test_tickets_that_have_expired(client: Any, frontend: tuple[str, FlightFrontend]) -> None:
    past = Tickets(b"k" * 32, clock_s=lambda: 1.0)
    handle = past.seal(past.prepared(Statement("nyc", "SELECT 1"), ""))
    with pytest.raises(KeyError, match="expired"):
        prepared_info(client, handle)


def test_a_prepared_statement_that_is_used_does_not_expire() -> None:
    now_s = [0.0]
    tickets = Tickets(b"k" * 32, clock_s=lambda: now_s[0], lifetime_s=100)
    used, idle = (tickets.seal(tickets.prepared(Statement("nyc", "SELECT 1"), "")) for _ in range(2))
    for _ in range(10):
        now_s[0] += 60.0
        assert tickets.open(used, PreparedHandle).sql == "SELECT 1"
    with pytest.raises(NotFound, match="expired"):
        tickets.open(idle, PreparedHandle)
    now_s[0] += 101.0
    with pytest.raises(NotFound, match="expired"):
        tickets.open(used, PreparedHandle)
    query = tickets.seal(tickets.query(Statement("nyc", "SELECT 1"), ""))
    for _ in range(2):
        tickets.open(query, QueryTicket)
        now_s[0] += 60.0
    with pytest.raises(NotFound, match="expired"):
        tickets.open(query, QueryTicket)


@pytest.mark.parametrize("name", ["__class__", "DESCRIPTOR", "__doc__", "__dict__", "", "Nothing", "a b", "x" * 10_000])
def test_messages_of_no_kind_that_there_is(client: Any, name: str) -> None:
    unknown = any_pb2.Any(type_url=f"type.googleapis.com/arrow.flight.protocol.sql.{name}").SerializeToString()
    descriptor = flight.FlightDescriptor.for_command(unknown)
    for ask in (client.get_flight_info, client.get_schema):
        with pytest.raises(NotImplementedError, match="no Flight SQL message"):
            ask(descriptor)
    with pytest.raises(pa.ArrowInvalid, match="not a ticket"):
        client.do_get(flight.Ticket(unknown)).read_all()
    with pytest.raises(pa.ArrowInvalid, match="the action's body"):
        action(client, "CreatePreparedStatement", unknown)


def test_a_handle_that_was_closed_and_one_of_another_user(client: Any) -> None:
    handle = prepared(client, "SELECT 1 AS a")
    assert prepared_info(client, handle).schema.names == ["a"]
    action(
        client,
        "ClosePreparedStatement",
        pack(pb.ActionClosePreparedStatementRequest(prepared_statement_handle=handle)),
    )
    with pytest.raises(KeyError):
        prepared_info(client, handle)
    theirs = prepared(client, "SELECT 1 AS a", logged_in("ann"))
    assert prepared_info(client, theirs, logged_in("ann")).schema.names == ["a"]
    with pytest.raises(flight.FlightUnauthorizedError):
        prepared_info(client, theirs, logged_in("bob"))


def test_cancelling_a_flight_info_ends_its_ticket(client: Any) -> None:
    info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM range(100000000)"))
    reader = client.do_get(info.endpoints[0].ticket)
    assert reader.read_chunk().data.num_rows
    request = flight_pb2.CancelFlightInfoRequest(info=flight_pb2.FlightInfo.FromString(info.serialize()))
    (result,) = action(client, "CancelFlightInfo", request.SerializeToString())
    assert flight_pb2.CancelFlightInfoResult.FromString(result).status == flight_pb2.CANCEL_STATUS_CANCELLED
    # Not read_all: when its server cancels, pyarrow takes it for Ctrl-C.
    with pytest.raises(flight.FlightCancelledError):
        while True:
            reader.read_chunk()
    with pytest.raises(KeyError):
        client.do_get(info.endpoints[0].ticket).read_all()


def test_an_endpoint_can_be_renewed(client: Any) -> None:
    info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT 7 AS a"))
    endpoint = flight_pb2.FlightEndpoint.FromString(info.endpoints[0].serialize())
    body = flight_pb2.RenewFlightEndpointRequest(endpoint=endpoint).SerializeToString()
    (renewed,) = action(client, "RenewFlightEndpoint", body)
    ticket = flight_pb2.FlightEndpoint.FromString(renewed).ticket.ticket
    assert client.do_get(flight.Ticket(ticket)).read_all()["a"].to_pylist() == [7]


def test_sessions_by_token(client: Any) -> None:
    token = client.authenticate_basic_token("ann", "secret")
    options = flight.FlightCallOptions(headers=[token])
    request = flight_pb2.SetSessionOptionsRequest()
    request.session_options["catalog"].string_value = "nyc"
    request.session_options["schema"].string_value = "other"
    request.session_options["colour"].string_value = "red"
    (result,) = action(client, "SetSessionOptions", request.SerializeToString(), options)
    errors = {name: error.value for name, error in flight_pb2.SetSessionOptionsResult.FromString(result).errors.items()}
    assert errors == {"schema": 2, "colour": 1}
    (result,) = action(client, "GetSessionOptions", b"", options)
    assert flight_pb2.GetSessionOptionsResult.FromString(result).session_options["catalog"].string_value == "nyc"
    action(client, "CloseSession", b"", options)
    with pytest.raises(flight.FlightUnauthenticatedError):
        action(client, "GetSessionOptions", b"", options)


def test_adbc_logs_in(frontend: tuple[str, FlightFrontend]) -> None:
    with (
        adbc.connect(frontend[0], db_kwargs={"username": "ann", "password": "x"}, autocommit=True) as made,
        made.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def test_credentials_that_cannot_be_read(client: Any) -> None:
    for value in (b"Basic !!!", b"Basic " + base64.b64encode(b"nobody"), b"Digest a"):
        options = flight.FlightCallOptions(headers=[(b"authorization", value)])
        with pytest.raises(flight.FlightUnauthenticatedError):
            list(client.do_action("healthz", options))


def test_a_bearer_token_of_somebody_else_does_no_harm(client: Any) -> None:
    options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer None")])
    assert select(client, "SELECT 1 AS a", options)["a"].to_pylist() == [1]


def test_transactions_of_nothing_are_taken(client: Any) -> None:
    (packed,) = action(client, "BeginTransaction", pack(pb.ActionBeginTransactionRequest()))
    began: Any = read_command(packed)
    within = pack(pb.CommandStatementQuery(query="SELECT 1 AS a", transaction_id=began.transaction_id))
    info = client.get_flight_info(flight.FlightDescriptor.for_command(within))
    assert client.do_get(info.endpoints[0].ticket).read_all()["a"].to_pylist() == [1]
    for end in (
        pb.ActionEndTransactionRequest.END_TRANSACTION_COMMIT,
        pb.ActionEndTransactionRequest.END_TRANSACTION_ROLLBACK,
    ):
        body = pack(pb.ActionEndTransactionRequest(transaction_id=began.transaction_id, action=end))
        assert action(client, "EndTransaction", body) == []
    with pytest.raises(NotImplementedError, match="no savepoints"):
        action(client, "BeginSavepoint", pack(pb.ActionBeginSavepointRequest()))


def test_transactions_that_nobody_began_and_ingestion_are_refused_clearly(client: Any, connection: Any) -> None:
    within = pack(pb.CommandStatementQuery(query="SELECT 1", transaction_id=b"mine"))
    with pytest.raises(pa.ArrowInvalid, match="not a ticket of this app"):
        client.get_flight_info(flight.FlightDescriptor.for_command(within))
    within = pack(pb.ActionCreatePreparedStatementRequest(query="SELECT 1", transaction_id=b"mine"))
    with pytest.raises(pa.ArrowInvalid, match="not a ticket of this app"):
        action(client, "CreatePreparedStatement", within)
    for body in (pb.ActionEndTransactionRequest(), pb.ActionEndTransactionRequest(transaction_id=b"mine")):
        with pytest.raises(pa.ArrowInvalid):
            action(client, "EndTransaction", pack(body))
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.NotSupportedError, match="read-only"):
        cursor.adbc_ingest("copy", AIRLINES)


def test_every_metadata_command_answers_in_its_schema(client: Any) -> None:
    for command, schema in [
        (pb.CommandGetSqlInfo(), sql_info.SQL_INFO),
        (pb.CommandGetXdbcTypeInfo(), sql_info.XDBC),
        (pb.CommandGetCatalogs(), sql_metadata.CATALOGS),
        (pb.CommandGetDbSchemas(), sql_metadata.DB_SCHEMAS),
        (pb.CommandGetTables(include_schema=True), sql_metadata.TABLES_WITH_SCHEMA),
        (pb.CommandGetTables(), sql_metadata.TABLES),
        (pb.CommandGetTableTypes(), sql_metadata.TABLE_TYPES_SCHEMA),
        (pb.CommandGetPrimaryKeys(table="flights"), sql_metadata.PRIMARY_KEYS),
        (pb.CommandGetExportedKeys(table="flights"), sql_metadata.REFERENCES),
        (pb.CommandGetImportedKeys(table="flights"), sql_metadata.REFERENCES),
        (pb.CommandGetCrossReference(pk_table="a", fk_table="b"), sql_metadata.REFERENCES),
    ]:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(pack(command)))
        table = client.do_get(info.endpoints[0].ticket).read_all()
        assert info.schema.equals(schema, check_metadata=True), command
        assert table.schema.equals(schema, check_metadata=True), command


def test_what_is_bound_survives_a_handle(client: Any) -> None:
    tickets = Tickets(b"k" * 32)
    handle = prepared(client, "SELECT 1 AS a")
    assert tickets.open(handle, PreparedHandle, "").sql == "SELECT 1 AS a"
