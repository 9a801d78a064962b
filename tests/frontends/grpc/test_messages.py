"""The hand-read CallRequest against the generated class, whatever the bytes are."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from flightserve.errors import InvalidArgument
from flightserve.frontends.grpc.messages import (
    _LARGE_BYTES,
    _view,
    read_call_request,
    write_call_reply,
    write_error_reply,
)
from flightserve.proto import flightserve_pb2 as pb

requests = st.builds(
    pb.CallRequest,
    deployment=st.text(max_size=200),
    method=st.text(max_size=10),
    arrow_stream=st.binary(max_size=300),
    request_id=st.text(max_size=5),
)


def fields(message: bytes) -> tuple[str, str, bytes, str] | None:
    try:
        request = pb.CallRequest.FromString(message)
    except DecodeError:
        return None
    return request.deployment, request.method, request.arrow_stream, request.request_id


def viewed(message: bytes) -> tuple[str, str, bytes, str] | None:
    try:
        deployment, method, stream, request_id = _view(message)
    except InvalidArgument:
        return None
    return deployment, method, bytes(stream), request_id


@given(requests)
def test_a_view_of_a_message_says_what_the_generated_class_says(request: pb.CallRequest) -> None:
    message = request.SerializeToString()
    assert viewed(message) == fields(message)


@given(requests, st.data())
def test_a_damaged_message_reads_the_same_both_ways(request: pb.CallRequest, data: st.DataObject) -> None:
    message = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    assert viewed(cut) == fields(cut)


@given(st.binary(max_size=40))
def test_any_bytes_read_the_same_both_ways(message: bytes) -> None:
    assert viewed(message) == fields(message)


def test_unknown_and_repeated_fields_are_taken_as_protobuf_takes_them() -> None:
    message = pb.CallRequest(deployment="a", method="m").SerializeToString()
    extended = message + b"\x50\x01" + pb.CallRequest(deployment="b").SerializeToString()
    assert viewed(extended) == fields(extended) == ("b", "m", b"", "")


@pytest.mark.parametrize("size", [_LARGE_BYTES // 2, _LARGE_BYTES * 4])
def test_a_large_stream_is_a_view_of_the_message(size: int) -> None:
    message = pb.CallRequest(deployment="d", method="m", arrow_stream=b"x" * size).SerializeToString()
    stream = read_call_request(message).arrow_stream
    assert bytes(stream) == b"x" * size
    assert isinstance(stream, memoryview) == (size > _LARGE_BYTES)
    if isinstance(stream, memoryview):
        assert stream.obj is message


@given(st.one_of(st.binary(max_size=300), st.integers(0, 70_000).map(bytes)), st.text(max_size=200))
def test_replies_read_back(stream: bytes, request_id: str) -> None:
    reply = pb.CallReply.FromString(write_call_reply(memoryview(stream), request_id))
    assert (reply.arrow_stream, reply.request_id, reply.HasField("status")) == (stream, request_id, False)


def test_error_replies_read_back() -> None:
    reply = pb.CallReply.FromString(write_error_reply(5, "no such thing", "r1"))
    assert (reply.status.code, reply.status.message, reply.request_id) == (5, "no such thing", "r1")
    assert reply.arrow_stream == b""


@pytest.mark.parametrize("message", [b"\x0a", b"\xff" * 30, b"\x0a\x05ab", b"\x0a\x01\xff"])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidArgument, match="CallRequest"):
        read_call_request(message)
