"""`Call` and the descriptions, through a real server and a real client: what works, and what bad input gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from flightserve.config import EdgeLimits
from flightserve.errors import Unavailable
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from flightserve.wire import status
from tests.frontends.rpc_support import BAD_STREAMS, GOOD, ONE_INT, WATCHED, batch_of, read, served, stream_of
from tests.support import eventually

Code = grpc.StatusCode
LIMIT = 1 << 20
LIMITS = EdgeLimits(
    body_bytes_max=LIMIT, header_timeout_s=2.0, body_timeout_s=0.4, stream_idle_timeout_s=0.4, header_bytes_max=8192
)
CALL = "/flightserve.v1.FlightServe/Call"


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with served(LIMITS, grpc_port=0) as host:
        yield host


@pytest.fixture
def channel(host: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(host.addresses["grpc"], [("grpc.max_receive_message_length", -1)]) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.FlightServeStub(channel)


def ask(stub: Any, method: str = "identity", stream: bytes = GOOD, deployment: str = "Probe", **extra: Any) -> Any:
    request = pb.CallRequest(deployment=deployment, method=method, arrow_stream=stream, **extra)
    return stub.Call(request, timeout=20)


def refused(stub: Any, *args: Any, **kwargs: Any) -> grpc.RpcError:
    """The error of a call that must fail, after which the next good one works."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(stub, *args, **kwargs)
    still_works(stub)
    return caught.value


def still_works(stub: Any) -> None:
    assert read(ask(stub).arrow_stream).to_pydict() == {"a": [1, 2, 3]}


def test_a_call_is_answered_with_its_rows_and_its_id(stub: Any) -> None:
    reply = ask(stub, request_id="mine")
    assert read(reply.arrow_stream).to_pydict() == {"a": [1, 2, 3]}
    assert reply.request_id == "mine"
    assert not reply.HasField("status")


def test_the_request_id_is_echoed_or_made_up(stub: Any) -> None:
    request = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD)
    reply, call = stub.Call.with_call(request, metadata=[("x-request-id", "from-metadata")])
    assert reply.request_id == "from-metadata"
    assert dict(call.trailing_metadata())["x-request-id"] == "from-metadata"
    first, second = stub.Call(request), stub.Call(request)
    assert first.request_id
    assert first.request_id != second.request_id


def test_a_streaming_methods_batches_come_in_one_stream(stub: Any) -> None:
    reader = pa.ipc.open_stream(ask(stub, "pieces").arrow_stream)
    assert [batch.num_rows for batch in reader] == [1, 1, 1]


def test_a_reply_of_several_results_is_bounded(stub: Any) -> None:
    assert read(ask(stub, "large", stream_of(batch_of(3))).arrow_stream).num_rows == 3 * 32768
    error = refused(stub, "large", stream_of(batch_of(50)))
    assert error.code() == Code.RESOURCE_EXHAUSTED
    assert "larger than" in error.details()


def test_a_large_reply_of_one_result_passes(host: Any) -> None:
    rows = LIMIT // 8 - 100
    with grpc.insecure_channel(host.addresses["grpc"]) as channel:
        stub = pb_grpc.FlightServeStub(channel)
        assert read(ask(stub, "identity", stream_of(batch_of(*range(rows)))).arrow_stream).num_rows == rows


# ---- bad input (docs/explanation/promises.md)


@pytest.mark.parametrize(
    ("deployment", "method"),
    [("Nope", "identity"), ("Probe", "nope"), ("", ""), ("Probe", "__init__"), ("Probe", "never.__call__")],
)
def test_unknown_names(stub: Any, deployment: str, method: str) -> None:
    assert refused(stub, method, deployment=deployment).code() == Code.NOT_FOUND


@pytest.mark.parametrize("name", ["../x", "%2e%2e", "a\0b", "x" * 10_000, "a/b", "\u202e"])
def test_names_that_are_none(stub: Any, name: str) -> None:
    for deployment, method in ((name, "identity"), ("Probe", name)):
        error = refused(stub, method, deployment=deployment)
        assert error.code() in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)
        assert len(error.details()) < 2100


@pytest.mark.parametrize("path", ["/flightserve.v1.FlightServe/Nope", "/nope.Service/Call", "/inference/x"])
def test_an_unknown_rpc(channel: grpc.Channel, stub: Any, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"", timeout=10)
    assert caught.value.code() == Code.UNIMPLEMENTED
    still_works(stub)


