"""The frames of the data plane and their codec: bytes in arbitrary pieces to frames, and back.

A frame is a msgpack array whose first element is the frame's tag, behind its length (`framing`). Several frames may
lie in one send.

Regions are named by where they lie, never by content: a frame that carries one grants its receiver a lease,
which a `Release` gives back. Row ranges select rows inside the region's one record batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from flightserve.errors import ProtocolError
from flightserve.wire.framing import MessageDecoder, pack_length

PROTOCOL_VERSION: Final = 1
# Both ends must agree on it, so that it is of the protocol and no option.
FRAME_BYTES_MAX: Final = 4 << 20


class Region(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A byte range of a segment that holds one Arrow IPC stream. `owner` is the id of the process that made
    the segment; `schema_id` a 64-bit digest of the stream's schema, equal only for requests that may be
    concatenated. `generation` grows with each region that the owner gives out: another node tells by it whether what it
    has of that range is this region, or one that was there before."""

    owner: int
    segment: int
    offset: int
    length: int
    schema_id: int = 0
    generation: int = 0


class Part(msgspec.Struct, array_like=True, gc=False):
    """One request of a `Submit`: rows [row_offset, row_offset + rows) of its region."""

    request_id: int
    row_offset: int
    rows: int
    deadline_ns: int
    priority: int = 0
    label: str = ""
    traceparent: str = ""
    key: str = ""
    caller: str = ""
    tracestate: str = ""


class Item(msgspec.Struct, array_like=True, gc=False):
    """One request's share of a result region. `last` is false while more of its rows follow."""

    request_id: int
    row_offset: int
    rows: int
    last: bool


class NextCall(msgspec.Struct, array_like=True, gc=False):
    """A call that follows the one before it, with what that gave. `deployment` is its `DeploymentSpec.key`.
    `schema_ids` are those of rows that the method takes as they are; where there is none, it takes any."""

    deployment: str
    method: str
    schema_ids: list[int] = []


class Hello(msgspec.Struct, array_like=True, tag=1):
    """First frame each way. `main` marks the connection that carries a process's heartbeats; the others are
    lanes. A replica's lane offers `credits` micro-batches at a time; a router's Hello offers the number of
    requests a connection may have in flight. A replica says in which `epoch` its deployment is, so that a router
    that does not own it knows whether it is behind, and of which `session` with this router a connection is: the
    main one begins it, and sessions of a process only grow. A lane that `is_async` is for `async def` methods only,
    which run in no other then."""

    protocol: int
    peer_id: int
    tier: str
    main: bool
    deployment: str = ""
    credits: int = 0
    pid: int = 0
    epoch: int = 0
    session: int = 0
    is_async: bool = False


class Reach(msgspec.Struct, array_like=True, tag=21):
    """A process's first frame to the carrier of its node: carry this connection to that process of another node. The
    supervisor is 0; messages of the control plane follow then, and frames otherwise."""

    peer_id: int


class OnBehalf(msgspec.Struct, array_like=True, tag=22):
    """A carrier's first frame to a router of its node: what follows is said by that process of another node."""

    node: str
    pid: int


class Vitals(msgspec.Struct, array_like=True, tag=23):
    """A carrier to a router, of a process of its node that leaves heartbeats unanswered: whether the kernel says that
    it is stopped, and the ticks of processor time that it has used."""

    stopped: bool
    ticks: int


class Segment(msgspec.Struct, array_like=True, tag=2):
    """Names the memfd that travels beside this frame (`SCM_RIGHTS`); sent once per connection, before use."""

    owner: int
    segment: int
    nbytes: int


class SegmentGone(msgspec.Struct, array_like=True, tag=3):
    """The owner made its last use of the segment; readers unmap it when their leases end."""

    owner: int
    segment: int


