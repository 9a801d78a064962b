"""The composition root of the children: which objects make a router, a replica, a frontend.

It is the only place where they meet; each factory imports its own tier when it runs, so that a process loads only
what it is.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.contracts.access import OPEN, Access
from flightserve.core.lifecycle.reconciling import CARRIER, FRONTEND

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from flightserve.control.folder import Folder
    from flightserve.control.plan import Assignment, Factory
    from flightserve.declare import Bound
    from flightserve.tracing.sending import Traces
    from flightserve.tracing.spans import Tracer
    from flightserve.wire.table import RoutingTable


APPLY_TIMEOUT_S: Final = 5.0
# Of those that a result names.
LOCATIONS_MAX: Final = 64
# Hosts that are all addresses of a node.
EVERYWHERE: Final = ("0.0.0.0", "::")


class Tracing:
    """The traces of a child, where the app has some. To be stopped last: what ends has spans."""

    def __init__(self, assignment: Assignment) -> None:
        options, slot = assignment.options, assignment.slot
        self._traces: Traces | None = None
        self.tracer: Tracer | None = None
        if not options.otlp:
            return
        from flightserve.tracing.sending import Traces

        about = {
            "service.name": "flightserve",
            "service.instance.id": f"{assignment.app_id}/{slot.name}",
            "flightserve.app": assignment.app_id,
            "flightserve.tier": slot.tier,
            "flightserve.process": slot.name,
            "flightserve.node": assignment.node,
            **({"flightserve.deployment": slot.deployment} if slot.deployment else {}),
        }
        self._traces = Traces(options.otlp, options.trace_sample, about)
        self.tracer = self._traces.tracer

    def counted(self, statistics: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
        """These, and what became of the spans."""
        tracer = self.tracer
        return statistics if tracer is None else lambda: {**statistics(), **tracer.statistics()}

    def stop(self) -> None:
        """Send what there is."""
        if self._traces is not None:
            self._traces.stop()


class RouterHosted:
    """A router in its child."""

    addresses: Mapping[str, str] = {}

    def __init__(self, assignment: Assignment) -> None:
        from flightserve.fabric.transport import descriptors
        from flightserve.router.queue_spans import QueueSpans
        from flightserve.router.service import RouterService

        descriptors.use_all()
        self._folder = _folder_of(assignment)
        self.endpoint = _endpoint(assignment)
        self._tracing = Tracing(assignment)
        tracer = self._tracing.tracer
        spans = None if tracer is None else QueueSpans(tracer.sample, tracer.record)
        self._service = RouterService(assignment.peer_id, self.endpoint, assignment.fabric, spans=spans)
        self._service.start()
        self.statistics = self._tracing.counted(self._service.statistics)
        self.families = self._service.families
        self.drain = self._service.drain

    def stop(self) -> None:
        """The service, then its traces."""
        self._service.stop()
        self._tracing.stop()

    def apply_table(self, table: RoutingTable) -> None:
        """Waits for the loop: reports are to name the table that is in force, not one that lies in its mailbox."""
        in_force = threading.Event()
        self._service.apply_table(table)
        self._service.post(in_force.set)
        in_force.wait(APPLY_TIMEOUT_S)

    def unfit(self) -> tuple[str, int]:
        """Never: where it cannot go on it ends."""
        return "", 0

    def ready(self) -> bool:
        """A router that listens can do its part."""
        return True


class ReplicaHosted:
    """A replica in its child: constructs the user's class, on the process's main thread."""

    addresses: Mapping[str, str] = {}
    endpoint = ""

    def __init__(self, assignment: Assignment) -> None:
        from flightserve.control.names import new_peer_id
        from flightserve.control.pickling import loads
        from flightserve.replica.forks import end_with_this_process
        from flightserve.replica.hooks import begin_exit_functions, run_exit_functions
        from flightserve.replica.onward import Onward
        from flightserve.replica.run_spans import RunSpans
        from flightserve.replica.service import ReplicaService

        end_with_this_process()
        begin_exit_functions()
        bound: Bound[Any] = loads(assignment.code)
        assert assignment.spec is not None
        # As many as there are to be now, which the app's author may not have said, or as there may be.
        settings = assignment.spec.options
        bound = bound.options(replicas=settings.autoscale.high if settings.autoscale else settings.replicas)
        callees = bound.callees()
        # A warehouse judges statements, whoever calls others what it calls.
        self._access = open_access(assignment) if callees or hasattr(bound.cls, "flightserve_hosted") else OPEN
        onward = Onward(new_peer_id(), assignment.fabric, callees, self._access) if callees else None
        target = bound.make(onward.remote if onward is not None else None)
        self._tracing = Tracing(assignment)
        tracer = self._tracing.tracer
        spans = None if tracer is None else RunSpans(assignment.spec.name, tracer.sample, tracer.record)
        self._service = ReplicaService(
            assignment.peer_id, assignment.spec, target, assignment.fabric, onward=onward, own_process=True,
            spans=spans, access=self._access,
        )  # fmt: skip
        self._service.start(assignment.config)
        self.apply_table = self._service.apply_table
        self.reconfigure = self._service.reconfigure
        self.statistics = self._tracing.counted(self._service.statistics)
        self.drain = self._service.drain
        self.ready = self._service.ready
        self.unfit = self._service.unfit
        self.ailing = self._service.ailing
        self.families = self._service.families
        self.retire = self._service.retire
        # Of the class: an object may answer to any name.
        if hasattr(type(target), "flightserve_refresh"):
            self.flightserve_refresh = target.flightserve_refresh
        if hasattr(type(target), "flightserve_note"):
            self.note = target.flightserve_note
        self._exit = run_exit_functions

    def stop(self) -> None:
        """The service with the user's object, then what the user's code registered for the end of its process."""
        self._service.stop()
        self._access.stop()
        self._tracing.stop()
        self._exit()


class FrontendHosted:
    """All frontends of one child, over one client of the data plane."""

    endpoint = ""

    def __init__(self, assignment: Assignment) -> None:
        from flightserve.caller.client import RouterClient
        from flightserve.contracts.own_app import OwnApp
        from flightserve.control.observer import status_of
        from flightserve.control.refreshing import ask_refresh
        from flightserve.fabric.transport import descriptors
        from flightserve.frontends import edge
        from flightserve.frontends.host import FrontendHost, leave_pandas_out
        from flightserve.frontends.spans import FrontendSpans
        from flightserve.loops import Every
        from flightserve.metrics import Metrics

        def start(loop: AbstractEventLoop) -> None:
            self._client.start(loop)
            self._looking = Every(loop, descriptors.LOOK_S, descriptors.look, "looking at file descriptors")

        leave_pandas_out()
        descriptors.use_all()
        self._assignment = assignment
        self._client = RouterClient(assignment.peer_id, assignment.fabric, assignment.options.limits)
        self._metrics = Metrics()
        self._access = open_access(assignment)
        self._tracing = Tracing(assignment)
        if (tracer := self._tracing.tracer) is not None:
            edge.trace_by(tracer.sample)
            self._metrics.spans = FrontendSpans(tracer.record)
        self._host = FrontendHost(
            self._client,
            frontend_options(assignment),
            self._metrics,
            on_loop=start,
            refresh=functools.partial(ask_refresh, assignment.supervisor),
            shared=assignment.options.shared,
            access=self._access,
            own_app=OwnApp(assignment.slot.name, functools.partial(status_of, assignment.supervisor)),
        )
        self.families = self._metrics.families
        listening, reached = self._host.start(), reached_at(assignment)
        self.addresses: Mapping[str, str] = {each: reached(address) for each, address in listening.items()}

    def apply_table(self, table: RoutingTable) -> None:
        """The client, `/metrics` and what Flight says of results follow the table."""
        self._client.apply_table(table)
        if self._assignment.options.flight_locations:
            own = self.addresses.get("flight", "")
            self._host.set_flight_locations(flight_locations(table, self._assignment, own))
        self._metrics.set_tiers(table.metrics, table.measured, {peer.name: peer.node for peer in table.peers})

    def unfit(self) -> tuple[str, int]:
        """Never: where it cannot go on it ends."""
        return "", 0

    def ready(self) -> bool:
        """Every deployment answers."""
        return self._client.ready()

    def statistics(self) -> dict[str, float]:
        """The client's counts."""
        return self._tracing.counted(self._counts)()

    def _counts(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._client.statistics().items() if _is_number(value)}

    def drain(self, timeout_s: float) -> bool:
        """The frontends first: what they accepted is in flight in the client."""
        return self._host.drain(timeout_s)

    def stop(self) -> None:
        """Frontends, then the client that they use."""
        self._looking.cancel()
        self._client.stop()
        self._host.stop()
        self._access.stop()
        self._tracing.stop()


