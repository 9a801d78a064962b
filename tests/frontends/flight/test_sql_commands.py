"""Every command of the Flight SQL protocol, in every RPC that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.flight.sql import COMMANDS, Handlers
from flightserve.frontends.flight.sql_messages import pack
from flightserve.metrics import Metrics
from flightserve.proto import sql_pb2 as pb
from flightserve.sql.warehouse.declare import Warehouse
from flightserve.testing import LocalService
from tests.sql.warehouses import PEOPLE


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    warehouse = Warehouse({"people": PEOPLE}, name="lake", threads=1)
    with LocalService(fs.App(warehouse.bind())) as service:
        frontend = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics())
        with flight.connect(frontend.start()) as connected:
            yield connected
        frontend.stop()


@pytest.mark.parametrize(
    "kind", [getattr(pb, name) for name in sorted(pb.DESCRIPTOR.message_types_by_name) if name.startswith("Command")]
)
def test_every_command_of_the_protocol_is_served_by_each_rpc_as_the_table_says(client: Any, kind: Any) -> None:
    handlers = COMMANDS.get(kind, Handlers())
    descriptor = flight.FlightDescriptor.for_command(pack(kind()))
    if handlers.metadata is not None:
        info = client.get_flight_info(descriptor)
        assert info.schema == client.get_schema(descriptor).schema
        assert info.schema == client.do_get(info.endpoints[0].ticket).read_all().schema
    elif handlers.query is not None:
        with pytest.raises(pa.ArrowInvalid, match=r"not a ticket|the query is empty"):
            client.get_flight_info(descriptor)
        with pytest.raises(pa.ArrowInvalid, match=r"not a ticket|the query is empty"):
            client.get_schema(descriptor)
    else:
        for ask in (client.get_flight_info, client.get_schema):
            with pytest.raises(NotImplementedError, match=f"{kind.__name__} has no result that could be read"):
                ask(descriptor)
    writer, reader = client.do_put(descriptor, pa.schema([]))
    writes = handlers.put is None or kind is pb.CommandStatementIngest
    refused = NotImplementedError if writes else pa.ArrowInvalid
    with pytest.raises(refused, match=r"not a ticket|the query is empty|read-only"):
        writer.done_writing()
        reader.read()
        writer.close()
