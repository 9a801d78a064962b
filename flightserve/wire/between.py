"""What carriers of two nodes say to each other over TCP. Pure.

A connection begins with a proof of both ends that they know the app's secret: a challenge each way, answered by its
HMAC (RFC 2104, with SHA-256). The role, both challenges and, where the connection is encrypted, the certificate that
was shown on it are in what is signed, so that no answer serves for another connection, or the other way. Then whoever
connected says what for: to carry frames of one process to another (`Relay`), messages of the control plane
(`Supervise`), or to pull rows (`Pull`).

Clocks of two nodes are never compared: deadlines travel as the time that is left.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from flightserve.clock import NEVER_NS
from flightserve.errors import ProtocolError
from flightserve.wire.frames import FRAME_BYTES_MAX, Done, Execute, Frame, Partway, Region, Results, Submit
from flightserve.wire.framing import UNREADABLE, MessageDecoder, pack_length

PROTOCOL_VERSION: Final = 2
CHALLENGE_BYTES: Final = 32
# Before a peer has proved who it is, nothing longer is taken.
GREETING_BYTES_MAX: Final = 512
# Rows of a region up to this many bytes travel in the message that names it: to ask for them costs a turn more.
INLINE_BYTES_MAX: Final = 64 << 10
# Of one message: its frames, with rows of several regions beside them.
CARRIED_BYTES_MAX: Final = 2 * FRAME_BYTES_MAX + (1 << 20)
_DIGEST: Final = "sha256"


class Challenge(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The first message each way. `node` is Ray's id of the sender's."""

    protocol: int
    node: str
    challenge: bytes


class Proof(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The answer to the other's challenge: first by who accepted, then by who connected."""

    digest: bytes


class Relay(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Carry the data plane's frames between process `pid` of the sender's node and a process of the receiver's. Both
    ways messages are `Carried` from here on."""

    peer_id: int
    pid: int


class Supervise(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Carry the control plane's messages between process `pid` of the sender's node and the supervisor. Both ways the
    bytes of those follow."""

    pid: int


class Pull(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Rows are asked for, one region after another (`Range`)."""


Greeting = Challenge | Proof | Relay | Supervise | Pull


class InlineRows(msgspec.Struct, array_like=True, frozen=True):
    """The bytes of a region, all of them."""

    region: Region
    data: bytes


class Carried(msgspec.Struct, array_like=True, frozen=True):
    """Frames, in their order, and rows of regions that they name. Rows that are not here are asked for by whoever has
    them not. `let_go` names segments, as (owner, segment), that a frame of the other side said were gone: all rows that
    were named in them before have been had."""

    frames: list[Frame]
    rows: list[InlineRows] = []
    let_go: list[tuple[int, int]] = []


_encoder = msgspec.msgpack.Encoder()
_decode_carried = msgspec.msgpack.Decoder(Carried).decode
_greetings: msgspec.msgpack.Decoder[Greeting] = msgspec.msgpack.Decoder(Greeting)

# A range that is asked for: owner, segment, offset, length. The answer is its length, 0 where it is not there any more,
# and its bytes.
RANGE: Final = struct.Struct("<QQQQ")
LENGTH: Final = struct.Struct("<Q")


def encode(message: Greeting | Carried) -> bytes:
    """The message as it travels, length first. Raises ProtocolError for one over the bound."""
    body = _encoder.encode(message)
    if len(body) > CARRIED_BYTES_MAX:
        raise ProtocolError(f"{type(message).__name__} of {len(body)} bytes; at most {CARRIED_BYTES_MAX} fit")
    return pack_length(len(body)) + body


def decode_greeting(body: bytes) -> Greeting:
    """Raises ProtocolError for bytes that are none."""
    try:
        return _greetings.decode(body)
    except UNREADABLE as error:
        raise ProtocolError(f"{len(body)} bytes that are no greeting: {error}") from error


class CarriedDecoder(MessageDecoder[Carried]):
    """Messages out of a byte stream cut anywhere. One per connection."""

    def __init__(self) -> None:
        super().__init__(_decode_carried, CARRIED_BYTES_MAX, "message between carriers")


def sign(secret: bytes, accepts: bool, asked: Challenge, asks: Challenge, bound: bytes) -> Proof:
    """The proof of one end: it `accepts`, or it connected. `asked` is the challenge that it was given, `asks` its own,
    and `bound` says on which encrypted connection, b"" on one that is not."""
    role = b"accepts" if accepts else b"connects"
    said = b"".join(_encoder.encode(part) for part in (role, asked, asks, bound))
    return Proof(hmac.digest(secret, said, _DIGEST))


def check(proof: Greeting, secret: bytes, accepts: bool, asked: Challenge, asks: Challenge, bound: bytes) -> None:
    """Raise ProtocolError unless the proof is that of the other end, which `accepts` or connected, was `asked` by us
    and `asks` itself, on the connection that it is `bound` to."""
    wanted = sign(secret, accepts, asked, asks, bound).digest
    if not isinstance(proof, Proof) or not hmac.compare_digest(proof.digest, wanted):
        between = ", or somebody stands between" if bound else ""
        raise ProtocolError(f"the peer does not know the app's secret{between}")


def leave_clock(frames: Iterable[Frame], now_ns: int) -> None:
    """Deadlines of the frames become the time that is left."""
    for frame in frames:
        if isinstance(frame, (Submit, Execute)):
            for part in frame.parts:
                if part.deadline_ns < NEVER_NS:
                    part.deadline_ns -= now_ns


def enter_clock(frames: Iterable[Frame], now_ns: int) -> None:
    """The time that is left becomes deadlines by the clock of this node."""
    for frame in frames:
        if isinstance(frame, (Submit, Execute)):
            for part in frame.parts:
                if part.deadline_ns < NEVER_NS:
                    part.deadline_ns += now_ns


def _of_done(frame: Done) -> list[Region]:
    named = [share.region for share in frame.shares]
    return named if frame.region is None else [frame.region, *named]


# Of which frames the receiver may read something, and what.
_NAMED: Final[dict[type, Callable[[Any], list[Region]]]] = {
    Submit: lambda frame: [frame.region],
    Execute: lambda frame: frame.regions,
    Results: lambda frame: [] if frame.region is None else [frame.region],
    Partway: lambda frame: [frame.region],
    Done: _of_done,
}


def regions_of(frame: Frame) -> list[Region]:
    """What the receiver of a frame may read from here on."""
    named = _NAMED.get(type(frame))
    return named(frame) if named is not None else []
