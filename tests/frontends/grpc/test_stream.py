"""`Stream`, through a real server and a real client: order, the window, errors that do not end it, and its ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from flightserve.config import EdgeLimits
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends import rpc_support
from tests.frontends.rpc_support import BAD_STREAMS, GOOD, WATCHED, batch_of, read, served, stream_of
from tests.support import eventually

Code = grpc.StatusCode
LIMIT = 4 << 20
WINDOW = 4
LIMITS = EdgeLimits(
    body_bytes_max=LIMIT, body_timeout_s=0.4, stream_idle_timeout_s=0.4, stream_window=WINDOW, streams_max=3
)


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with served(LIMITS, grpc_port=0) as host:
        yield host


@pytest.fixture
def stub(host: Any) -> Iterator[Any]:
    with grpc.insecure_channel(host.addresses["grpc"], [("grpc.max_receive_message_length", -1)]) as channel:
        yield pb_grpc.FlightServeStub(channel)
    eventually(lambda: not host._running["grpc"].statistics()["streams_open"])


def request(method: str = "identity", stream: bytes = GOOD, request_id: str = "") -> pb.CallRequest:
    return pb.CallRequest(deployment="Probe", method=method, arrow_stream=stream, request_id=request_id)


class Requests:
    """Requests that a test sends one by one: an iterator gRPC reads from another thread."""

    def __init__(self, *first: pb.CallRequest) -> None:
        self._queue: queue.SimpleQueue[pb.CallRequest | None] = queue.SimpleQueue()
        self.taken = 0
        for each in first:
            self.send(each)

    def send(self, each: pb.CallRequest) -> None:
        self._queue.put(each)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> Requests:
        return self

    def __next__(self) -> pb.CallRequest:
        each = self._queue.get()
        if each is None:
            raise StopIteration
        self.taken += 1
        return each


def test_many_requests_are_answered_in_order(stub: Any) -> None:
    requests = [request(stream=stream_of(batch_of(number)), request_id=str(number)) for number in range(200)]
    replies = list(stub.Stream(iter(requests), timeout=30))
    assert [int(reply.request_id) for reply in replies] == list(range(200))
    assert [read(reply.arrow_stream).column("a")[0].as_py() for reply in replies] == list(range(200))


def test_the_id_of_the_metadata_is_echoed_and_is_that_of_requests_without_one(stub: Any) -> None:
    call = stub.Stream(iter([request(), request(request_id="own")]), timeout=30, metadata=[("x-request-id", "mine")])
    assert [reply.request_id for reply in call] == ["mine", "own"]
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    call = stub.Stream(iter([request()]), timeout=30)
    assert [bool(reply.request_id) for reply in call] == [True]


def test_a_slow_request_holds_back_the_replies_behind_it_not_their_work(host: Any, stub: Any) -> None:
    slow = request("slowly", stream_of(batch_of(200)), "slow")
    replies = stub.Stream(iter([slow, request(request_id="fast")]), timeout=30)
    assert [reply.request_id for reply in replies] == ["slow", "fast"]


def test_the_window_bounds_what_is_in_flight(stub: Any) -> None:
    eventually(lambda: not WATCHED.running)
    WATCHED.most = 0
    requests = Requests(*[request("never") for _ in range(WINDOW + 3)])
    replies = stub.Stream(requests, timeout=30)
    eventually(lambda: WATCHED.running == WINDOW)
    # A whole call behind it: by then the stream would have started more, if it could.
    stub.Call(request(), timeout=30)
    replies.cancel()
    requests.end()
    eventually(lambda: not WATCHED.running)
    assert WATCHED.most == WINDOW


def test_errors_do_not_end_the_stream(stub: Any) -> None:
    bad = [
        request("nope"),
        request("boom"),
        request("gone"),
        request(stream=b"x" * (LIMIT + 1)),
        *(request(stream=stream) for name, stream in BAD_STREAMS.items()),
        request(request_id="é"),
    ]
    mixed = [each for one in bad for each in (one, request())]
    replies = list(stub.Stream(iter(mixed), timeout=60))
    assert len(replies) == len(mixed)
    for good in replies[1::2]:
        assert not good.HasField("status")
        assert read(good.arrow_stream).num_rows == 3
    codes = [reply.status.code for reply in replies[::2]]
    assert codes[:4] == [
        code.value[0] for code in (Code.NOT_FOUND, Code.INTERNAL, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
    ]
    assert set(codes[4:]) <= {Code.INVALID_ARGUMENT.value[0], Code.RESOURCE_EXHAUSTED.value[0]}
    assert all(reply.status.message and reply.request_id and not reply.arrow_stream for reply in replies[::2])


def test_bytes_that_are_no_message_do_not_end_the_stream(host: Any) -> None:
    with grpc.insecure_channel(host.addresses["grpc"]) as channel:
        stream = channel.stream_stream("/flightserve.v1.FlightServe/Stream")
        replies = [pb.CallReply.FromString(one) for one in stream(iter([b"\xff\xff", request().SerializeToString()]))]
    assert [reply.status.code for reply in replies] == [Code.INVALID_ARGUMENT.value[0], 0]


def test_a_timeout_holds_for_each_request(stub: Any) -> None:
    requests = [request("never"), request(), request("never"), request()]
    replies = list(stub.Stream(iter(requests), timeout=30, metadata=[("x-timeout-ms", "100")]))
    assert [reply.status.code for reply in replies] == [4, 0, 4, 0]


def test_the_rpcs_own_deadline_holds(stub: Any) -> None:
    """Which of the two comes first, the reply that says so or the end of the RPC, is a race of two clocks."""
    try:
        codes = [reply.status.code for reply in stub.Stream(iter([request("never")]), timeout=0.2)]
    except grpc.RpcError as error:
        codes = [error.code().value[0]]
    assert codes == [Code.DEADLINE_EXCEEDED.value[0]]
    eventually(lambda: not WATCHED.running)


def test_a_client_that_leaves_cancels_what_is_in_flight(host: Any) -> None:
    stopped = WATCHED.stopped
    requests = Requests(request("never"), request("never"))
    channel = grpc.insecure_channel(host.addresses["grpc"])
    replies = pb_grpc.FlightServeStub(channel).Stream(requests)
    eventually(lambda: WATCHED.running == 2)
    channel.close()
    requests.end()
    eventually(lambda: WATCHED.stopped == stopped + 2)
    assert not replies.is_active()


def test_a_stream_on_which_nothing_is_sent_is_ended(stub: Any) -> None:
    requests = Requests()
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Stream(requests, timeout=20))
    requests.end()
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    assert "idle" in caught.value.details()
    assert next(iter(stub.Stream(iter([request()])))).request_id


def test_a_running_request_is_not_idleness(stub: Any) -> None:
    slow = request("slowly", stream_of(batch_of(1000)))
    requests = Requests(slow)
    replies = stub.Stream(requests, timeout=20)
    assert read(next(replies).arrow_stream).to_pydict() == {"a": [1000]}
    requests.end()
    assert list(replies) == []


def test_a_client_that_never_reads_is_bounded_in_work_and_time(host: Any, stub: Any) -> None:
    """The client's flow control window fills; the server stops reading, and ends the stream in the end."""
    large = request("large", stream_of(batch_of(12)))
    requests = Requests(*[large for _ in range(100)])
    before = host.service.statistics()["Probe"]["requests"]
    replies = stub.Stream(requests)
    statistics = host._running["grpc"].statistics
    eventually(lambda: statistics()["streams_open"] == 1)
    eventually(lambda: statistics()["streams_open"] == 0, 20.0, "a stream nobody reads stays open")
    assert host.service.statistics()["Probe"]["requests"] - before < 40
    with pytest.raises(grpc.RpcError):
        list(replies)
    requests.end()
    assert next(iter(stub.Stream(iter([request()])))).request_id