class StandbyHosted:
    """A process that has loaded what routers and frontends need, and waits to become one of them."""

    addresses: Mapping[str, str] = {}
    endpoint = ""

    def __init__(self, assignment: Assignment) -> None:
        import flightserve.caller.client
        import flightserve.metrics
        import flightserve.router.service  # noqa: F401
        from flightserve.frontends.host import load

        load(assignment.options)

    def apply_table(self, table: RoutingTable) -> None:
        """It has no part in the data plane yet."""

    def unfit(self) -> tuple[str, int]:
        """Never: where it cannot go on it ends."""
        return "", 0

    def ready(self) -> bool:
        """Its part is to wait."""
        return True

    def statistics(self) -> dict[str, float]:
        """None."""
        return {}

    def drain(self, timeout_s: float) -> bool:
        """There is nothing to finish."""
        return True

    def stop(self) -> None:
        """There is nothing to stop."""


class CarrierHosted:
    """The carrier of a node in its child."""

    def __init__(self, assignment: Assignment) -> None:
        from flightserve.carrier.securing import Securing
        from flightserve.carrier.service import CarrierService
        from flightserve.control.names import carrier_socket
        from flightserve.control.relaying import reach_supervisor
        from flightserve.fabric.transport import descriptors

        descriptors.use_all()
        self._folder = _folder_of(assignment)
        self._service = CarrierService(
            assignment.node,
            carrier_socket(assignment.folder, assignment.app_id),
            assignment.host,
            assignment.secret,
            functools.partial(reach_supervisor, assignment.supervisor) if assignment.at_home else None,
            assignment.entrance,
            securing=Securing() if assignment.options.tls_cert is not None else None,
        )
        self._service.start()
        # Processes of its node know the socket by its name.
        self.endpoint = ""
        self.addresses: Mapping[str, str] = {CARRIER: self._service.address}
        self.apply_table = self._service.apply_table
        self.statistics = self._service.statistics

    def stop(self) -> None:
        """The connections, and on another node than the supervisor's the app's folder there."""
        self._service.stop()
        if self._folder is not None:
            self._folder.clear()

    def unfit(self) -> tuple[str, int]:
        """Never: where it cannot go on it ends."""
        return "", 0

    def ready(self) -> bool:
        """A carrier that listens can do its part."""
        return True

    def drain(self, timeout_s: float) -> bool:
        """It is the last to leave: what it carries has ended."""
        return True


