"""An app that is served: `serve` and `Running`, and the plan that a declared app becomes."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Unpack

from flightserve.clock import NS_PER_S
from flightserve.config import PROTOCOLS, UNIX, FabricLimits, FrontendOptions, ServingOptions
from flightserve.errors import ConfigError, FlightserveError, Unavailable
from flightserve.types import REPLICAS_MAX, Autoscale, ReplicaCount
from flightserve.versions import check_versions

if TYPE_CHECKING:
    from flightserve.app import App
    from flightserve.control.messages import View
    from flightserve.control.plan import ControlLimits, Plan, PlannedDeployment

log = logging.getLogger(__name__)


ROUTERS_MAX: Final = 64
FRONTENDS_MAX: Final = 64
# How long an app may wait for nodes that are not there yet.
NODES_WAIT_S_MAX: Final = 86_400.0
# How long a change of a running app may take until what is new is ready.
CHANGE_TIMEOUT_S: Final = 600.0
# How long all replicas together may take to be told of another configuration.
RECONFIGURE_TIMEOUT_S: Final = 60.0
# How often it is looked whether the app lives, while the program waits.
CHECK_S: Final = 0.5
STATUS_TIMEOUT_S: Final = 1.0


class Running:
    """A served app. Use it as a context manager, or call `stop`."""

    def __init__(self, plan: Plan, address: str | None) -> None:
        from flightserve.control.launcher import Launcher

        self._plan = plan
        self._launcher = Launcher(plan, address)
        self.addresses: dict[str, str] = {}

    def start(
        self, cancelled: Callable[[], bool] = lambda: False, seen: Callable[[View], None] = lambda view: None
    ) -> Running:
        """Start everything; returns when every replica answers, or early when `cancelled()`; `seen` gets views
        meanwhile. Raises `control.launcher.StartFailed` with what is wrong, and leaves nothing behind then."""
        _served.append(self)
        try:
            self._launcher.start(cancelled, seen)
        except BaseException:
            # Also what a notebook interrupts.
            _forget(self)
            raise
        # Ours runs before Ray's, which was registered earlier: that would end the app without a drain.
        atexit.unregister(_stop_all)
        atexit.register(_stop_all)
        if not cancelled():
            self.addresses = dict(self._launcher.view().addresses)
            _last_ports[self.names] = self.ports()
        return self

    def wait(self) -> None:
        """Return at Ctrl-C, or when the app was stopped. Raises Unavailable as `check`."""
        with contextlib.suppress(KeyboardInterrupt):
            while not self._launcher.stopped.wait(CHECK_S):
                self.check()

    @property
    def app_id(self) -> str:
        """What the app's sockets and actors are named after."""
        return self._plan.app_id

    @property
    def begun(self) -> bool:
        """Whether anything was started."""
        return self._launcher.begun

    def status(self) -> View:
        """All tiers, as the supervisor sees them now; where it does not answer at once, as it last told. Raises
        Unavailable before its first word, and when the app was stopped."""
        from flightserve.control.observer import ask_view

        told = self.told()
        try:
            return ask_view(self.app_id, STATUS_TIMEOUT_S)
        except FlightserveError as error:
            log.debug("the supervisor does not say how the app is: %s", error.message)
            return told

    def told(self) -> View:
        """What the supervisor last told by itself, without asking it; otherwise as `status`."""
        return self._launcher.view()

    def check(self) -> None:
        """Raises Unavailable when the app is lost for good: its supervisor is silent and nobody restarts it."""
        self._launcher.check()

    def scale(self, replicas: Mapping[str, int | tuple[int, int]], timeout_s: float = CHANGE_TIMEOUT_S) -> str:
        """That many replicas of each deployment named, or, as `(low, high)`, bounds between which their number follows
        the load; returns what changed, once they serve and what is too many has
        finished and gone. No request fails for it. Raises NotFound for a name that is not deployed,
        InvalidArgument for a count below 1, and `control.commands.ChangeFailed` where new replicas cannot be
        placed, do not start or are not ready within `timeout_s`: then all is as before."""
        from flightserve.control.commands import scale

        return scale(self.app_id, replicas, timeout_s)

    def reconfigure(self, deployment: str, config: object, timeout_s: float = RECONFIGURE_TIMEOUT_S) -> str:
        """Have each replica of the deployment call its object's `reconfigure(config)` once, one after another, while it
        serves; `config` is what JSON can say. Replicas that start later begin with it, until another version is
        deployed. The first that raises is the last that is asked. Raises NotFound for a name that is not deployed,
        ConfigError for what is no JSON, and `control.commands.ChangeFailed`, which says who refused it and why."""
        from flightserve.control.commands import reconfigure

        return reconfigure(self.app_id, deployment, config, timeout_s)

    def deploy(
        self,
        app: App,
        *,
        replicas: Mapping[str, int] | None = None,
        everything: bool = False,
        in_place: bool = False,
        timeout_s: float = CHANGE_TIMEOUT_S,
    ) -> str:
        """Serve this app instead: its new replicas start beside the old ones, clients change over in one step when
        all are ready, and the old ones finish what they have and go. No request fails for it.

        Deployments whose class, arguments, options and modules are as they were are left alone, or replaced as well
        with `everything`. `replicas` sets counts by name; else a deployment keeps its count unless its class declares
        another one than before. `in_place` is for machines without room for more: one replica of what is replaced goes
        first, its successor takes over, and the others follow; a lone replica's requests wait meanwhile, and what does
        not become ready leaves a gap until the old one has started again. Raises ConfigError for an app that cannot be
        served, and otherwise as `scale`.
        """
        from flightserve.control.commands import deploy

        return deploy(self.app_id, plan_deployments(app, everything), replicas or {}, timeout_s, in_place)

    def stop(self, drain_timeout_s: float | None = None) -> None:
        """Drain for at most that long (default: the options' `drain_timeout_s`), then end. Idempotent."""
        limit_s = self._plan.options.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        self._launcher.stop(limit_s)
        _forget(self)

    @property
    def names(self) -> frozenset[str]:
        """The deployments that it began with."""
        return frozenset(each.spec.name for each in self._plan.deployments)

    def ports(self) -> dict[str, int | str]:
        """The ports that it has, by option."""
        return {f"{protocol}_port": _port_of(address) for protocol, address in self.addresses.items()}

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Running {self.app_id} at {self.addresses or 'nothing yet'}>"