class Submit(msgspec.Struct, array_like=True, tag=4):
    """Frontend to router: requests whose rows lie in one region. `deployment` is its `DeploymentSpec.key`. `epoch` is
    that of the deployment's assignment to this router, as the sender's routing table has it: a router that does not
    own the deployment knows by it which of the two is behind. `released` are leases given back, as by a `Release`
    behind this frame: a frame of their own costs both sides more than what it says. The region may be another
    process's, where the sender's process was given it by this router and still reads it; `rows` then says how many rows
    it has in all. `then` are the calls that follow: the router makes them as far as it has their deployments
    (`Partway`). `stage` is the number of this call in its pipeline, from 1 on; 0 where it is in none."""

    deployment: str
    method: str
    region: Region
    parts: list[Part]
    epoch: int = 0
    released: list[tuple[int, int, int]] = []
    rows: int = 0
    then: list[NextCall] = []
    stage: int = 0


class Cancel(msgspec.Struct, array_like=True, tag=5):
    """Frontend to router: these requests are given up. Each still gets its one outcome."""

    request_ids: list[int]


class Results(msgspec.Struct, array_like=True, tag=6):
    """Router to frontend: rows of one result region, by request. `region` is None where a stream just ends. `released`
    as in `Submit`."""

    region: Region | None
    items: list[Item]
    released: list[tuple[int, int, int]] = []


class Partway(msgspec.Struct, array_like=True, tag=20):
    """Router to frontend: as `Results`, of requests with calls that follow. `ahead` of those, the last ones, were not
    made: for this router the requests are over, and who sent them goes on."""

    region: Region
    items: list[Item]
    ahead: int
    released: list[tuple[int, int, int]] = []


class Outcome(msgspec.Struct, array_like=True, tag=7):
    """Router to frontend: the request failed. `kind` indexes `errors.KINDS`; `retry_after_ms` is 0 where nobody can
    tell when another try may be worth it."""

    request_id: int
    kind: int
    message: str
    retry_after_ms: int = 0


class Moved(msgspec.Struct, array_like=True, tag=18):
    """Router to frontend: these requests were never given to a replica, and their deployment is another router's
    now. For this router they are over, without an outcome; ask the other one."""

    request_ids: list[int]


class Release(msgspec.Struct, array_like=True, tag=8):
    """Leases given back, as (owner, segment, offset), towards the owner. `lost` says that their holder was cut
    off and may still be reading: the owner must not write there again."""

    regions: list[tuple[int, int, int]]
    lost: bool = False


class Execute(msgspec.Struct, array_like=True, tag=9):
    """Router to replica: one micro-batch. Each part's `request_id` is the index of its region in `regions`. `released`
    as in `Submit`."""

    batch_id: int
    method: str
    regions: list[Region]
    parts: list[Part]
    released: list[tuple[int, int, int]] = []


class Share(msgspec.Struct, array_like=True, gc=False):
    """A result region that answers some parts of an Execute, given by their places there; their rows lie in it in that
    order: as many as each part brought, or `counts` of them. `offsets` says where each begins, where they do not just
    follow one another from the first row on."""

    region: Region
    rows: int
    parts: list[int]
    counts: list[int] = []
    offsets: list[int] = []


class PartFault(msgspec.Struct, array_like=True, gc=False):
    """Parts of an Execute, given by their places there, that failed while others of it did not. `kind` indexes
    `errors.KINDS`."""

    parts: list[int]
    kind: int
    message: str


class Done(msgspec.Struct, array_like=True, tag=10):
    """Replica to router: the micro-batch's rows, in the order of its parts. Without `last`, one part of a
    streamed reply. Where parts have unlike columns, some failed by themselves, or some did not run because their
    deadline had passed, `region` is None and `shares` and `faults` say who is answered by what. `kept` indexes the
    regions of the Execute that user code still holds: their leases come back later by `Release`, all others are given
    back by this frame when `last` is set. `busy_ns` is how long the method and the writing of its result took,
    `waited_ns` how long an `async def` method's event loop took to begin it. A
    region of another process, which was given to this one as an answer by this router, is a result as well; when the
    router has read of it, it says so by a `Release` to the lane, and until then this process keeps its own lease."""

    batch_id: int
    region: Region | None
    rows: int
    last: bool
    kept: list[int] = []
    busy_ns: int = 0
    shares: list[Share] = []
    faults: list[PartFault] = []
    waited_ns: int = 0


