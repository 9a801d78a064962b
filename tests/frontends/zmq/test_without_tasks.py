"""ZeroMQ on the real data plane: what is answered as soon as its result is there has no task of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import zmq

import flightserve as fs
from flightserve.caller.results import SharedSlice
from flightserve.config import EdgeLimits
from flightserve.errors import Unavailable
from flightserve.frontends.zmq.server import ZmqFrontend
from flightserve.metrics import Metrics
from tests.plane import Plane, plane
from tests.support import eventually

WAIT_MS = 20_000


@fs.deployment(max_batch_rows=64)
class Gated:
    def __init__(self) -> None:
        self.gate = threading.Event()

    def wait(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.gate.wait(20)
        return batch

    def same(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def fails(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("not today")

    @fs.method(row_aligned=False)
    def parts(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield batch
        yield batch


class Served(NamedTuple):
    plane: Plane
    frontend: ZmqFrontend
    socket: zmq.Socket[bytes]

    def send(self, number: int, method: str, rows: int = 2) -> None:
        head = {"deployment": "Gated", "method": method, "x-request-id": str(number)}
        self.socket.send_multipart([json.dumps(head).encode(), stream(number, rows)])

    def answer(self) -> tuple[int, str, bytes]:
        head, body = self.socket.recv_multipart()
        told = json.loads(head)
        return int(told["request_id"]), told["code"], body


def stream(number: int, rows: int = 2) -> bytes:
    batch = pa.record_batch({"x": pa.array([number] * rows, pa.int64())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def numbers(body: bytes) -> list[int]:
    found: list[int] = pa.ipc.open_stream(body).read_all()["x"].to_pylist()
    return found


@contextmanager
def serving() -> Iterator[Served]:
    with plane(Gated.bind()) as running, zmq.Context() as context, context.socket(zmq.DEALER) as socket:

        async def start() -> tuple[ZmqFrontend, str]:
            frontend = ZmqFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), Metrics())
            return frontend, await frontend.start()

        frontend, address = running.run(start())
        socket.linger, socket.rcvtimeo = 0, WAIT_MS
        socket.connect(address)
        try:
            yield Served(running, frontend, socket)
        finally:
            running.targets[0].gate.set()
            running.run(frontend.stop())


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


def _awaited(served: Served, count: int) -> None:
    eventually(lambda: served.frontend.statistics()["in_flight"] == count, what=f"{count} requests are in flight")


def test_many_in_flight_each_get_their_own_rows(served: Served) -> None:
    for number in range(50):
        served.send(number, "wait", rows=1 + number % 3)
    _awaited(served, 50)
    assert not served.frontend._serving
    served.plane.targets[0].gate.set()
    for number, code, body in [served.answer() for _ in range(50)]:
        assert (code, numbers(body)) == ("OK", [number] * (1 + number % 3))
    eventually(lambda: not served.frontend.statistics()["in_flight"])
    eventually(lambda: not served.frontend.statistics()["peers"])
    eventually(served.plane.at_rest, what="every lease came back")


def test_what_is_no_single_result_is_iterated_over(served: Served) -> None:
    served.send(1, "fails")
    number, code, body = served.answer()
    assert (number, code, body) == (1, "INTERNAL", b"")
    served.send(2, "parts")
    number, code, body = served.answer()
    assert (number, code, numbers(body)) == (2, "OK", [2] * 4)
    # Cut into slices, which run one after another.
    served.send(3, "same", rows=200)
    number, code, body = served.answer()
    assert (number, code, numbers(body)) == (3, "OK", [3] * 200)
    eventually(lambda: not served.frontend.statistics()["in_flight"])


def test_a_large_reply_is_the_region_itself(served: Served) -> None:
    rows = 40_000
    for number in (1, 2):
        served.send(number, "parts", rows=rows)
        assert numbers(served.answer()[2]) == [number] * 2 * rows
    eventually(lambda: not served.frontend.statistics()["unsent_bytes"])
    eventually(served.plane.at_rest, what="every lease came back")


def test_drain_waits_for_them(served: Served) -> None:
    served.send(1, "wait")
    _awaited(served, 1)
    drained: list[bool] = []
    draining = threading.Thread(target=lambda: drained.append(served.plane.run(served.frontend.drain(20))))
    draining.start()
    eventually(lambda: served.frontend._draining)
    served.send(2, "same")
    assert served.answer()[:2] == (2, "UNAVAILABLE")
    served.plane.targets[0].gate.set()
    assert served.answer()[:2] == (1, "OK")
    draining.join()
    assert drained == [True]


def test_stop_answers_them() -> None:
    with serving() as served:
        served.send(1, "wait")
        served.send(2, "wait")
        _awaited(served, 2)
        served.plane.run(served.frontend.stop())
        assert sorted(served.answer()[:2] for _ in range(2)) == [(1, "UNAVAILABLE"), (2, "UNAVAILABLE")]
        eventually(lambda: not served.frontend.statistics()["in_flight"])
        eventually(lambda: not served.plane.client.in_flight())


def test_a_deadline_that_passes(served: Served) -> None:
    head = {"deployment": "Gated", "method": "wait", "x-request-id": "7", "x-timeout-ms": 150}
    served.socket.send_multipart([json.dumps(head).encode(), stream(7)])
    assert served.answer()[:2] == (7, "DEADLINE_EXCEEDED")
    eventually(lambda: not served.frontend.statistics()["in_flight"])


def test_one_that_cannot_be_answered_does_not_keep_others_from_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = SharedSlice.ipc_stream

    def broken(self: SharedSlice) -> Any:
        if self.batch()["x"][0].as_py() == 1:
            raise Unavailable("gone")
        return whole(self)

    monkeypatch.setattr(SharedSlice, "ipc_stream", broken)
    for number in range(3):
        served.send(number, "wait")
    _awaited(served, 3)
    served.plane.targets[0].gate.set()
    codes = dict(served.answer()[:2] for _ in range(3))
    assert codes == {0: "OK", 1: "UNAVAILABLE", 2: "OK"}
    eventually(lambda: not served.frontend.statistics()["in_flight"])
