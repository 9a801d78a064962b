"""What goes into the routing machine and what comes out: plain values, ids and counts only.

The shell (`router/`) maps ids to connections, regions and futures; nothing here knows they exist.
One `Dispatch` or `Finished` stands for a whole micro-batch, so their cost is shared by its requests. They are
`msgspec.Struct`s because those are made in a half to a quarter of a dataclass's time.
"""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, eq=False):
    """One admitted request as the machine sees it.

    `id` is the shell's and unique. `group` says what may share a micro-batch: (method, schema id).
    `sliceable` requests (row-aligned, or delimited and small) may be cut and merged; others run alone and whole. A
    request whose method is not `idempotent` is never dispatched twice. Requests of a group that `gathers` cost little
    more together than one of them: they wait for each other while some of them run (`core.routing.gathering`). Those of
    `async def` methods (`is_async`) run in lanes of their kind, where there are such (`core.routing.credits`), at most
    `max_concurrent` micro-batches of a method in one lane (0: as many as it offers). One that `grows` takes less time
    for many rows at once than for one after another (`core.routing.side_by_side`). One that runs `apart` shares no
    micro-batch: its rows would be copied for that (`core.routing.batching`). Calls that follow take `ahead_ns` of its
    time; it expires by its deadline all the same.
    """

    id: int
    group: tuple[str, int]
    rows: int
    nbytes: int
    deadline_ns: int
    priority: int
    arrived_ns: int
    sliceable: bool
    idempotent: bool
    gathers: bool = False
    is_async: bool = False
    max_concurrent: int = 0
    grows: bool = True
    ahead_ns: int = 0
    apart: bool = False


class Piece(msgspec.Struct):
    """Rows [row_offset, row_offset + rows) of one request."""

    request: Request
    row_offset: int
    rows: int


# ---- events


class Arrived(msgspec.Struct):
    """Requests that came together, in order."""

    requests: list[Request]


class RequestsCancelled(msgspec.Struct):
    """The caller gave these up."""

    request_ids: list[int]


class ReplicaUp(msgspec.Struct):
    """A replica's lane offers `credits` micro-batches at a time (running plus prefetched). `process` is what it shares
    with the replica's other lanes; they are slow, pause and die together. One that `is_async` takes requests that are,
    and no others, and runs its micro-batches side by side. `paused`: its process is. `node` is where it is, "" the
    router's own."""

    replica_id: int
    credits: int
    process: int = 0
    is_async: bool = False
    paused: bool = False
    node: str = ""


class ReplicaDown(msgspec.Struct):
    """A replica's process is gone, or is ejected because it was `silent`; nothing it says later counts. `lanes` are all
    that it has here, because they die at once. Or lanes that had drained were let go."""

    lanes: list[int]
    reason: str
    silent: bool = False


class ReplicaPaused(msgspec.Struct):
    """Give this process no new micro-batches until it has resumed, because it leaves heartbeats unanswered. What it has
    may finish, and nothing that is known of it is forgotten."""

    process: int


class ReplicaResumed(msgspec.Struct):
    """The process that was paused answers again."""

    process: int


class ReplicaDraining(msgspec.Struct):
    """Give this lane no new micro-batches, as its replica ends; what it has may finish."""

    replica_id: int


class Finished(msgspec.Struct):
    """A micro-batch ran to its end, in `busy_ns` by the replica's clock (0: it did not say), `waited_ns` after it came
    there. `faults` are the kinds and
    messages of those of its members that failed by themselves, by their places in it. `nbytes` are those of its result,
    where that came from another node."""

    replica_id: int
    batch_id: int
    busy_ns: int = 0
    faults: dict[int, tuple[int, str]] = {}
    waited_ns: int = 0
    nbytes: int = 0


class Streamed(msgspec.Struct):
    """First part of a streamed reply went out: the request can no longer be run again. `holds_lane`: nothing else runs
    in its lane until the stream's reader has had enough, so nothing is prefetched behind it."""

    replica_id: int
    batch_id: int
    holds_lane: bool = False


class BatchSuspended(msgspec.Struct):
    """A micro-batch waits for another deployment, or streams and lets others have their turn, and its lane runs those
    meanwhile: its credit is free again, and it ends as any."""

    replica_id: int
    batch_id: int


class BatchFailed(msgspec.Struct):
    """A micro-batch raised. `kind` indexes `errors.KINDS`. `ran` is false when the replica refused it at the
    door (expired, undecodable), so that running it elsewhere is safe for every method. With the kind of UNAVAILABLE the
    replica only had no place for it (it waited behind a stream), and it runs elsewhere as if nothing had been."""

    replica_id: int
    batch_id: int
    kind: int
    message: str
    ran: bool = True


class HandOver(msgspec.Struct):
    """The deployment is another router's now: give back what has not begun here. What has begun ends here. May come
    again, for what came back to the queue since."""


class Tick(msgspec.Struct):
    """Time passed: expire, end lingering."""


Event = (
    Arrived
    | RequestsCancelled
    | ReplicaUp
    | ReplicaDown
    | ReplicaPaused
    | ReplicaResumed
    | ReplicaDraining
    | Finished
    | Streamed
    | BatchSuspended
    | BatchFailed
    | HandOver
    | Tick
)


# ---- effects


class Dispatch(msgspec.Struct):
    """Send this micro-batch to the replica. All pieces are of one group."""

    replica_id: int
    batch_id: int
    group: tuple[str, int]
    pieces: list[Piece]


class Completed(msgspec.Struct):
    """These requests have every row answered (in the order of the micro-batch that finished last)."""

    requests: list[Request]


class Refused(msgspec.Struct):
    """The request's one outcome is an error; the shell answers it and forgets it. `retry_after_ms` is when it may be
    worth another try, 0 where nobody can tell."""

    request: Request
    kind: int
    message: str
    retry_after_ms: int = 0


class HandBack(msgspec.Struct):
    """These requests wait, no row of theirs is answered or running, and they are not this machine's any more: they
    get their outcome elsewhere."""

    requests: list[Request]


class AbandonBatch(msgspec.Struct):
    """No request of this running micro-batch wants its result any more: tell the replica's context."""

    replica_id: int
    batch_id: int


class Ejected(msgspec.Struct):
    """The process is slower than the others by `factor` and gets nothing until then. For the log."""

    process: int
    factor: float
    until_ns: int


class Readmitted(msgspec.Struct):
    """The process is as fast as the others again, or they left. For the log."""

    process: int


Effect = Dispatch | Completed | Refused | HandBack | AbandonBatch | Ejected | Readmitted
