"""The trips of docs/explanation/life-of-a-request.md, made over the real data plane in one process under a profiler."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import httpx
import pyarrow as pa
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend, FlightServer
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.http.server import HttpFrontend
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.rpc_support import stream_of
from tests.plane import plane

ROOT = Path(__file__).resolve().parents[2]
HOME = f"{ROOT}/flightserve/"
ROWS = pa.record_batch({"a": [1, 2, 3]})
# One path and one name of a function in it.
Stop = tuple[str, str]


class Recorder:
    """Calls of our own functions, in the order in which they began, in all threads that begin while it is open."""

    def __init__(self) -> None:
        self.armed = False
        self.stops: list[Stop] = []

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if self.armed and event == "call" and frame.f_code.co_filename.startswith(HOME):
            self.stops.append((frame.f_code.co_filename[len(str(ROOT)) + 1 :], frame.f_code.co_qualname))

    @contextmanager
    def opened(self) -> Iterator[Recorder]:
        threading.setprofile(self)
        own = {name: getattr(FlightServer, name) for name in ("do_exchange", "get_flight_info", "do_get")}
        for name, handler in own.items():
            setattr(FlightServer, name, self._seen(handler))
        try:
            yield self
        finally:
            threading.setprofile(None)
            for name, handler in own.items():
                setattr(FlightServer, name, handler)

    def _seen(self, handler: Any) -> Any:
        """A handler of Flight: the threads that it is called in are none of Python's making."""

        def call(*arguments: Any) -> Any:
            sys.setprofile(self)
            try:
                return handler(*arguments)
            finally:
                sys.setprofile(None)

        return call

    def record(self, trip: Callable[[], object]) -> list[Stop]:
        """What the trip calls, the second time that it is made."""
        trip()
        self.stops, self.armed = [], True
        trip()
        self.armed = False
        return self.stops


@fs.deployment(name="Doubling")
class Doubling:
    """Twice what it gets."""

    def twice(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Of the column a."""
        return pa.record_batch({"a": [2 * value for value in batch["a"].to_pylist()]})


def over_http(address: str) -> object:
    """A JSON call."""
    # A head that names its request is parsed each time.
    named = {"x-request-id": "trip"}
    answer = httpx.post(f"{address}/v1/Doubling/twice", json={"columns": {"a": [1, 2, 3]}}, headers=named)
    assert answer.json() == {"columns": {"a": [2, 4, 6]}}
    return answer


def over_grpc(address: str) -> object:
    """A `Call`."""
    request = pb.CallRequest(deployment="Doubling", method="twice", arrow_stream=stream_of(ROWS))
    with grpc.insecure_channel(address) as channel:
        reply = pb_grpc.FlightServeStub(channel).Call(request, timeout=30)
    assert pa.ipc.open_stream(reply.arrow_stream).read_all().column("a").to_pylist() == [2, 4, 6]
    return reply


def over_flight(address: str) -> object:
    """One batch on a DoExchange stream."""
    with flight.connect(address) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("Doubling", "twice"))
        with writer:
            writer.begin(ROWS.schema)
            writer.write_batch(ROWS)
            reply = reader.read_chunk().data
            writer.done_writing()
    assert reply.column("a").to_pylist() == [2, 4, 6]
    return reply


def by_flight_sql(address: str) -> object:
    """A statement, and its rows."""
    with flight.connect(address) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT count(*) AS n FROM numbers"))
        rows = client.do_get(info.endpoints[0].ticket).read_all()
    assert rows.column("n").to_pylist() == [3]
    return rows


def trips() -> dict[str, list[Stop]]:
    """The calls of each trip, by the heading that it has on the page."""
    found = {}
    (doubling,) = fs.App(Doubling.bind())
    (numbers,) = fs.App(fs.sql.Warehouse({"numbers": pa.table(ROWS.to_pydict())}, name="lake", threads=1).bind())
    limits, metrics = EdgeLimits(), Metrics()
    with Recorder().opened() as recorder:
        with plane(doubling) as running:
            client = running.client
            loops: list[tuple[str, Any, Any]] = []

            async def start() -> None:
                for heading, trip, kind in (
                    ("An HTTP JSON call", over_http, HttpFrontend),
                    ("A gRPC Call", over_grpc, GrpcFrontend),
                ):
                    frontend = kind(client, "127.0.0.1", 0, limits, metrics)
                    loops.append((heading, trip, (frontend, await frontend.start())))

            running.run(start())
            for heading, trip, (frontend, address) in loops:
                found[heading] = recorder.record(lambda trip=trip, address=address: trip(address))
                running.run(frontend.stop())
            with flight_served(client, limits, metrics) as address:
                found["A DoExchange batch"] = recorder.record(lambda: over_flight(address))
        with plane(numbers) as running, flight_served(running.client, limits, metrics) as address:
            found["A Flight SQL statement"] = recorder.record(lambda: by_flight_sql(address))
    return found


@contextmanager
def flight_served(client: Any, limits: EdgeLimits, metrics: Metrics) -> Iterator[str]:
    """The Flight frontend of a plane."""
    frontend = FlightFrontend(client, "127.0.0.1", 0, limits, metrics, b"k" * 32)
    address = frontend.start()
    try:
        yield address
    finally:
        frontend.stop()