def test_streams_are_bounded(stub: Any) -> None:
    open_requests = [Requests(request("never")) for _ in range(3)]
    streams = [stub.Stream(each) for each in open_requests]
    eventually(lambda: WATCHED.running == 3)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Stream(iter([request()]), timeout=10))
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    for stream, each in zip(streams, open_requests, strict=True):
        stream.cancel()
        each.end()
    eventually(lambda: not WATCHED.running)


def test_a_message_above_grpcs_own_limit_ends_the_stream_with_its_status(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Stream(iter([request(), request(stream=b"x" * (LIMIT + 100_000))]), timeout=20))
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    assert next(iter(stub.Stream(iter([request()])))).request_id


def test_drain_answers_what_was_taken_and_ends_with_unavailable() -> None:
    with served(grpc_port=0) as host, grpc.insecure_channel(host.addresses["grpc"]) as channel:
        stub = pb_grpc.FlightServeStub(channel)
        requests = Requests(request(), request("slowly", stream_of(batch_of(400))))
        replies = stub.Stream(requests)
        assert read(next(replies).arrow_stream).num_rows == 3
        eventually(lambda: host.service.statistics()["Probe"].get("micro_batches") == 2)
        drained = threading.Thread(target=host.drain, args=(10,))
        drained.start()
        assert read(next(replies).arrow_stream).to_pydict() == {"a": [400]}
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        drained.join()
        requests.end()
        assert caught.value.code() == Code.UNAVAILABLE
        assert "draining" in caught.value.details()