def _port_of(address: str) -> int | str:
    return address if address.startswith(UNIX) else int(address.rpartition(":")[2])


def serve(
    app: App,
    *,
    replicas: Mapping[str, ReplicaCount] | None = None,
    routers: int = 1,
    address: str | None = None,
    fabric: FabricLimits | None = None,
    replace: bool = False,
    wait_for_nodes_s: float = 0.0,
    **options: Unpack[ServingOptions],
) -> Running:
    """Serve an app from this program until `stop()`, the end of the `with` block, or the program's.

    `replicas` overrides the declared counts by deployment, with numbers or `fs.autoscale(...)`; `address` names an
    existing Ray (default: the one this program is connected to, else one of our own); `options` are
    `config.FrontendOptions`' fields: host, http_port, grpc_port, flight_port, zmq_port (None leaves one out, 0, the
    default, takes a free one), frontends, ...
    What no node of a Ray that is joined has room for ends the start, unless there may be another node within
    `wait_for_nodes_s`, which Ray's autoscaler starts when it sees what waits.
    With `replace`, for notebooks, whose cells run again: what this program serves under one of the app's names, or on a
    port that is asked for, is stopped first, and its ports are taken where none are asked for. What the
    frontends take from strangers is bounded by `limits` (`config.EdgeLimits`), what every process of the data plane may
    use by `fabric` (`config.FabricLimits`).

    Raises ConfigError for options that make no sense and `control.launcher.StartFailed` where the app cannot
    start. Call it from a thread that lives as long as the app: our own Ray ends with it.
    """
    from flightserve.control.child import hosts

    if hosts():
        raise ConfigError(
            "fs.serve() was called by a replica, which imports this module: write it below if __name__ == '__main__':"
        )
    plan = make_plan(app, _frontend_options(options), replicas or {}, routers, fabric, wait_for_nodes_s)
    if replace:
        plan = _replacing(plan, options)
    return Running(plan, address).start()


def _replacing(plan: Plan, asked: ServingOptions) -> Plan:
    """Stop what it replaces. The plan with the ports of that where none are asked for, as far as they can be had."""
    names = {each.spec.name for each in plan.deployments}
    wanted = {port for name, port in asked.items() if name.endswith("_port") and port}
    ports = dict(_last_ports.get(frozenset(names), {}))
    for before in [each for each in _served if each.names & names or wanted & set(each.ports().values())]:
        ports |= before.ports()
        before.stop()
    free: dict[str, Any] = {name: port for name, port in ports.items() if name not in asked}
    options = dataclasses.replace(plan.options, **free)
    return dataclasses.replace(plan, options=options) if _can_be_had(options) else plan