class Failed(msgspec.Struct, array_like=True, tag=11):
    """Replica to router: the micro-batch raised, or was refused at the door (`ran` is false)."""

    batch_id: int
    kind: int
    message: str
    ran: bool
    kept: list[int] = []


class Suspended(msgspec.Struct, array_like=True, tag=19):
    """Replica to router: this micro-batch waits for a call to another deployment, to the method `callee`, or for its
    turn to stream on, and its lane runs others meanwhile. It does not take up a credit any more, and is answered as
    any. With `keeps_credit` only the callee is told: whoever's deadline passes hears of it."""

    batch_id: int
    callee: str = ""
    keeps_credit: bool = False


class Abandon(msgspec.Struct, array_like=True, tag=12):
    """Router to replica: nobody waits for this running micro-batch any more."""

    batch_id: int


class PeerGone(msgspec.Struct, array_like=True, tag=13):
    """That process is gone: its leases are void and its segments may be unmapped."""

    peer_id: int


class Ping(msgspec.Struct, array_like=True, tag=14):
    """Heartbeat; answered at once by a Pong of the same number."""

    number: int


class Pong(msgspec.Struct, array_like=True, tag=15):
    """Answer to a heartbeat."""

    number: int


class Taken(msgspec.Struct, array_like=True, tag=17):
    """The reader of a streamed reply took `parts` more of it. From a frontend `id` is the request's, to a
    replica the micro-batch's. Not the same as a Release: a reader may keep what it took."""

    id: int
    parts: int


class TablesRead(msgspec.Struct, array_like=True, tag=24):
    """The tables that a statement turned out to read, for the audit log. From a replica `ids` is the micro-batch's, to
    a frontend those of its requests."""

    ids: list[int]
    tables: list[str]


class Goodbye(msgspec.Struct, array_like=True, tag=16):
    """From a replica, on a lane: it drains, takes nothing new, and finishes what it has. From a router, on a lane:
    nothing is left to do here. The replica drains, and has answered all; or its deployment is another router's."""


Frame = (
    Hello
    | Segment
    | SegmentGone
    | Submit
    | Cancel
    | Results
    | Outcome
    | Release
    | Execute
    | Done
    | Failed
    | Abandon
    | PeerGone
    | Ping
    | Pong
    | Goodbye
    | Taken
    | Moved
    | Suspended
    | Partway
    | Reach
    | OnBehalf
    | Vitals
    | TablesRead
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def encode(frames: Sequence[Frame], frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The frames as bytes, one after another. Raises ProtocolError for one over the bound."""
    if len(frames) == 1:
        # What a small call's sends are; more than the bound is refused below.
        body = _encode(frames[0])
        length = len(body)
        if length <= frame_bytes_max:
            return pack_length(length) + body
    out: list[bytes] = []
    for frame in frames:
        body = _encode(frame)
        length = len(body)
        if length > frame_bytes_max:
            raise ProtocolError(f"{type(frame).__name__} frame of {length} bytes; at most {frame_bytes_max} fit")
        out += (pack_length(length), body)
    return b"".join(out)


class FrameDecoder(MessageDecoder[Frame]):
    """Frames out of a byte stream cut anywhere. One per connection."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        super().__init__(_decode, frame_bytes_max, "frame")


def check_region(region: Region, segment_bytes: int) -> None:
    """Raise ProtocolError unless the region lies inside a segment of that size."""
    if region.offset < 0 or region.length <= 0 or region.offset + region.length > segment_bytes:
        raise ProtocolError(
            f"region [{region.offset}, +{region.length}) of segment {region.segment} is outside its "
            f"{segment_bytes} bytes"
        )
