"""A result names where it can be read, and a real client goes on to the next where it finds nobody."""

from __future__ import annotations

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.sql import Warehouse
from flightserve.testing import LocalService

QUERY = "SELECT sum(a) AS answer FROM numbers"


def test_a_result_is_read_from_any_frontend_that_it_names() -> None:
    warehouse = Warehouse({"numbers": pa.table({"a": [40.0, 2.0]})}, name="w", threads=1)
    asked = flight.FlightDescriptor.for_command(QUERY.encode())
    with LocalService(fs.App(warehouse.bind())) as service:
        first, second = (FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics(), b"k" * 32) for _ in "ab")
        address, other = first.start(), second.start()
        try:
            with flight.connect(address) as client:
                assert [endpoint.locations for endpoint in client.get_flight_info(asked).endpoints] == [[]]
                first.set_locations(["grpc://127.0.0.1:1", other])
                (endpoint,) = client.get_flight_info(asked).endpoints
            assert [location.uri.decode() for location in endpoint.locations] == ["grpc://127.0.0.1:1", other]
            with flight.connect(endpoint.locations[1]) as elsewhere:
                assert elsewhere.do_get(endpoint.ticket).read_all().to_pydict() == {"answer": [42.0]}
            with adbc.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute(QUERY)
                assert cursor.fetch_arrow_table().to_pydict() == {"answer": [42.0]}
        finally:
            first.stop()
            second.stop()
