"""What a launcher asks a supervisor to run, and what a child gets to know: plain values that are pickled.

`Hosted` is the one thing control knows of the tiers: a service that runs in a child. Which class it is comes
in from above as a factory (`app.py` wires the real ones, tests wire stand-ins), so this room imports no tier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flightserve.config import FabricLimits, FrontendOptions
from flightserve.core.reconciling import FRONTEND, REPLICA, ROUTER, ReconcileLimits, Slot
from flightserve.types import DeploymentSpec
from flightserve.wire.table import RoutingTable


class Hosted(Protocol):
    """A tier's service inside a child. The factory returns it started and listening; methods may be called
    from any thread."""

    @property
    def endpoint(self) -> str:
        """Name, without the leading NUL, of the abstract unix socket of the data plane it listens on; "" where
        it only connects out."""
        ...

    @property
    def addresses(self) -> Mapping[str, str]:
        """By protocol, what clients connect to; empty except for frontends."""
        ...

    def apply_table(self, table: RoutingTable) -> None: ...
    def ready(self) -> bool:
        """True when it can do its part of a request."""
        ...

    def statistics(self) -> Mapping[str, float]: ...
    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what is there; False when the time was not enough."""
        ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one child is to be. `code` is the cloudpickled user class and its arguments, for replicas."""

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


Factory = Callable[[Assignment], Hosted]


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """Durations of the control plane, in seconds."""

    heartbeat_s: float = 0.5
    metrics_s: float = 1.0
    orphan_timeout_s: float = 15.0
    adopt_s: float = 2.0
    placement_timeout_s: float = 8.0
    spawn_timeout_s: float = 60.0
    ready_timeout_s: float = 600.0
    tier_drain_s: float = 3.0
    reconcile: ReconcileLimits = field(default_factory=ReconcileLimits)


@dataclass(frozen=True, slots=True)
class PlannedDeployment:
    """A deployment with the code its replicas run."""

    spec: DeploymentSpec
    code: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a supervisor needs, also after a restart. `factories` are by tier, cloudpickled: a child unpickles
    its own when `sys_path` is in place."""

    app_id: str
    deployments: tuple[PlannedDeployment, ...]
    options: FrontendOptions
    factories: Mapping[str, bytes]
    routers: int = 1
    fabric: FabricLimits = field(default_factory=FabricLimits)
    limits: ControlLimits = field(default_factory=ControlLimits)
    sys_path: tuple[str, ...] = ()
    cwd: str = ""

    def wanted(self) -> dict[Slot, str]:
        """Every slot, with the version it is to run."""
        slots = {Slot(ROUTER, "", index): "1" for index in range(self.routers)}
        slots |= {Slot(FRONTEND, "", index): "1" for index in range(self.options.frontends)}
        for deployment in self.deployments:
            spec = deployment.spec
            slots |= {Slot(REPLICA, spec.name, index): spec.version for index in range(spec.options.replicas)}
        return slots

    def deployment(self, name: str) -> PlannedDeployment | None:
        """The deployment of that name, or None (routers and frontends have "")."""
        return next((planned for planned in self.deployments if planned.spec.name == name), None)

    def demand(self, slot: Slot) -> dict[str, float]:
        """Ray resources one child of the slot takes; routers and frontends take none."""
        planned = self.deployment(slot.deployment)
        if planned is None:
            return {}
        options: Any = planned.spec.options
        demand = {"CPU": options.num_cpus, "GPU": options.num_gpus, **options.resources}
        return {name: float(amount) for name, amount in demand.items() if amount}
