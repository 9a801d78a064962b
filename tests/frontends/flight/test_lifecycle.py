"""The Flight frontend's life, and the rules of reading ahead, on a real server."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.errors import Unavailable
from flightserve.frontends.flight import peers as flight_peers
from flightserve.frontends.flight import streams as flight_streams
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.testing import LocalService
from tests.frontends.flight.fakes import Exchange, FakeService, good_request_works, rows, served
from tests.support import eventually

# ---- start, drain, stop


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        frontend = FlightFrontend(FakeService(), "127.0.0.1", port, EdgeLimits(), Metrics())  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            frontend.start()


def test_draining_lets_what_runs_finish_and_takes_nothing_new() -> None:
    with served() as (service, frontend, address), flight.connect(address) as client:
        with Exchange(client, "waits") as running, Exchange(client, "echo") as open_stream:
            open_stream.call(rows(0))
            running.send(rows(1))
            eventually(lambda: service.running == 1)
            assert not frontend.drain(0.01), "a request is in flight"
            service.gate.set()
            assert running.reader.read_chunk().data.equals(rows(1))
            assert frontend.drain(10.0)
            open_stream.send(rows(2))
            with pytest.raises(flight.FlightUnavailableError, match="draining"):
                open_stream.reader.read_chunk()
        with Exchange(client, "echo") as late, pytest.raises(flight.FlightUnavailableError, match="draining"):
            late.reader.read_chunk()


@pytest.mark.parametrize("state", ["waiting for the client", "waiting for the method"])
def test_stop_ends_open_streams_in_bounded_time(state: str) -> None:
    with served() as (service, frontend, address), flight.connect(address) as client:
        with Exchange(client, "waits" if "method" in state else "echo") as exchange:
            if "method" in state:
                exchange.send(rows(1))
                eventually(lambda: service.running == 1)
            else:
                exchange.call(rows(1))
            stopping = threading.Thread(target=frontend.stop)
            stopping.start()
            with pytest.raises((pa.ArrowException, OSError)):
                exchange.reader.read_chunk()
            stopping.join(10.0)
            assert not stopping.is_alive()
        eventually(lambda: service.lanes_open == 0 and service.running == 0)
        frontend.stop()


def test_stop_closes_the_port() -> None:
    with served() as (_, frontend, address):
        host, port = address.removeprefix("grpc://").rsplit(":", 1)
        frontend.stop()
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), timeout=5.0)


# ---- reading ahead


def ahead_of(exchange: Exchange, service: FakeService) -> None:
    """Send batches without waiting, until the server is seen to have run two of them at a time."""
    service.running_max = 0

    def ran_two() -> bool:
        for value in range(1, 11):
            exchange.send(rows(value))
        for _ in range(10):
            exchange.reader.read_chunk()
        return service.running_max > 1

    eventually(ran_two, what="the stream is read ahead")


def test_an_error_reaches_a_client_that_sent_ahead_and_then_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_streams, "ERROR_GRACE_S", 0.05)
    with served() as (service, frontend, address):
        with flight.connect(address) as client, Exchange(client, "slow_fails") as exchange:
            ahead_of(exchange, service)
            exchange.send(rows(1))
            exchange.send(rows(-1))
            exchange.reader.read_chunk()
            with pytest.raises((pa.ArrowException, OSError)):
                exchange.reader.read_chunk()
        eventually(lambda: frontend.statistics()["streams_open"] == 0 and service.lanes_open == 0)
        good_request_works(address)


def test_an_error_in_the_middle_of_a_stream_that_is_read_ahead() -> None:
    with served() as (service, frontend, address), flight.connect(address) as client:
        with Exchange(client, "slow_fails") as exchange:
            sent = [*range(1, 200), -1, *range(200, 230)]

            def send() -> None:
                try:
                    for value in sent:
                        exchange.send(rows(value))
                    exchange.writer.done_writing()
                except (pa.ArrowException, OSError):
                    return  # the stream has ended with the error that the reader sees

            sender = threading.Thread(target=send)
            sender.start()
            got: list[int] = []
            with pytest.raises(flight.FlightInternalError, match="below zero"):
                got.extend(chunk.data["a"][0].as_py() for chunk in exchange.reader)
            sender.join()
        assert got == list(range(1, 200))
        assert service.running_max > 1
        eventually(lambda: frontend.statistics()["streams_open"] == 0 and service.lanes_open == 0)


def test_a_client_that_returns_to_waiting_is_served_by_one_thread_again() -> None:
    with served() as (service, frontend, address), flight.connect(address) as client:
        with Exchange(client, "slow_fails") as exchange:
            ahead_of(exchange, service)
            server: Any = frontend._server
            (stream,) = server.streams._streams

            def alone() -> bool:
                assert exchange.call(rows(1)).equals(rows(1))
                return stream._second is None

            eventually(alone, what="the second thread ends")
            exchange.send(rows(-1))
            with pytest.raises(flight.FlightInternalError, match="below zero"):
                exchange.reader.read_chunk()


# ---- cutting a connection


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:40000", ("127.0.0.1", 40000)),
        ("ipv6:%5B::1%5D:40000", ("::1", 40000)),
        ("ipv6:[::1]:1", ("::1", 1)),
        ("unix:/somewhere", None),
        ("", None),
    ],
)
def test_the_address_of_a_peer(peer: str, address: tuple[str, int] | None) -> None:
    assert flight_peers.address_of(peer) == address


def test_only_the_peers_connection_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        first, second = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        accepted = [server.accept()[0] for _ in range(2)]
        with first, second, accepted[0], accepted[1]:
            assert flight_peers.cut(f"ipv4:127.0.0.1:{first.getsockname()[1]}", port)
            assert first.recv(1) == b""
            accepted[1].sendall(b"x")
            assert second.recv(1) == b"x"
            assert not flight_peers.cut("ipv4:127.0.0.1:1", port)


# ---- with real methods behind it


@fs.deployment(max_batch_rows=4)
class Shop:
    """What the Flight frontend serves in the last tests."""

    def double(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"a": pa.compute.multiply(batch["a"], 2)})

    @fs.method(input=pa.schema([("a", pa.int64())]))
    def strict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def broken(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("no such price")

    def rows_of(self, batch: pa.RecordBatch):  # type: ignore[no-untyped-def]
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


def test_real_methods_of_a_local_service() -> None:
    with LocalService(fs.App(Shop.bind())) as service:
        frontend = FlightFrontend(service, "127.0.0.1", 0, EdgeLimits(), Metrics())
        address = frontend.start()
        try:
            with flight.connect(address) as client:
                _call_real_methods(client)
        finally:
            frontend.stop()


def _call_real_methods(client: Any) -> None:
    def descriptor(method: str) -> Any:
        return flight.FlightDescriptor.for_path("Shop", method)

    with Exchange(client, "", descriptor("double")) as exchange:
        # Longer than max_batch_rows: run in slices, answered in one piece.
        assert exchange.call(rows(*range(10))).equals(rows(*range(0, 20, 2)))
        assert exchange.call(rows()).num_rows == 0
    with Exchange(client, "", descriptor("broken")) as exchange:
        exchange.send(rows(1))
        with pytest.raises(flight.FlightInternalError, match="no such price") as raised:
            exchange.reader.read_chunk()
        assert "Traceback" not in str(raised.value)
    with Exchange(client, "", descriptor("strict")) as exchange:
        exchange.send(pa.record_batch({"b": [1]}))
        with pytest.raises(pa.ArrowInvalid):
            exchange.reader.read_chunk()
    with Exchange(client, "", descriptor("rows_of")) as exchange:
        exchange.send(rows(1, 2, 3), b"m")
        exchange.writer.done_writing()
        got = [(chunk.data["a"][0].as_py(), chunk.app_metadata.to_pybytes()) for chunk in exchange.reader]
        assert got == [(1, b"m"), (2, b"m"), (3, b"m")]