# ---- streaming methods


def test_parts_leave_as_they_are_made_and_the_end_is_told(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Semaphore(0)
    monkeypatch.setattr(rpc_support, "STEP", made)
    requests = Requests(request("stepwise", request_id="parts"), request(request_id="behind"))
    replies = stub.Stream(requests, timeout=30)
    for value in (1, 2, 3):
        made.release()
        part = next(replies)
        assert (part.request_id, part.more, read(part.arrow_stream).column("a").to_pylist()) == ("parts", True, [value])
    end, behind = next(replies), next(replies)
    assert (end.request_id, end.more, read(end.arrow_stream).num_rows) == ("parts", False, 0)
    assert read(end.arrow_stream).schema == read(part.arrow_stream).schema
    assert (behind.request_id, behind.more, read(behind.arrow_stream).num_rows) == ("behind", False, 3)
    requests.end()
    assert not list(replies)


def test_an_error_behind_parts_ends_its_request_and_not_the_stream(stub: Any) -> None:
    replies = list(stub.Stream(iter([request("breaks", request_id="a"), request(request_id="b")]), timeout=30))
    assert [(reply.request_id, reply.more) for reply in replies] == [("a", True), ("a", False), ("b", False)]
    assert (replies[1].status.code, replies[1].arrow_stream) == (Code.INTERNAL.value[0], b"")


def test_a_method_that_yields_nothing_has_an_end(stub: Any) -> None:
    empty = stream_of(batch_of())
    (end,) = stub.Stream(iter([request("pieces", empty)]), timeout=30)
    assert (end.more, read(end.arrow_stream).num_rows) == (False, 0)


def test_call_gives_all_parts_of_a_streaming_method_in_one(stub: Any) -> None:
    reply = stub.Call(request("pieces"), timeout=30)
    assert (read(reply.arrow_stream).column("a").to_pylist(), reply.more) == ([1, 2, 3], False)


def test_a_client_that_leaves_between_parts_ends_the_method(host: Any, stub: Any) -> None:
    stopped = WATCHED.stopped
    replies = stub.Stream(iter([request("endless")]), timeout=30)
    assert next(replies).more
    replies.cancel()
    eventually(lambda: WATCHED.stopped == stopped + 1)
    eventually(lambda: not host._running["grpc"].statistics()["streams_open"])


def test_a_client_that_takes_no_parts_stops_the_method(host: Any, stub: Any) -> None:
    """What is made and not read is bounded, and the stream ends when nothing is taken for too long."""
    replies = stub.Stream(iter([request("large", stream_of(batch_of(400)))]), timeout=30)
    assert next(replies).more
    eventually(lambda: not host._running["grpc"].statistics()["streams_open"], timeout_s=20)
    with pytest.raises(grpc.RpcError):
        list(replies)
