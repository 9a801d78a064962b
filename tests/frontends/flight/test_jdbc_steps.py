"""What Arrow's JDBC driver for Flight SQL sends, step by step, as its source has it (arrow-java, flight-sql-jdbc-core:
`ArrowFlightSqlClientHandler`, `ClientAuthenticationUtils`, `ClientHandshakeWrapper`, `ClientCookieMiddleware`). The
driver itself is not to be had here."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.flight.sql_messages import pack, read_command
from flightserve.metrics import Metrics
from flightserve.proto import flight_pb2
from flightserve.proto import sql_pb2 as pb
from tests.frontends.access_support import BookedAccess
from tests.identity.books import PASSWORD, token_of
from tests.plane import Plane, plane
from tests.sql.warehouses import PEOPLE

HANDSHAKE = "/arrow.flight.protocol.FlightService/Handshake"


class Address(NamedTuple):
    closed: str
    open: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """With `--auth`, and without."""
    roles = '[roles.clerk]\nquery = ["people"]\n'
    access = BookedAccess(tmp_path_factory.mktemp("auth"), roles, {"ann": '["clerk"]'}, {})
    lake = fs.sql.Warehouse({"people": PEOPLE, "secret": PEOPLE}, name="lake", threads=2)
    with plane(lake.bind(), access=access) as running:
        made = [frontend(running, access), frontend(running, OPEN)]
        yield Address(*(each.start().removeprefix("grpc://") for each in made))
        for each in made:
            each.stop()
        access.stop()
        running.targets[0].close()


def frontend(running: Plane, access: Access) -> FlightFrontend:
    return FlightFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32, None, access)


class Driver:
    """A connection of the driver's: the handshake, its credentials and its cookies, which go with each call."""

    def __init__(self, address: str, user: str = "", password: str = "", token: str = "") -> None:
        # A token goes before a name.
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._authorization = f"Bearer {token}" if token else f"Basic {basic}"
        self._cookies: dict[str, str] = {}
        self._shake_hands(address, takes_token=not token)
        self._client = flight.connect(f"grpc://{address}", middleware=[_Factory(self)])

    def _shake_hands(self, address: str, takes_token: bool) -> None:
        """One request without a payload, and the end of it. What comes back counts by its headers alone."""
        with grpc.insecure_channel(address) as channel:
            bytes_as_they_are = (lambda said: said, lambda said: said)
            handshake = channel.stream_stream(HANDSHAKE, *bytes_as_they_are)
            call = handshake(iter([b""]), timeout=20, metadata=[("authorization", self._authorization)])
            assert list(call) == []
            self.take(list(call.initial_metadata()))
            if takes_token:
                (said,) = [value for name, value in call.initial_metadata() if name == "authorization"]
                assert said.startswith("Bearer ")
                self._authorization = said

    def take(self, headers: list[tuple[str, str]]) -> None:
        """What an answer's headers say. A cookie is one of Netscape's, a name and a value, and kept by its name."""
        for name, value in headers:
            if name == "set-cookie":
                key, _, said = value.partition(";")[0].partition("=")
                self._cookies[key] = said

    def headers(self) -> dict[str, str]:
        """Those of each call."""
        cookies = {"cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        return {"authorization": self._authorization} | (cookies if self._cookies else {})

    def act(self, name: str, body: bytes) -> list[bytes]:
        return [each.body.to_pybytes() for each in self._client.do_action(flight.Action(name, body))]

    def got(self, message: Any) -> pa.Table:
        """GetFlightInfo, and what each endpoint has."""
        info = self._client.get_flight_info(flight.FlightDescriptor.for_command(pack(message)))
        return pa.concat_tables([self._client.do_get(each.ticket).read_all() for each in info.endpoints])

    def queried(self, sql: str, *parameters: pa.RecordBatch) -> pa.Table:
        """Every statement is prepared; parameters are put, and may give another handle."""
        (result,) = self.act("CreatePreparedStatement", pack(pb.ActionCreatePreparedStatementRequest(query=sql)))
        made: Any = read_command(result)
        assert pa.ipc.read_schema(pa.py_buffer(made.dataset_schema)).names and not made.is_update
        asked = pb.CommandPreparedStatementQuery(prepared_statement_handle=made.prepared_statement_handle)
        for batch in parameters:
            put = flight.FlightDescriptor.for_command(pack(asked))
            writer, reader = self._client.do_put(put, batch.schema)
            with writer:
                writer.write_batch(batch)
                writer.done_writing()
                bound = pb.DoPutPreparedStatementResult.FromString(reader.read().to_pybytes())
            asked.prepared_statement_handle = bound.prepared_statement_handle
        found = self.got(asked)
        closing = pb.ActionClosePreparedStatementRequest(prepared_statement_handle=made.prepared_statement_handle)
        assert self.act("ClosePreparedStatement", pack(closing)) == []
        return found

    def chosen(self, catalog: str) -> list[str]:
        """`?catalog=`: an option of the session; the names of the errors."""
        asked = flight_pb2.SetSessionOptionsRequest()
        asked.session_options["catalog"].string_value = catalog
        (result,) = self.act("SetSessionOptions", asked.SerializeToString())
        return list(flight_pb2.SetSessionOptionsResult.FromString(result).errors)

    def close(self) -> None:
        """With a catalog the session is closed before the connection."""
        self.act("CloseSession", flight_pb2.CloseSessionRequest().SerializeToString())
        self._client.close()


class _Factory(flight.ClientMiddlewareFactory):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def start_call(self, info: Any) -> Any:
        return _Middleware(self._driver)


class _Middleware(flight.ClientMiddleware):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def sending_headers(self) -> dict[str, str]:
        return self._driver.headers()

    def received_headers(self, headers: dict[str, list[str]]) -> None:
        self._driver.take([(name, value) for name, values in headers.items() for value in values])


@pytest.mark.parametrize("how", ["a name and a password", "a token", "a name and a token", "open"])
def test_a_connection(served: Address, how: str) -> None:
    driver = {
        "a name and a password": lambda: Driver(served.closed, "ann", PASSWORD),
        "a token": lambda: Driver(served.closed, token=token_of("ann")),
        "a name and a token": lambda: Driver(served.closed, "nobody", "wrong", token_of("ann")),
        "open": lambda: Driver(served.open, "whoever", "whatever"),
    }[how]()
    assert driver.chosen("lake") == []
    assert driver.chosen("nowhere") == ["catalog"]
    assert driver.queried("SELECT name FROM people WHERE id = 1").to_pylist() == [{"name": "Ada"}]
    rows = pa.record_batch({"1": pa.array([2], pa.int64())})
    assert driver.queried("SELECT name FROM people WHERE id = ?", rows).to_pylist() == [{"name": "Bo"}]
    tables = driver.got(pb.CommandGetTables(catalog="lake", db_schema_filter_pattern="%", include_schema=True))
    assert tables["table_name"].to_pylist() == (["people", "secret"] if how == "open" else ["people"])
    assert driver.got(pb.CommandGetSqlInfo(info=[0])).num_rows == 1
    assert driver.got(pb.CommandGetCatalogs()).to_pylist() == [{"catalog_name": "lake"}]
    driver.close()


@pytest.mark.parametrize("given", [{"user": "ann", "password": "wrong"}, {"token": "wrong"}, {"user": "bob"}])
def test_a_connection_that_is_refused(served: Address, given: dict[str, str]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        Driver(served.closed, **given)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
