"""What carriers say to each other: proofs that hold for one connection, deadlines that leave their clock, regions."""

from __future__ import annotations

import re
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.clock import NEVER_NS
from flightserve.errors import ProtocolError
from flightserve.wire import between, frames
from flightserve.wire.between import (
    CARRIED_BYTES_MAX,
    Carried,
    CarriedDecoder,
    Challenge,
    InlineRows,
    Proof,
    check,
    decode_greeting,
    encode,
    enter_clock,
    leave_clock,
    regions_of,
    sign,
)
from flightserve.wire.frames import Done, Execute, Part, Ping, Region, Results, Share, Submit

HERE, THERE = Challenge(2, "a", b"1" * 32), Challenge(2, "b", b"2" * 32)
REGION = Region(1, 2, 64, 128, 5, 9)
BOUND = b"3" * 32


@pytest.mark.parametrize("bound", [b"", BOUND])
def test_a_proof_is_checked_by_who_asked(bound: bytes) -> None:
    check(sign(b"secret", True, HERE, THERE, bound), b"secret", True, HERE, THERE, bound)


def test_a_proof_of_another_connection_is_none() -> None:
    """Who stands between two connections passes it on."""
    for bound in (b"", b"4" * 32):
        with pytest.raises(ProtocolError, match="secret, or somebody stands between"):
            check(sign(b"secret", True, HERE, THERE, bound), b"secret", True, HERE, THERE, BOUND)
    with pytest.raises(ProtocolError, match=r"secret$"):
        check(sign(b"secret", True, HERE, THERE, BOUND), b"secret", True, HERE, THERE, b"")


@pytest.mark.parametrize(
    "proof",
    [
        sign(b"another", True, HERE, THERE, b""),
        sign(b"secret", False, HERE, THERE, b""),
        sign(b"secret", True, THERE, HERE, b""),
        sign(b"secret", True, HERE, HERE, b""),
        sign(b"secret", True, HERE, Challenge(2, "c", b"2" * 32), b""),
        Proof(b""),
        HERE,
    ],
)
def test_a_proof_of_anything_else_is_none(proof: Proof | Challenge) -> None:
    with pytest.raises(ProtocolError, match="secret"):
        check(proof, b"secret", True, HERE, THERE, b"")


@given(st.integers(0, 2**62), st.integers(-(2**40), 2**40), st.integers(0, 2**50))
def test_deadlines_cross_clocks_that_differ(deadline_ns: int, ahead_ns: int, now_ns: int) -> None:
    frames = [Submit("d", "m", REGION, [Part(1, 0, 1, deadline_ns), Part(2, 0, 1, NEVER_NS)]), Ping(3)]
    leave_clock(frames, now_ns)
    enter_clock(frames, now_ns + ahead_ns)
    assert frames[0].parts[0].deadline_ns == deadline_ns + ahead_ns  # type: ignore[union-attr]
    assert frames[0].parts[1].deadline_ns == NEVER_NS  # type: ignore[union-attr]


def test_regions_of_frames_that_have_some() -> None:
    other = Region(3, 2, 0, 1)
    assert regions_of(Execute(1, "m", [REGION, other], [])) == [REGION, other]
    assert regions_of(Results(REGION, [])) == [REGION]
    assert regions_of(Results(None, [])) == []
    assert regions_of(Done(1, None, 0, True, shares=[Share(REGION, 1, [0]), Share(other, 1, [1])])) == [REGION, other]
    assert regions_of(Ping(1)) == []


@given(st.lists(st.integers(1, 60), max_size=10))
def test_messages_survive_any_cut(cuts: list[int]) -> None:
    sent = [Carried([Ping(1)]), Carried([Results(REGION, [])], [InlineRows(REGION, b"x" * 128)], [(1, 2)])]
    data = b"".join(encode(message) for message in sent)
    decoder, got = CarriedDecoder(), []
    for size in cuts:
        got += decoder.feed(data[:size])
        data = data[size:]
    assert got + decoder.feed(data) == sent


def test_what_is_too_long_or_no_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        encode(Carried([], [InlineRows(REGION, bytes(CARRIED_BYTES_MAX))]))
    with pytest.raises(ProtocolError, match="announced"):
        CarriedDecoder().feed(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="no message"):
        CarriedDecoder().feed(b"\x01\0\0\0x")
    with pytest.raises(ProtocolError, match="no greeting"):
        decode_greeting(b"GET / HTTP/1.1")


def test_a_text_that_is_not_utf_8_is_refused_as_all_else_that_is_no_message() -> None:
    submit = Submit("Probe", "identity", REGION, [])
    with pytest.raises(ProtocolError, match="no greeting"):
        decode_greeting(encode(Challenge(1, "node", bytes(32)))[4:].replace(b"node", b"n\xffde"))
    with pytest.raises(ProtocolError, match="no message"):
        CarriedDecoder().feed(encode(Carried([submit])).replace(b"Probe", b"Pr\xffbe"))


def test_no_frame_that_names_regions_is_forgotten() -> None:
    """Whose rows would not be there when the frame is."""
    naming = {
        kind
        for kind in typing.get_args(frames.Frame)
        if any(re.search(r"\b(Region|Share)\b", str(hint)) for hint in typing.get_type_hints(kind).values())
    }
    assert naming == between._NAMED.keys()