def test_a_body_at_the_limit_and_one_byte_over(stub: Any) -> None:
    padded = GOOD + b"\0" * (LIMIT - len(GOOD))
    assert refused(stub, stream=padded).code() == Code.INVALID_ARGUMENT  # taken, and found to have trailing bytes
    error = refused(stub, stream=padded + b"\0")
    assert error.code() == Code.RESOURCE_EXHAUSTED
    assert str(LIMIT) in error.details()
    assert refused(stub, stream=b"\0" * (LIMIT + 100_000)).code() == Code.RESOURCE_EXHAUSTED


def test_a_compressed_message_that_unpacks_beyond_the_limit(channel: grpc.Channel, stub: Any) -> None:
    request = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=b"\0" * (20 * LIMIT))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Call(request, timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    still_works(stub)


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_streams_that_are_none(stub: Any, name: str) -> None:
    error = refused(stub, stream=BAD_STREAMS[name])
    assert error.code() in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED)
    assert "internal" not in error.details()


@pytest.mark.parametrize("message", [b"\xff" * 40, b"\x0a\x05ab", b"\x1a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_message(channel: grpc.Channel, stub: Any, message: bytes) -> None:
    for name in ("Call", "ListDeployments", "DescribeMethod"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/flightserve.v1.FlightServe/{name}")(message, timeout=10)
        assert caught.value.code() == Code.INVALID_ARGUMENT
    still_works(stub)


def test_wrong_columns_and_types(stub: Any) -> None:
    for columns in ({"b": [1]}, {"a": ["x"]}, {"a": [1], "b": [2]}):
        error = refused(stub, "typed", stream_of(pa.RecordBatch.from_pydict(columns)))
        assert error.code() == Code.INVALID_ARGUMENT


def test_no_rows_and_no_columns(stub: Any) -> None:
    empty = ask(stub, "typed", stream_of(batch_of()))
    assert read(empty.arrow_stream).schema == ONE_INT
    assert read(empty.arrow_stream).num_rows == 0
    error = refused(stub, stream=stream_of(pa.RecordBatch.from_arrays([], schema=pa.schema([]))))
    assert error.code() == Code.INVALID_ARGUMENT
    assert "column" in error.details()


def with_metadata(stub: Any, method: str, *metadata: tuple[str, str]) -> grpc.RpcError:
    request = pb.CallRequest(deployment="Probe", method=method, arrow_stream=GOOD)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Call(request, timeout=20, metadata=metadata)
    still_works(stub)
    return caught.value


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", "1e3"])
def test_a_malformed_timeout(stub: Any, value: str) -> None:
    error = with_metadata(stub, "identity", ("x-timeout-ms", value))
    assert error.code() == Code.INVALID_ARGUMENT
    assert "x-timeout-ms" in error.details()


@pytest.mark.parametrize("value", ["10", "high", "-1"])
def test_a_malformed_priority(stub: Any, value: str) -> None:
    assert with_metadata(stub, "identity", ("x-priority", value)).code() == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("value", ["0", "1", "50"])
def test_a_timeout_that_passes(stub: Any, value: str) -> None:
    assert with_metadata(stub, "never", ("x-timeout-ms", value)).code() == Code.DEADLINE_EXCEEDED


def test_the_smaller_of_both_deadlines_wins(stub: Any) -> None:
    request = pb.CallRequest(deployment="Probe", method="never", arrow_stream=GOOD)
    for native_s, header in ((20, "100"), (0.1, "20000"), (0.1, "9" * 40)):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Call(request, timeout=native_s, metadata=[("x-timeout-ms", header)])
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
    eventually(lambda: not WATCHED.running)
    still_works(stub)


def test_absurd_timeouts_are_clamped_and_traceparents_ignored(stub: Any) -> None:
    request = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD)
    for metadata in (("x-timeout-ms", "9" * 40), ("traceparent", "nonsense"), ("traceparent", "00-" + "0" * 500)):
        assert read(stub.Call(request, timeout=20, metadata=[metadata]).arrow_stream).num_rows == 3


def test_an_unprintable_or_long_request_id(stub: Any) -> None:
    for name in ("é", "x" * 200, "a\nb"):
        error = refused(stub, request_id=name)
        assert error.code() == Code.INVALID_ARGUMENT
        assert dict(error.trailing_metadata())["x-request-id"] != name


def test_metadata_over_the_limits(stub: Any) -> None:
    many = tuple((f"x-{number}", "1") for number in range(201))
    assert with_metadata(stub, "identity", *many).code() == Code.RESOURCE_EXHAUSTED
    assert with_metadata(stub, "identity", ("x-long", "y" * 64_000)).code() == Code.RESOURCE_EXHAUSTED


def test_a_full_queue(stub: Any) -> None:
    request = pb.CallRequest(deployment="Narrow", method="never", arrow_stream=GOOD)
    before = WATCHED.running
    running = stub.Call.future(request)
    eventually(lambda: WATCHED.running == before + 1)
    waiting = [stub.Call.future(request) for _ in range(3)]
    full = threading.Event()
    for call in waiting:
        call.add_done_callback(lambda call: full.set() if call.code() == Code.RESOURCE_EXHAUSTED else None)
    assert full.wait(10)
    for call in (running, *waiting):
        call.cancel()
    eventually(lambda: WATCHED.running == before)
    still_works(stub)


@pytest.mark.parametrize(
    ("method", "code", "words"),
    [
        ("boom", Code.INTERNAL, "ValueError: boom"),
        ("longer", Code.INTERNAL, "4"),
        ("nothing", Code.INTERNAL, "Probe.nothing"),
        ("mistyped", Code.INTERNAL, "Probe.mistyped"),
        ("gone", Code.UNAVAILABLE, "died"),
        ("secret", Code.PERMISSION_DENIED, "not yours"),
    ],
)
def test_methods_that_fail(stub: Any, method: str, code: grpc.StatusCode, words: str) -> None:
    error = refused(stub, method)
    assert error.code() == code
    assert words in error.details()
    assert "Traceback" not in error.details()
    assert __file__.rpartition("/")[0] not in error.details()


def test_a_client_that_leaves_cancels_its_call(stub: Any) -> None:
    before = WATCHED.stopped
    call = stub.Call.future(pb.CallRequest(deployment="Probe", method="never", arrow_stream=GOOD))
    eventually(lambda: WATCHED.running)
    call.cancel()
    eventually(lambda: WATCHED.stopped > before)
    still_works(stub)


def test_a_call_that_is_opened_and_never_sent_is_ended(channel: grpc.Channel, stub: Any) -> None:
    held = threading.Event()

    def nothing() -> Iterator[bytes]:
        held.wait(30)
        yield from ()

    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(CALL)(nothing(), timeout=20)
    held.set()
    assert caught.value.code() == Code.DEADLINE_EXCEEDED
    assert "no request came" in caught.value.details()
    still_works(stub)


def test_a_call_that_ends_without_a_message(channel: grpc.Channel, stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(CALL)(iter(()), timeout=20)
    assert caught.value.code() == Code.INVALID_ARGUMENT
    still_works(stub)


# ---- what the server says of itself


def test_what_is_deployed(stub: Any) -> None:
    found = {
        deployment.name: deployment for deployment in stub.ListDeployments(pb.ListDeploymentsRequest()).deployments
    }
    assert sorted(found) == ["Narrow", "Probe"]
    assert found["Narrow"].options.max_queued_requests == 1
    assert found["Probe"].version
    typed = next(method for method in found["Probe"].methods if method.name == "typed")
    assert typed == stub.DescribeMethod(pb.DescribeMethodRequest(deployment="Probe", method="typed"))
    assert pa.ipc.read_schema(pa.py_buffer(typed.input_schema)) == ONE_INT
    assert (typed.options.form, typed.options.row_aligned, typed.options.streaming) == ("record_batch", True, False)
    pieces = stub.DescribeMethod(pb.DescribeMethodRequest(deployment="Probe", method="pieces"))
    assert (pieces.options.row_aligned, pieces.options.streaming, pieces.input_schema) == (False, True, b"")
    with pytest.raises(grpc.RpcError) as caught:
        stub.DescribeMethod(pb.DescribeMethodRequest(deployment="Probe", method="nope"))
    assert caught.value.code() == Code.NOT_FOUND


def test_descriptions_echo_the_request_id(stub: Any) -> None:
    mine = [("x-request-id", "mine")]
    typed = pb.DescribeMethodRequest(deployment="Probe", method="typed")
    for ask_for, message in ((stub.ListDeployments, pb.ListDeploymentsRequest()), (stub.DescribeMethod, typed)):
        _, call = ask_for.with_call(message, metadata=mine)
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"
        _, call = ask_for.with_call(message)
        assert dict(call.trailing_metadata())["x-request-id"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.DescribeMethod(pb.DescribeMethodRequest(deployment="Probe", method="nope"), metadata=mine)
    assert dict(caught.value.trailing_metadata())["x-request-id"] == "mine"


def test_query_needs_a_warehouse(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Query(pb.QueryRequest(query="SELECT 1")))
    assert caught.value.code() == Code.UNIMPLEMENTED


def test_health(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "Probe", "flightserve.v1.FlightServe"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() == Code.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nope"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_describes_the_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = {
        "flightserve.v1.FlightServe": "flightserve/v1/flightserve.proto",
        "inference.GRPCInferenceService": "inference/kserve.proto",
        "grpc.health.v1.Health": "grpc_health/v1/health.proto",
        "grpc.reflection.v1alpha.ServerReflection": "grpc_reflection/v1alpha/reflection.proto",
    }
    assert set(database.get_services()) == set(services)
    for service, file in services.items():
        assert database.FindFileContainingSymbol(service).name == file


def test_what_is_no_question_to_reflection_is_the_askers_fault(channel: grpc.Channel) -> None:
    ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as caught:
        list(ask(iter([b"\xff\xff"]), timeout=20))
    assert caught.value.code() == Code.INVALID_ARGUMENT


def test_outcomes_are_counted(host: Any, stub: Any) -> None:
    before = host._metrics.answers("grpc", "Probe", "gone", status.Code.UNAVAILABLE)
    refused(stub, "gone")
    assert host._metrics.answers("grpc", "Probe", "gone", status.Code.UNAVAILABLE) == before + 1
    refused(stub, deployment="nobody-knows-this")
    assert b"nobody-knows-this" not in host._metrics.text()


@pytest.mark.parametrize("ended_by", ["its deadline", "its client"])
def test_a_call_that_grpc_ends_is_counted_by_why_it_ended(stub: Any, host: Any, ended_by: str) -> None:
    """gRPC cancels the handler either way."""

    def counts() -> tuple[float, float]:
        missed, given_up = (
            host._metrics.answers("grpc", "Probe", "never", code)
            for code in (status.Code.DEADLINE_EXCEEDED, status.Code.CANCELLED)
        )
        return missed, given_up

    eventually(lambda: WATCHED.running == 0, what="calls of other tests have ended")
    missed, given_up = counts()
    by_deadline = ended_by == "its deadline"
    request = pb.CallRequest(deployment="Probe", method="never", arrow_stream=GOOD)
    call = stub.Call.future(request, timeout=0.3 if by_deadline else 20)
    if not by_deadline:
        eventually(lambda: WATCHED.running == 1)
        call.cancel()
    eventually(lambda: sum(counts()) > missed + given_up)
    assert counts() == ((missed + 1, given_up) if by_deadline else (missed, given_up + 1))


def test_a_taken_port_is_an_error(host: Any) -> None:
    port = int(host.addresses["grpc"].rpartition(":")[2])
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"), served(grpc_port=port):
        pytest.fail("two servers on one port")


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    with served(grpc_port=0) as host, grpc.insecure_channel(host.addresses["grpc"]) as channel:
        stub = pb_grpc.FlightServeStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        slow = pb.CallRequest(deployment="Probe", method="slowly", arrow_stream=stream_of(batch_of(500)))
        running = stub.Call.future(slow)
        eventually(lambda: host.service.statistics()["Probe"].get("micro_batches"))
        assert host.drain(10)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert read(running.result().arrow_stream).to_pydict() == {"a": [500]}
        with pytest.raises(grpc.RpcError) as caught:
            stub.Call(slow, timeout=5)
        assert caught.value.code() == Code.UNAVAILABLE


def test_a_client_may_ping_every_second(host: Any) -> None:
    """gRPC ends connections after three pings that come too soon."""
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0)]  # fmt: skip
    with grpc.insecure_channel(host.addresses["grpc"], options) as channel:
        request = pb.CallRequest(deployment="Probe", method="slowly", arrow_stream=stream_of(batch_of(4500)))
        assert pb_grpc.FlightServeStub(channel).Call(request, timeout=30).arrow_stream
