"""Stand-ins for the tiers: services that only listen, so that the control plane is tested by itself.

The replica constructs the user's class like the real one; `READY` counters come back as statistics.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from flightserve.config import FrontendOptions
from flightserve.control.names import new_app_id
from flightserve.control.pickling import dumps, loads
from flightserve.control.plan import Assignment, ControlLimits, Plan, PlannedDeployment
from flightserve.types import DeploymentOptions, DeploymentSpec
from flightserve.wire.table import RoutingTable


class Standin:
    """Holds the newest table; ready as soon as a router owns its deployment."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._table = RoutingTable(version=0)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.endpoint = f"flightserve-{assignment.app_id}-{assignment.peer_id}"
        self._sock.bind("\0" + self.endpoint)
        self._sock.listen()
        self.addresses: Mapping[str, str] = {}

    def apply_table(self, table: RoutingTable) -> None:
        self._table = table

    def ready(self) -> bool:
        return all(entry.router_id for entry in self._table.deployments) and self._table.version > 0

    def unfit(self) -> tuple[str, int]:
        return "", 0

    def statistics(self) -> dict[str, float]:
        return {"peers": float(len(self._table.peers))}

    def drain(self, timeout_s: float) -> bool:
        return True

    def stop(self) -> None:
        self._sock.close()


class StandinReplica(Standin):
    """Constructs the user's class, as the real one does."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment)
        target, args = loads(assignment.code)
        self.target = target(*args)


class StandinFrontend(Standin):
    """Listens on the port it is given, and accepts and closes."""

    def __init__(self, assignment: Assignment) -> None:
        super().__init__(assignment)
        before = assignment.addresses.get("http")
        port = int(before.rpartition(":")[2]) if before else assignment.options.http_port or 0
        self._listener = socket.create_server((assignment.options.host, port))
        self.addresses = {"http": f"http://127.0.0.1:{self._listener.getsockname()[1]}"}
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.sendall(b"hello")
            connection.close()


FACTORIES: dict[str, Callable[[Assignment], Standin]] = {
    "router": Standin,
    "replica": StandinReplica,
    "frontend": StandinFrontend,
    "standby": Standin,
}


class Echo:
    """A user's class that constructs."""


class Broken:
    """A user's class that does not."""

    def __init__(self) -> None:
        raise ValueError("the model file is missing")


def plan(
    *deployments: DeploymentSpec,
    code: object = (Echo, ()),
    limits: ControlLimits | None = None,
    options: FrontendOptions | None = None,
    sys_path: Sequence[str] = (),
    routers: int = 1,
) -> Plan:
    """A plan over the stand-ins. Without deployments: one, "Echo", with two replicas."""
    specs = deployments or (spec("Echo", replicas=2),)
    return Plan(
        app_id=new_app_id(),
        deployments=tuple(
            PlannedDeployment(each, dumps(code), each.options.replicas, tuple(sys_path)) for each in specs
        ),
        options=options or FrontendOptions(http_port=0),
        factories={tier: dumps(factory) for tier, factory in FACTORIES.items()},
        routers=routers,
        limits=limits or ControlLimits(),
        sys_path=tuple(sys_path),
    )


def spec(name: str, **options: object) -> DeploymentSpec:
    """A deployment without methods."""
    return DeploymentSpec(name, "1", DeploymentOptions(**options), ())  # type: ignore[arg-type]
