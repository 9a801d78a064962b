"""What a launcher asks a supervisor to run, and what a child gets to know: plain values that are pickled.

`Hosted` is the one thing control knows of the tiers: a service that runs in a child. Which class it is comes
in from above as a factory (`tiers.py` wires the real ones, tests wire stand-ins), so this room imports no tier.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from flightserve.config import FabricLimits, FrontendOptions
from flightserve.control.names import carrier_socket, supervisor_socket
from flightserve.control.sources import ModuleSource
from flightserve.core.lifecycle.placement import Want
from flightserve.core.lifecycle.reconciling import ReconcileLimits, Slot
from flightserve.types import Autoscale, DeploymentSpec
from flightserve.wire.table import RoutingTable, via

# What carriers prove that they know.
SECRET_BYTES: Final = 32
# `logging.INFO`: from which level on processes of the app log.
LOG_LEVEL: Final = 20


class Hosted(Protocol):
    """A tier's service inside a child. The factory returns it started and listening; methods may be called
    from any thread."""

    @property
    def endpoint(self) -> str:
        """The unix socket of the data plane it listens on (`fabric.transport.channels`); "" where it only
        connects."""
        ...

    @property
    def addresses(self) -> Mapping[str, str]:
        """By protocol, what clients connect to; empty except for frontends."""
        ...

    def apply_table(self, table: RoutingTable) -> None: ...
    def ready(self) -> bool:
        """True when it can do its part of a request."""
        ...

    def unfit(self) -> tuple[str, int]:
        """Why another should take its place, "" while none should, and by when (monotonic ns) what it runs then has
        ended. It takes nothing new any more."""
        ...

    def statistics(self) -> Mapping[str, float]: ...
    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what is there; False when the time was not enough."""
        ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one child is to be. `code` is the cloudpickled user class and its arguments, for replicas, and `sources`
    the modules it is in; `sys_path`, `cwd` and `environment` are those of the process that launched or deployed it.
    `environment` is None for what runs no user code: it keeps Ray's. `folder` is the app's private one, "" where it has
    none. `config` is the configuration that was taken last, as JSON, b"" where there is none.

    `home` is the supervisor's node. Where the app `spans` nodes, a child finds out for itself on which `node` it is, at
    what address of that (`host`), and where the app's folder is there (`control.placing`). `pinned` is the node
    that it is to be on, "" where Ray is to find one. With `loopback` frontends serve their own machine alone. Carriers
    have the app's `secret`, and the address (`entrance`) of the carrier of the supervisor's node."""

    app_id: str
    peer_id: int
    slot: Slot
    version: str
    node: str
    options: FrontendOptions
    fabric: FabricLimits
    spec: DeploymentSpec | None = None
    code: bytes = b""
    addresses: Mapping[str, str] = field(default_factory=dict)
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    sources: tuple[ModuleSource, ...] = ()
    environment: Mapping[str, str] | None = None
    folder: str = ""
    log_level: int = LOG_LEVEL
    config: bytes = b""
    home: str = ""
    spans: bool = False
    host: str = ""
    pinned: str = ""
    loopback: bool = False
    secret: bytes = b""
    entrance: str = ""

    @property
    def at_home(self) -> bool:
        """Whether it is on the supervisor's node."""
        return self.node == self.home

    @property
    def called(self) -> str:
        """What people know it by: on other nodes than the supervisor's, with the node."""
        return self.slot.name if self.at_home else f"{self.slot.name} on node {self.host} ({self.node[:8]})"

    @property
    def supervisor(self) -> str:
        """The endpoint of the supervisor, from here."""
        if self.at_home:
            return supervisor_socket(self.folder, self.app_id)
        return via(carrier_socket(self.folder, self.app_id), 0)


Factory = Callable[[Assignment], Hosted]


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """Durations of the control plane, in seconds. `nodes_wait_s`: how long what no node has room for may wait for
    another node."""

    heartbeat_s: float = 0.5
    metrics_s: float = 1.0
    orphan_timeout_s: float = 15.0
    adopt_s: float = 2.0
    placement_timeout_s: float = 8.0
    nodes_wait_s: float = 0.0
    spawn_timeout_s: float = 60.0
    ready_timeout_s: float = 600.0
    tier_drain_s: float = 3.0
    reconcile: ReconcileLimits = field(default_factory=ReconcileLimits)


@dataclass(frozen=True, slots=True)
class PlannedDeployment:
    """One version of a deployment with the code its replicas run and where that runs. `spec.options.replicas` is how
    many are wanted, `declared` how many the class asks for, or between what bounds their number follows the load."""

    spec: DeploymentSpec
    code: bytes
    declared: int | Autoscale = 1
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    sources: tuple[ModuleSource, ...] = ()
    environment: Mapping[str, str] | None = None

    def want(self) -> Want:
        """What one replica takes of Ray."""
        options = self.spec.options
        demand = {"CPU": options.num_cpus, "GPU": options.num_gpus, **options.resources}
        return Want(self.spec.name, {name: float(amount) for name, amount in demand.items() if amount}, options.labels)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an app starts with. `deployments` may change while it runs (`desired`), the rest does not. `factories` are
    by tier, cloudpickled: a child unpickles its own when `sys_path` is in place. `folder` is the app's private one; the
    launcher makes it, and says whether the host to listen on is `loopback`, and what is `insecure` there. The app
    `spans` the nodes of a Ray that is not its own; its carriers know each other by the `secret`."""

    app_id: str
    deployments: tuple[PlannedDeployment, ...]
    options: FrontendOptions
    factories: Mapping[str, bytes]
    routers: int = 1
    fabric: FabricLimits = field(default_factory=FabricLimits)
    limits: ControlLimits = field(default_factory=ControlLimits)
    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    folder: str = ""
    log_level: int = LOG_LEVEL
    spans: bool = False
    loopback: bool = False
    insecure: str = ""
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)
