"""Clients that send ahead, on the real data plane: what travels in groups comes back one by one, in order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from tests.plane import plane
from tests.support import eventually

AHEAD = 400


@fs.deployment(name="Echo", max_batch_rows=64)
class Echo:
    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if 666 in batch["a"].to_pylist():
            raise ValueError("of this one")
        return batch


@pytest.fixture(scope="module", params=[1, 2], ids=["one-replica", "two-replicas"])
def client(request: pytest.FixtureRequest) -> Iterator[fl.FlightClient]:
    with plane(Echo.bind(), replicas=request.param) as running, contextlib.ExitStack() as stack:
        frontend = FlightFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
        address = frontend.start()
        stack.callback(frontend.stop)
        client = stack.enter_context(fl.connect(address))
        yield client
        eventually(lambda: not frontend.statistics()["streams_open"], what="no stream is open")


def ints(number: int, rows: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array([number] * rows, pa.int64())})


@contextlib.contextmanager
def exchange(client: fl.FlightClient) -> Iterator[tuple[Any, Any]]:
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("Echo", "call"))
    writer.begin(ints(0, 0).schema)
    with writer:
        yield writer, reader


def rows_of(number: int) -> int:
    """Mostly few; some have none, are too large to travel with others, or are cut into slices."""
    return {97: 0, 98: 5000, 99: 200}.get(number % 100, 1 + number % 5)


def test_each_reply_is_its_requests(client: fl.FlightClient) -> None:
    with exchange(client) as (writer, reader):

        def send() -> None:
            for number in range(AHEAD):
                writer.write_with_metadata(ints(number, rows_of(number)), str(number).encode())
            writer.done_writing()

        sender = threading.Thread(target=send)
        sender.start()
        for number in range(AHEAD):
            chunk = reader.read_chunk()
            assert chunk.app_metadata.to_pybytes() == str(number).encode()
            assert chunk.data == ints(number, rows_of(number))
        with pytest.raises(StopIteration):
            reader.read_chunk()
        sender.join()


def test_a_client_that_waits_after_some(client: fl.FlightClient) -> None:
    """What waits for company is not forgotten where none comes."""
    with exchange(client) as (writer, reader):
        number = 0
        for ahead in [1] * 20 + [7] * 20 + [3, 16, 2, 40, 1, 5] * 5:
            for at in range(number, number + ahead):
                writer.write_batch(ints(at, 1))
            for at in range(number, number + ahead):
                assert reader.read_chunk().data == ints(at, 1)
            number += ahead


def test_many_streams(client: fl.FlightClient) -> None:
    errors: list[BaseException] = []

    def work(stream: int) -> None:
        try:
            with exchange(client) as (writer, reader):
                for ahead in (1, 30, 2, 60, 5):
                    for at in range(ahead):
                        writer.write_batch(ints(1000 * stream + at, 1 + at % 3))
                    for at in range(ahead):
                        assert reader.read_chunk().data == ints(1000 * stream + at, 1 + at % 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(1 + number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_one_that_fails_behind_others(client: fl.FlightClient) -> None:
    got = []
    with pytest.raises(fl.FlightInternalError, match="of this one"), exchange(client) as (writer, reader):
        for _ in range(20):
            writer.write_batch(ints(1, 1))
            assert reader.read_chunk().data == ints(1, 1)
        for number in [*range(1, 13), 666, 14, 15]:
            writer.write_batch(ints(number, 1))
        writer.done_writing()
        while True:
            got.append(reader.read_chunk().data)
    assert got == [ints(number, 1) for number in range(1, 13)]


def test_a_client_that_goes_away_in_the_middle(client: fl.FlightClient) -> None:
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("Echo", "call"))
    writer.begin(ints(0, 0).schema)
    for number in range(100):
        writer.write_batch(ints(number, 1))
    assert reader.read_chunk().data == ints(0, 1)
    reader.cancel()
    with contextlib.suppress(pa.ArrowException):
        writer.close()
    with exchange(client) as (writer, reader):
        writer.write_batch(ints(5, 1))
        assert reader.read_chunk().data == ints(5, 1)
