"""Envelopes and headers of ZeroMQ messages, without a socket."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument, ResourceExhausted, TooLarge
from flightserve.frontends.replies import MESSAGE_BYTES_MAX
from flightserve.frontends.zmq.messages import error_header, metadata_of, name_of, ok_header, read_fields, split

LIMITS = EdgeLimits(header_bytes_max=1000, header_count_max=5, body_bytes_max=100)


@pytest.mark.parametrize(
    ("parts", "envelope", "content"),
    [
        ([b"id", b"h", b"b"], 1, 2),  # DEALER
        ([b"id", b"", b"h", b"b"], 2, 2),  # REQ
        ([b"id", b"h", b""], 1, 2),  # an empty body is no delimiter
        ([b"id", b"", b"h", b""], 2, 2),
        ([b"id", b"id2", b"", b"h", b"b"], 3, 2),  # through a device
        ([b"id"], 1, 0),
        ([b"id", b""], 2, 0),
        ([b"id", b"h"], 1, 1),
        ([b"id", b"", b"h"], 2, 1),
        ([b"id", b"", b"h", b"b", b"x"], 2, 3),
        ([b"id", b"h", b"b", b"x"], 1, 3),
    ],
)
def test_envelopes(parts: list[bytes], envelope: int, content: int) -> None:
    message = split(parts)
    assert (len(message.envelope), len(message.parts)) == (envelope, content)
    assert [*message.envelope, *message.parts] == parts


@given(st.lists(st.binary(max_size=2), min_size=1, max_size=40))
def test_every_message_has_an_envelope_that_begins_with_the_peer(parts: list[bytes]) -> None:
    message = split(parts)
    assert [*message.envelope, *message.parts] == parts
    assert message.envelope
    assert len(message.envelope) <= 16


@given(st.binary(max_size=60))
def test_any_header_is_read_or_refused(header: bytes) -> None:
    try:
        expected = orjson.loads(header)
    except orjson.JSONDecodeError:
        expected = None
    if isinstance(expected, dict) and len(expected) <= LIMITS.header_count_max:
        assert read_fields([header, b""], LIMITS) == expected
    else:
        with pytest.raises((InvalidArgument, ResourceExhausted)):
            read_fields([header, b""], LIMITS)


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"1", b"null", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"[" * 900])
def test_what_is_no_json_object(header: bytes) -> None:
    with pytest.raises(InvalidArgument, match="header"):
        read_fields([header, b""], LIMITS)


def test_limits_at_and_past_them() -> None:
    at = b'{"a": "' + b"x" * (1000 - 9) + b'"}'
    assert read_fields([at, b"y" * 100], LIMITS)
    with pytest.raises(ResourceExhausted, match="1001"):
        read_fields([at + b" ", b""], LIMITS)
    with pytest.raises(TooLarge, match="101"):
        read_fields([b"{}", b"y" * 101], LIMITS)
    assert read_fields([orjson.dumps({str(n): n for n in range(5)}), b""], LIMITS)
    with pytest.raises(ResourceExhausted, match="5 fields"):
        read_fields([orjson.dumps({str(n): n for n in range(6)}), b""], LIMITS)


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_other_than_two_parts(count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"has {count}"):
        read_fields([b"{}"] * count, LIMITS)


def test_metadata_may_be_text_or_whole_numbers() -> None:
    get = metadata_of({"a": "x", "b": 5, "c": None, "d": 1.5, "e": True, "f": ["x"]})
    assert [get(key) for key in ("a", "b", "c", "absent")] == ["x", "5", None, None]
    for key in ("d", "e", "f"):
        with pytest.raises(InvalidArgument, match=key):
            get(key)


def test_names_are_required_and_text() -> None:
    assert name_of({"method": "m"}, "method") == "m"
    for value in (None, 5, ["m"], {}):
        with pytest.raises(InvalidArgument, match="method"):
            name_of({"method": value}, "method")


def test_reply_headers() -> None:
    assert orjson.loads(ok_header("r")) == {"request_id": "r", "code": "OK"}
    told = orjson.loads(error_header(TooLarge("x" * 5000 + "\ud800"), "r"))
    assert (told["code"], told["request_id"]) == ("RESOURCE_EXHAUSTED", "r")
    assert len(told["message"]) == MESSAGE_BYTES_MAX
    assert orjson.loads(error_header(InvalidArgument("\ud800"), "r"))["message"] == "?"
    cut = orjson.loads(error_header(InvalidArgument("é" * 5000), "r"))["message"]
    assert MESSAGE_BYTES_MAX - 10 < len(cut.encode()) <= MESSAGE_BYTES_MAX
    assert cut.endswith("é...")
