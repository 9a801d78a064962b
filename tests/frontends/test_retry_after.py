"""A full queue says when to try again, and every protocol that can hands it on, over the real data plane."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
import zmq

import flightserve as fs
from flightserve.errors import DeadlineExceeded, OutOfMemory, ResourceExhausted, TooLarge, Unavailable
from flightserve.frontends.http.errors import http_status, retry_after_s
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.ends_support import JSON_ROWS, Served, Watched, all_served
from tests.frontends.rpc_support import GOOD, batch_of
from tests.plane import meta, receive_all
from tests.support import eventually

QUEUED_MAX = 10
SLOW_S = 0.25


@fs.deployment(name="Ends", max_queued_requests=QUEUED_MAX, max_batch_rows=1)
class Slow(Watched):
    """Serves a request for each of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = threading.Semaphore(0)

    def step(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Waits for the next step."""
        self.steps.acquire(timeout=60)
        return batch


def _filled(served: Served, queued: int) -> Any:
    """Have one running, one waiting behind it in the replica, and so many in the router's queue."""
    lane = served.plane.client.open_lane()
    for key in range(2):
        lane.submit(key, "Ends", "step", batch_of(key), meta(60))
    eventually(lambda: served.count("in_flight_batches") == 2)
    for key in range(queued):
        lane.submit(2 + key, "Ends", "step", batch_of(key), meta(60))
    eventually(lambda: served.count("queued_requests") == queued)
    return lane


def _emptied(served: Served, lane: Any, count: int, steps: int) -> None:
    served.target.steps.release(steps)
    assert all(reply.error is None for reply in receive_all(lane, count))
    lane.close()


@pytest.fixture(scope="module")
def full() -> Iterator[Served]:
    """Its queue is full, and it is known how long each request waits."""
    with all_served(Slow) as served:
        lane = _filled(served, 2)
        served.target.steps.release()
        eventually(lambda: served.count("queued_requests") == 1)
        since = time.monotonic()
        eventually(lambda: time.monotonic() - since > SLOW_S, what="the replica is slow")
        _emptied(served, lane, 4, 3)
        lane = _filled(served, QUEUED_MAX)
        try:
            yield served
        finally:
            _emptied(served, lane, 2 + QUEUED_MAX, 2 + QUEUED_MAX)


def _by_grpc(served: Served) -> int:
    """It grows while nothing is served."""
    with grpc.insecure_channel(served.addresses["grpc"]) as channel:
        request = pb.CallRequest(deployment="Ends", method="step", arrow_stream=GOOD)
        with pytest.raises(grpc.RpcError) as raised:
            pb_grpc.FlightServeStub(channel).Call(request, timeout=20)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return int(dict(raised.value.trailing_metadata())["retry-after-ms"])


def test_grpc_says_it_in_trailing_metadata(full: Served) -> None:
    assert _by_grpc(full) >= QUEUED_MAX / 2 * SLOW_S * 1000


def test_http_says_it_in_whole_seconds_rounded_up(full: Served) -> None:
    before_ms = _by_grpc(full)
    answer = httpx.post(
        full.addresses["http"] + "/v1/Ends/step", content=JSON_ROWS, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 429
    shown_s = int(answer.headers["retry-after"])
    assert 1 < math.ceil(before_ms / 1000) <= shown_s <= math.ceil(_by_grpc(full) / 1000)


def test_zeromq_says_it_in_the_header(full: Served) -> None:
    before_ms = _by_grpc(full)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.REQ) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, 20_000)
        sock.connect(full.addresses["zmq"])
        sock.send_multipart([b'{"deployment":"Ends","method":"step"}', GOOD])
        header = json.loads(sock.recv_multipart()[0])
    assert header["code"] == "RESOURCE_EXHAUSTED"
    assert before_ms <= header["retry_after_ms"] <= _by_grpc(full)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ResourceExhausted("full"), 1),
        (ResourceExhausted("full", 1), 1),
        (ResourceExhausted("full", 1000), 1),
        (ResourceExhausted("full", 1001), 2),
        (Unavailable("draining"), 1),
        (OutOfMemory("too little"), 1),
        (TooLarge("too large", 5000), 0),
        (DeadlineExceeded("too late", 5000), 0),
    ],
)
def test_retry_after_in_seconds(error: fs.FlightserveError, seconds: int) -> None:
    assert retry_after_s(error, http_status(error)) == seconds
