"""What travels between the supervisor and its children, the launcher, and commands (`flightserve status`, ...).

One unix socket, `@flightserve-<app id>-supervisor` in the app's private folder. Each message is a msgpack array
tagged with its type, behind its length (`wire.framing`). Both ends are our own processes of our own user, which
`SO_PEERCRED` says; the length is bounded all the same, so that a bug cannot become an allocation without end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from flightserve.config import EdgeLimits, FabricLimits
from flightserve.contracts.refreshing import Refreshed
from flightserve.core.lifecycle.reconciling import Slot
from flightserve.types import MetricFamily
from flightserve.wire.framing import MessageDecoder, pack_length
from flightserve.wire.table import RoutingTable

# The phases of an app that is ready or was: it is degraded only then, or where what is ready does not serve all.
SERVING: Final = ("ready", "degraded")
# Of what a child says that it does not do, and of how many.
NOTE_CHARACTERS_MAX: Final = 4096
NOTES_MAX: Final = 20
# Code and arguments of one app (`running.plan_deployments`).
APP_BYTES_MAX: Final = 256 << 20
# Of one configuration, as JSON.
CONFIG_BYTES_MAX: Final = 1 << 20
# A supervisor's state may hold an app's deployments twice while they are changed, and all that is small beside.
MESSAGE_BYTES_MAX: Final = 2 * APP_BYTES_MAX + (64 << 20)


class Announce(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A child's first message on every connection. `serving` is false while it still starts. `addresses` are
    a frontend's, by protocol. `table_version` is the newest routing table it holds."""

    peer_id: int
    slot: Slot
    version: str
    actor: str
    node: str
    pid: int
    endpoint: str = ""
    serving: bool = False
    addresses: dict[str, str] = {}
    table_version: int = 0


class Relayed(msgspec.Struct, array_like=True, frozen=True, tag=31):
    """A carrier's first message on a connection that it carries: what follows is said by process `pid` of another
    node."""

    node: str
    pid: int