FACTORIES: Final[dict[str, Factory]] = {
    "router": RouterHosted,
    "replica": ReplicaHosted,
    "frontend": FrontendHosted,
    "standby": StandbyHosted,
    CARRIER: CarrierHosted,
}


def open_access(assignment: Assignment) -> Access:
    """Who callers are and what they may do, in this process."""
    options = assignment.options
    if options.auth is None:
        return OPEN
    from flightserve.identity import access
    from flightserve.identity.audit import AuditLog

    audit = AuditLog(None if options.audit_log is None else str(options.audit_log))
    if assignment.slot.tier == FRONTEND:
        audit.start()
    return access.open_access(str(options.auth), options.ticket_key, audit=audit)


def frontend_options(assignment: Assignment) -> FrontendOptions:
    """The ports for this frontend: those its predecessor had, else the given ones for the first of its node and free
    ones for the others, or paths with their number. Its host is the given one, or one of its own node's."""
    options = assignment.options
    ordinal = 0 if options.on_each_node else assignment.slot.ordinal
    # Of HTTP each has one of its own beside: its metrics are read there.
    given = {protocol for protocol in options.shared if protocol != "http"}
    ports = {
        f"{protocol}_port": _port(getattr(options, f"{protocol}_port"), before, 0 if protocol in given else ordinal)
        for protocol in PROTOCOLS
        for before in [assignment.addresses.get(protocol)]
    }
    return dataclasses.replace(options, host=_host(assignment), **ports)  # type: ignore[arg-type]


def _host(assignment: Assignment) -> str:
    """Loopback and all addresses are the same words on every node; any other is one of the supervisor's node."""
    given = assignment.options.host
    same = not assignment.spans or assignment.at_home or assignment.loopback or given in EVERYWHERE
    return given if same else assignment.host


def reached_at(assignment: Assignment) -> Callable[[str], str]:
    """Where there is a frontend on each node, those that listen on all addresses are told apart by their nodes'."""
    given, node = assignment.options.host, assignment.host
    if given not in EVERYWHERE or not node or not assignment.options.on_each_node:
        return lambda address: address
    everywhere, there = (f"[{host}]" if ":" in host else host for host in (given, node))
    return lambda address: address.replace(f"{everywhere}:", f"{there}:", 1)


def _port(given: int | str | None, before: str | None, ordinal: int) -> int | str | None:
    from flightserve.frontends.unix_sockets import numbered

    if isinstance(given, str):
        return numbered(given, ordinal)
    if given is None or before is None:
        return 0 if given is not None and ordinal else given
    return int(before.rstrip("/").rpartition(":")[2])


def flight_locations(table: RoutingTable, assignment: Assignment, own: str) -> tuple[str, ...]:
    """Where clients of this frontend's Flight can read: from itself first, because it may have begun already. Nobody
    can connect to all addresses, and to another node's loopback nobody who is here."""
    elsewhere = [
        peer.address
        for peer in table.peers
        if peer.tier == FRONTEND and peer.id != assignment.peer_id
        and not (assignment.loopback and peer.node != assignment.node)
    ]  # fmt: skip
    hosts = {each: each.rpartition("://")[2].rpartition(":")[0].strip("[]") for each in [own, *sorted(elsewhere)]}
    return tuple(each for each, host in hosts.items() if host and host not in EVERYWHERE)[:LOCATIONS_MAX]


def _folder_of(assignment: Assignment) -> Folder | None:
    """The app's folder on another node than the launcher's, for as long as who listens in it lives."""
    from flightserve.control.folder import Folder

    return None if assignment.at_home else Folder(assignment.app_id, assignment.folder)


def _endpoint(assignment: Assignment) -> str:
    from flightserve.control.names import socket_path

    return socket_path(assignment.folder, assignment.app_id, f"{assignment.slot.name}-{assignment.peer_id:x}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