def _can_be_had(options: FrontendOptions) -> bool:
    from flightserve.control import ports

    try:
        ports.check(options)
    except Unavailable:
        return False
    return True


# What this program serves, in the order in which it began. Kept here, because the objects get lost: by a notebook's
# cell that runs again, by serve() without `with`. Ray would end an app that nobody refers to.
_served: list[Running] = []
# Of each set of names, for one that replaces what did not start.
_last_ports: dict[frozenset[str], dict[str, int | str]] = {}


def _forget(running: Running) -> None:
    if running in _served:
        _served.remove(running)


def _stop_all() -> None:
    while _served:
        running = _served[-1]
        told = "the program ends, and with it the app %s; to stay: `with fs.serve(app) as running: running.wait()`"
        log.warning(told, running.app_id)
        try:
            running.stop()
        except Exception:  # whatever Ray raises; the others are to be drained all the same
            log.exception("the app %s did not stop cleanly", running.app_id)
        finally:
            _forget(running)


# A forked child of the program has the list, and no part in the apps.
os.register_at_fork(after_in_child=_served.clear)


def _frontend_options(options: ServingOptions) -> FrontendOptions:
    known = [field.name for field in dataclasses.fields(FrontendOptions)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ConfigError(
            f"serve() has no option {unknown[0]!r}; there are: replicas, routers, address, fabric, replace, "
            f"wait_for_nodes_s, {', '.join(known)}"
        )
    return FrontendOptions(**options)


def make_plan(
    app: App,
    options: FrontendOptions,
    replicas: Mapping[str, ReplicaCount],
    routers: int,
    fabric: FabricLimits | None = None,
    wait_for_nodes_s: float = 0.0,
) -> Plan:
    """The plan for an app. Raises ConfigError, also where a library is of a version that was not tried."""
    # First, because it looks at the versions of the libraries that all else is made with.
    planned = plan_deployments(app)
    from flightserve.control.desired import with_replicas
    from flightserve.control.names import new_app_id
    from flightserve.control.opening import settle
    from flightserve.control.pickling import dumps
    from flightserve.control.plan import Plan
    from flightserve.tiers import FACTORIES

    options = settle(options)
    if options.otlp:
        from flightserve.tracing.otlp import check_installed

        check_installed()
    if all(getattr(options, f"{protocol}_port") is None for protocol in PROTOCOLS):
        raise ConfigError("every protocol is left out; nobody could call the app")
    if not isinstance(fabric, FabricLimits | None):
        raise ConfigError(f"fabric is {fabric!r}; it is a flightserve.config.FabricLimits")
    if isinstance(wait_for_nodes_s, bool) or not isinstance(wait_for_nodes_s, int | float):
        raise ConfigError(f"wait_for_nodes_s is {wait_for_nodes_s!r}; it is a number of seconds")
    if not 0 <= wait_for_nodes_s <= NODES_WAIT_S_MAX:
        raise ConfigError(f"wait_for_nodes_s is {wait_for_nodes_s!r}; it is 0 to {NODES_WAIT_S_MAX:g} seconds")
    _check_count("routers", routers, ROUTERS_MAX)
    _check_count("frontends", options.frontends_here, FRONTENDS_MAX)
    options = _checked_auth(options)
    deployments = {each.spec.name: each for each in planned}
    unknown = sorted(set(replicas) - deployments.keys())
    if unknown:
        raise ConfigError(
            f"replicas are given for {', '.join(unknown)}; the app's deployments are: {', '.join(deployments)}"
        )
    for name, count in replicas.items():
        follows = _follows(count, deployments[name])
        number = count if isinstance(count, int) else follows.start if follows else 0
        _check_count(f"replicas of {name}", number, REPLICAS_MAX)
        deployments[name] = with_replicas(deployments[name], number, follows)
    from flightserve.control.sources import working_folder

    return Plan(
        app_id=new_app_id(),
        deployments=tuple(deployments.values()),
        options=options,
        factories={tier: dumps(factory) for tier, factory in FACTORIES.items()},
        routers=routers,
        fabric=fabric or FabricLimits(),
        limits=_control_limits(wait_for_nodes_s),
        sys_path=_sys_path(),
        cwd=working_folder(),
    )


def _checked_auth(options: FrontendOptions) -> FrontendOptions:
    """With the file's place, which is the same in all processes. Raises ConfigError where the file is wrong."""
    if options.auth is None:
        return options
    from flightserve.identity.audit import check_writable
    from flightserve.identity.reading import check_keys, read_auth, read_book, warn_of_readers

    path = os.path.abspath(options.auth)
    check_keys(read_book(read_auth(path), path))
    warn_of_readers(path)
    audit_log = None if options.audit_log is None else check_writable(os.path.abspath(options.audit_log))
    return dataclasses.replace(options, auth=path, audit_log=audit_log)


def _control_limits(wait_for_nodes_s: float) -> ControlLimits:
    """As they are, and what starts may wait for its node first."""
    from flightserve.control.plan import ControlLimits

    usual = ControlLimits()
    start_ns = usual.reconcile.start_ns + int(wait_for_nodes_s * NS_PER_S)
    return dataclasses.replace(
        usual,
        nodes_wait_s=float(wait_for_nodes_s),
        ready_timeout_s=usual.ready_timeout_s + wait_for_nodes_s,
        reconcile=dataclasses.replace(usual.reconcile, start_ns=start_ns),
    )


def _follows(count: ReplicaCount, planned: PlannedDeployment) -> Autoscale | None:
    """What the number of replicas follows the load by, None where it is fixed. Bounds alone keep the declared times."""
    if not isinstance(count, tuple):
        return count if isinstance(count, Autoscale) else None
    from flightserve.declare import autoscale

    declared = planned.spec.options.autoscale or Autoscale(1, 1)
    return autoscale(*count, target_queue_ms=declared.target_queue_ms, down_after_s=declared.down_after_s)


def plan_deployments(app: App, everything: bool = False) -> tuple[PlannedDeployment, ...]:
    """The app's deployments as they can be sent to a running app. Their versions are of all that they run: equal ones
    mean that nothing is to be replaced, except with `everything`. Raises ConfigError, as `make_plan`."""
    # A deploy comes here without a plan; what it plans with, and its replicas run on, may be others than at the start.
    check_versions()
    from flightserve.app import App
    from flightserve.control import environment
    from flightserve.control.pickling import dumps
    from flightserve.control.plan import PlannedDeployment
    from flightserve.control.sources import read_modules
    from flightserve.declare import describe_value, left_out, spec_of

    if not isinstance(app, App):
        raise ConfigError(f"an App is served, as in App(Pricing.bind()); not {describe_value(app)}")
    sources = read_modules()
    variables = environment.carried()
    surroundings = repr((sources, environment.telling(variables))).encode()
    salt = os.urandom(8) if everything else b""
    out = []
    for bound in app:
        spec = spec_of(bound)
        if helpers := left_out(bound.cls):
            about = "not decorated, and their argument is not said to be a batch; @fs.method serves one"
            log.info("%s does not serve %s: %s", spec.name, ", ".join(helpers), about)
        try:
            code = dumps(bound)
        except Exception as error:  # whatever a stranger's objects raise
            message = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{spec.name} cannot be sent to its replicas: {message}; make it in __init__") from error
        _check_count(f"replicas of {spec.name}", spec.options.replicas, REPLICAS_MAX)
        spec = dataclasses.replace(spec, version=_version(spec.version.encode(), code, surroundings, salt))
        where = (_sys_path(), os.getcwd(), sources, variables)
        out.append(PlannedDeployment(spec, code, spec.options.autoscale or spec.options.replicas, *where))
    _check_bytes(out)
    return tuple(out)


def _check_bytes(deployments: Sequence[PlannedDeployment]) -> None:
    """What starts can be deployed as well: both carry all that the replicas are made of."""
    from flightserve.control.messages import APP_BYTES_MAX

    sizes = {each.spec.name: len(each.code) for each in deployments}
    if sum(sizes.values()) > APP_BYTES_MAX:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(
            f"the arguments of the app's deployments are {sum(sizes.values()):,} bytes, of which {largest} has "
            f"{sizes[largest]:,}; at most {APP_BYTES_MAX:,} are carried to replicas. Load what is large in __init__ "
            "instead of passing it to bind(); give a warehouse's large tables as Parquet files"
        )


def _version(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _sys_path() -> tuple[str, ...]:
    return tuple(os.path.abspath(entry) for entry in sys.path)


def _check_count(what: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ConfigError(f"{what}: {count}; it must be 1 to {most}")