class Report(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """A child's heartbeat. `ready`: it can do its part of a request. `statistics`: its counters and gauges.
    `table_version`: of the routing table that it acts by. `unfit`: why another should take its place, "" while none
    should; what it runs has ended in `left_ns` then. `note`: what it does not do though it is ready, for
    people. `ailing`: why its user's code says that it is not well, "" where that does not say so: another takes its
    place when it is told to make room (`MakeRoom`). `families`: what it measures."""

    ready: bool
    statistics: dict[str, float] = {}
    table_version: int = 0
    unfit: str = ""
    left_ns: int = 0
    note: str = ""
    ailing: str = ""
    families: tuple[MetricFamily, ...] = ()


class StartFailure(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A child could not start; Ray may end its process. `message` is for people, `detail` is a traceback."""

    message: str
    detail: str


class Publish(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Supervisor to child: the routing table, whole."""

    table: RoutingTable


class Leave(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Supervisor to child: drain for at most this long, then exit."""

    drain_timeout_s: float


class MakeRoom(msgspec.Struct, array_like=True, frozen=True, tag=21):
    """Supervisor to a replica that is ailing: it is its turn. It takes nothing new, and says so (`Report.unfit`)."""

    reason: str


class Become(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """Supervisor to standby: be this child from now on. Both are pickled: its `Assignment`, and the factory of its
    tier."""

    assignment: bytes
    factory: bytes


class Attach(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The launcher's first message: answer with a `View` on every change. `was_ready` and `addresses` (by
    frontend's name) tell a supervisor that came back what the one before it knew, and `kept` is what that one last
    sent in a `Keep` (b"": nothing)."""

    was_ready: bool = False
    addresses: dict[str, dict[str, str]] = {}
    kept: bytes = b""


class Shutdown(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Launcher to supervisor: drain everything for at most this long, and say when it is done."""

    drain_timeout_s: float


class Left(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """A child drained and stopped: Ray may end its process. (One that just exits is a crash to Ray, which
    says so in the launcher's log.)"""


class Lost(msgspec.Struct, array_like=True, frozen=True, tag=16):
    """A child cannot do its part any more, and why: the supervisor ends its process and starts another."""

    message: str


class Ask(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """`flightserve status` to supervisor: one `View`, please."""


class Scale(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """Command to supervisor: that many replicas of each of these deployments, or bounds between which their number
    follows the load. Answered by one `CommandResult` when they
    serve, or when they do not within `timeout_s` and all is as before. `id` is made up by whoever asks: the same
    one again, to a supervisor that came back, asks for the answer and not for another change."""

    id: str
    replicas: dict[str, int | tuple[int, int]]
    timeout_s: float


class Deploy(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """Command to supervisor: serve these deployments (a pickled tuple of `PlannedDeployment`) instead of those there
    are. `replicas` overrides their number by name; `in_place`: with the resources of those there are, not beside them.
    Otherwise as `Scale`."""

    id: str
    deployments: bytes
    replicas: dict[str, int]
    timeout_s: float
    in_place: bool = False


class Refresh(msgspec.Struct, array_like=True, frozen=True, tag=17):
    """From a frontend to the supervisor: have every replica of this deployment look at its tables' files, once;
    answered by one `RefreshAnswer`, or a `CommandResult` for an error. From the supervisor to a replica: look; answered
    by one `RefreshReport`."""

    id: str
    deployment: str
    timeout_s: float


class Reconfigure(msgspec.Struct, array_like=True, frozen=True, tag=30):
    """Command to supervisor: have every replica of this deployment take this configuration, JSON, once; answered by one
    `RefreshAnswer`, or a `CommandResult` for an error. From the supervisor to a replica: take it; answered by one
    `RefreshReport`."""

    id: str
    deployment: str
    config: bytes
    timeout_s: float


class RefreshReport(msgspec.Struct, array_like=True, frozen=True, tag=18):
    """Replica to supervisor: it has done what the `Refresh` or `Reconfigure` of that id says."""

    id: str
    said: Refreshed


class RefreshAnswer(msgspec.Struct, array_like=True, frozen=True, tag=19):
    """Supervisor to frontend: what each replica said."""

    id: str
    said: tuple[Refreshed, ...]


class Withdraw(msgspec.Struct, array_like=True, frozen=True, tag=20):
    """Command to supervisor: the change of that id is not wanted any more; one that has come to its switch goes on."""

    id: str


class Follow(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """A client's first message, on the same machine and of the same user: answer with a `Followed`, then with a
    `Publish` on every change."""


class Followed(msgspec.Struct, array_like=True, frozen=True, tag=23):
    """Supervisor to client: the bounds that the app's own processes have and its frontends take. `closed`: that is all,
    since its callers have to say to a frontend who they are."""

    fabric: FabricLimits
    edge: EdgeLimits
    closed: bool = False


class CommandResult(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """Supervisor to command: how the change ended. `kind` indexes `errors.KINDS`, -1 for success; `detail` is a
    traceback, where there is one."""

    id: str
    kind: int
    message: str
    detail: str = ""


class Keep(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Supervisor to launcher: what its successor has to know; comes back in `Attach`."""

    state: bytes


class DeploymentView(msgspec.Struct, frozen=True):
    """One version of a deployment, for people. `state`: served, coming or going. Counts are of replicas. Where their
    number follows the load, `bounds` says between what, and `why` why it is what it is; else both are ""."""

    name: str
    version: str
    state: str
    desired: int
    ready: int
    draining: int
    bounds: str = ""
    why: str = ""


class ChildView(msgspec.Struct, frozen=True):
    """One child, for people. `node` is Ray's id of the one that it is on. `families` are histograms of a frontend and
    a router, by deployment."""

    name: str
    tier: str
    deployment: str
    phase: str
    ready: bool
    pid: int
    peer_id: int
    restarts: int
    age_s: float
    version: str = ""
    addresses: dict[str, str] = {}
    statistics: dict[str, float] = {}
    node: str = ""
    families: tuple[MetricFamily, ...] = ()


class View(msgspec.Struct, frozen=True):
    """The whole app, for people. `phase`: starting, ready, degraded, draining, stopped or failed; `problem`
    says what is wrong, "" when nothing is; `detail` is the traceback where there is one. `change`: what is being
    changed and how far that is, "" when nothing is. `raylet_pid`:
    Ray's process that starts ours. `lost`: why what is missing never comes back, so that the app has to end.
    `insecure`: who else can come to it, or read what passes, "" where nobody can."""

    app_id: str
    phase: str
    problem: str
    detail: str
    supervisor_pid: int
    table_version: int
    addresses: dict[str, str]
    children: tuple[ChildView, ...]
    deployments: tuple[DeploymentView, ...] = ()
    change: str = ""
    raylet_pid: int = 0
    lost: str = ""
    supervisor_node: str = ""
    insecure: str = ""


class Noted(Protocol):
    """What may have a note, of a replica or another child."""

    note: str

    @property
    def slot(self) -> Slot: ...


def notes_of(children: Iterable[Noted]) -> tuple[str, ...]:
    """What they say they do not do though they are ready, by deployment; the same once."""
    return tuple(sorted({f"{child.slot.deployment}: {child.note}" for child in children if child.note}))[:NOTES_MAX]


_Arrays = (
    Announce
    | Report
    | StartFailure
    | Publish
    | Leave
    | Attach
    | Shutdown
    | Ask
    | Left
    | Scale
    | Deploy
    | CommandResult
    | Keep
    | Become
    | Lost
    | Refresh
    | RefreshReport
    | RefreshAnswer
    | Withdraw
    | MakeRoom
    | Reconfigure
    | Follow
    | Followed
    | Relayed
)
Message = _Arrays | View

_encoder = msgspec.msgpack.Encoder()


class _Tagged(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """`View` is a map for JSON's sake; unions cannot mix maps and arrays, so it travels wrapped."""

    view: View


_decoder: msgspec.msgpack.Decoder[_Arrays | _Tagged] = msgspec.msgpack.Decoder(_Arrays | _Tagged)


def encode(message: Message) -> bytes:
    """The message as it travels, length first."""
    body = _encoder.encode(_Tagged(message) if isinstance(message, View) else message)
    return pack_length(len(body)) + body


def _decode(body: bytes | bytearray) -> Message:
    message = _decoder.decode(body)
    return message.view if isinstance(message, _Tagged) else message


class Inbox(MessageDecoder[Message]):
    """Bytes in, messages out: fed in whatever pieces the socket gives."""

    def __init__(self) -> None:
        super().__init__(_decode, MESSAGE_BYTES_MAX, "control message")
