"""The control protocol: any split gives the same messages; what is oversize or garbage is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.control.messages import (
    MESSAGE_BYTES_MAX,
    Announce,
    Ask,
    Attach,
    Become,
    ChildView,
    Inbox,
    Leave,
    Left,
    Message,
    Publish,
    Report,
    Shutdown,
    StartFailure,
    View,
    encode,
)
from flightserve.core.lifecycle.reconciling import Slot
from flightserve.errors import ProtocolError
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire.table import Entry, Peer, RoutingTable

SPEC = DeploymentSpec("Pricing", "1", DeploymentOptions(), (MethodSpec("charge", input_schema=b"\x00schema"),))
TABLE = RoutingTable(
    9, (Peer(1, "router", "router-0", "\0flightserve-x", "node"),), (Entry(SPEC, 1, 2, 2),), metrics={"a": {"b": 1.0}}
)
CHILD = ChildView("router-0", "router", "", "serving", True, 12, 1, 0, 1.5)
MESSAGES: list[Message] = [
    Announce(1, Slot("replica", "Pricing", 0), "1", "actor", "node", 12, addresses={"http": "http://x"}),
    Report(True, {"requests": 3.0}),
    StartFailure("Pricing: ValueError: no", "Traceback"),
    Publish(TABLE),
    Leave(1.5),
    Become(b"assignment", b"\x00factory"),
    Attach(True, {"frontend-0": {"http": "http://127.0.0.1:8080"}}),
    Shutdown(20.0),
    Ask(),
    Left(),
    View("id", "ready", "", "", 12, 9, {"http": "http://x"}, (CHILD,)),
]


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.lists(st.integers(1, 64), min_size=1, max_size=20))
def test_any_split_gives_the_same_messages(messages: list[Message], sizes: list[int]) -> None:
    data = b"".join(encode(message) for message in messages)
    inbox = Inbox()
    received: list[Message] = []
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        received += inbox.feed(data[position : position + size])
        position += size
        turn += 1
    assert received == messages


def test_a_length_over_the_bound_is_refused_before_its_body_comes() -> None:
    with pytest.raises(ProtocolError, match=str(MESSAGE_BYTES_MAX + 1)):
        list(Inbox().feed(struct.pack("<I", MESSAGE_BYTES_MAX + 1)))
    assert list(Inbox().feed(struct.pack("<I", MESSAGE_BYTES_MAX))) == []


@given(st.binary(min_size=1, max_size=64))
def test_garbage_is_a_message_or_a_protocol_error(body: bytes) -> None:
    outcome: object
    try:
        outcome = len(list(Inbox().feed(struct.pack("<I", len(body)) + body)))
    except ProtocolError as error:
        outcome = error.message.partition(":")[0]
    assert outcome in (1, f"{len(body)} bytes that are no control message")
