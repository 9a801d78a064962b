"""All four frontends over the real data plane in one process, methods that tell how they end, and every way in which
a client of each protocol can go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
import zmq
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.grpc.server import GrpcFrontend
from flightserve.frontends.http.server import HttpFrontend
from flightserve.frontends.zmq.server import ZmqFrontend
from flightserve.metrics import Metrics
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.flight.fakes import Exchange
from tests.frontends.http.support import ARROW, JSON, Raw, post
from tests.frontends.rpc_support import GOOD, batch_of
from tests.plane import Plane, plane
from tests.support import eventually

JSON_ROWS = json.dumps({"columns": {"a": [1, 2, 3]}}).encode()
LONG_MS = "60000"


class Watched:
    """Methods of every kind that wait until their context is cancelled, and say so."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.ended: list[str] = []
        self.ran: list[int] = []
        self.told: list[Any] = []
        self.gate = threading.Event()

    def _wait(self, how: str) -> None:
        current = fs.context()
        self.started.release()
        eventually(lambda: current.cancelled, 50)
        self.ended.append(how)

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """On a thread: looks at `cancelled`."""
        self._wait("batch")
        return batch

    @fs.single_input
    def row(self, row: dict[str, int]) -> int:
        """Row by row: the first one waits, the others are not run."""
        self.ran.append(row["a"])
        self._wait("row")
        return 1

    @fs.method(row_aligned=False)
    def generator(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Streams one batch, then waits."""
        yield batch
        self._wait("generator")
        yield batch

    def quick(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Notes that it ran."""
        self.ran.append(batch.num_rows)
        return batch

    def hold(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Keeps its lane until the gate opens."""
        self.started.release()
        self.gate.wait(60)
        return batch

    def tell(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Notes what it knows of its request."""
        current = fs.context()
        self.told.append(
            (current.deadline, current.priority, current.request_ids, current.traceparents, current.tracestates)
        )
        return batch


@fs.deployment(name="Ends", max_timeout_ms=100_000)
class Threads(Watched):
    """Without an event loop: what is not taken by its lane waits in the router."""


@fs.deployment(name="Ends")
class Loops(Watched):
    """With methods on an event loop."""

    async def coroutine(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Awaits what never comes."""
        self.started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("coroutine")
            raise
        return batch

    @fs.method(row_aligned=False)
    async def async_generator(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Streams one batch, then awaits what never comes."""
        yield batch
        self.started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("async_generator")
            raise


@dataclass
class Served:
    """The frontends' addresses, the plane behind them and its one object of the class."""

    plane: Plane
    addresses: dict[str, str]

    @property
    def target(self) -> Any:
        return self.plane.targets[0]

    def count(self, name: str) -> float:
        return self.plane.router.statistics()[f"Ends.{name}"]


@contextmanager
def all_served(deployment: Any) -> Iterator[Served]:
    """All four frontends, on the client of a plane that serves one replica."""
    with plane(deployment.bind()) as running, contextlib.ExitStack() as stack:
        addresses = {}
        place = (running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
        for name, kind in {"http": HttpFrontend, "grpc": GrpcFrontend, "zmq": ZmqFrontend}.items():

            async def start(kind: Any = kind) -> tuple[Any, str]:
                # Built on the loop, whose sockets and queues they make theirs.
                frontend = kind(*place)
                return frontend, await frontend.start()

            frontend, addresses[name] = running.run(start())
            stack.callback(lambda frontend=frontend: running.run(frontend.stop()))
        flights = FlightFrontend(*place)  # type: ignore[arg-type]
        addresses["flight"] = flights.start()
        stack.callback(flights.stop)
        yield Served(running, addresses)


# ---- ways to go away: each starts a call of a method and returns what ends it

Leave = Callable[[], Any]


def http_json(served: Served, method: str) -> Leave:
    raw = Raw(served.addresses["http"]).send(post(f"/v1/Ends/{method}", JSON_ROWS, f"x-timeout-ms: {LONG_MS}"))
    return raw.close


def http_arrow(served: Served, method: str) -> Leave:
    data = post(f"/v1/Ends/{method}", GOOD, f"accept: {ARROW}").replace(JSON.encode(), ARROW.encode())
    return Raw(served.addresses["http"]).send(data).close


def _stub(served: Served) -> tuple[grpc.Channel, Any, Any]:
    channel = grpc.insecure_channel(served.addresses["grpc"])
    return (
        channel,
        pb_grpc.FlightServeStub(channel),
        lambda m: pb.CallRequest(deployment="Ends", method=m, arrow_stream=GOOD),
    )


def grpc_cancel(served: Served, method: str) -> Leave:
    channel, stub, request = _stub(served)
    call = stub.Call.future(request(method))
    return lambda: (call.cancel(), channel.close())


def grpc_channel_closed(served: Served, method: str) -> Leave:
    channel, stub, request = _stub(served)
    call = stub.Call.future(request(method))
    return lambda: (channel.close(), call)


def grpc_stream(served: Served, method: str) -> Leave:
    channel, stub, request = _stub(served)
    ended = threading.Event()

    def requests() -> Iterator[Any]:
        yield request(method)
        ended.wait(60)

    call = stub.Stream(requests())
    return lambda: (call.cancel(), ended.set(), channel.close())


def grpc_deadline(served: Served, method: str) -> Leave:
    """Goes away by itself: the RPC's own deadline, and nothing said in x-timeout-ms."""
    channel, stub, request = _stub(served)
    call = stub.Call.future(request(method), timeout=0.5)
    return lambda: (call.code(), channel.close())


def _exchange(served: Served, method: str) -> tuple[Any, Exchange]:
    client = flight.connect(served.addresses["flight"])
    exchange = Exchange(client, "", flight.FlightDescriptor.for_path("Ends", method), x_timeout_ms=LONG_MS)
    exchange.send(batch_of(1, 2, 3))
    return client, exchange


def flight_cancel(served: Served, method: str) -> Leave:
    client, exchange = _exchange(served, method)
    return lambda: (exchange.reader.cancel(), exchange.__exit__(), client.close())


def flight_put(served: Served, method: str) -> Leave:
    """A put that its client's own deadline ends; the server sees no more of it than that it is gone."""
    client = flight.connect(served.addresses["flight"])
    options = flight.FlightCallOptions(timeout=0.5, headers=[(b"x-timeout-ms", LONG_MS.encode())])
    batch = batch_of(1, 2, 3)
    writer, _ = client.do_put(flight.FlightDescriptor.for_path("Ends", method), batch.schema, options)
    writer.write_batch(batch)

    def leave() -> None:
        with contextlib.suppress(pa.ArrowException, OSError):
            writer.close()
        client.close()

    return leave


def zmq_expiry(served: Served, method: str) -> Leave:
    """ZeroMQ does not tell that a peer has gone: only the deadline ends its requests."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(served.addresses["zmq"])
    dealer.send_multipart([json.dumps({"deployment": "Ends", "method": method, "x-timeout-ms": 500}).encode(), GOOD])
    return lambda: (dealer.close(), context.term())


WAYS: dict[str, Callable[[Served, str], Leave]] = {
    way.__name__: way
    for way in (
        http_json, http_arrow, grpc_cancel, grpc_channel_closed, grpc_stream, grpc_deadline,
        flight_cancel, flight_put, zmq_expiry,
    )
}  # fmt: skip
