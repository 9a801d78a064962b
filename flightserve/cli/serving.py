"""`flightserve run` and `flightserve sql`: serve an app, or files as tables, until told to stop."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TextIO

from flightserve import __version__
from flightserve.cli.arguments import port, replica_counts, seconds, table
from flightserve.cli.banner import Ready, lines
from flightserve.cli.flags import naming_flags
from flightserve.cli.loading import load_app
from flightserve.cli.log_options import LogOptions, add_log_options, detail_of, log_options, opened
from flightserve.cli.progress import Progress, counted
from flightserve.cli.samples import call_of
from flightserve.cli.settings.settled import add_set_option
from flightserve.cli.source_options import add_source_options, check_tables, warehouse_app
from flightserve.cli.ticket_keys import ticket_key
from flightserve.config import NODE, PROTOCOLS, UNIX_PROTOCOLS, USUAL_PORTS, FrontendOptions
from flightserve.core.lifecycle.reconciling import FRONTEND
from flightserve.errors import ConfigError, FlightserveError, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from flightserve.app import App
    from flightserve.cli.reloading import Reloader
    from flightserve.cli.terminal import Terminal
    from flightserve.control.messages import View
    from flightserve.control.plan import Plan
    from flightserve.running import Running

log = logging.getLogger("flightserve.told")

POLL_S: Final = 0.5
# How long a banner waits for the number of rows.
TABLES_S: Final = 0.7


def add_commands(commands: Any) -> None:
    """Add `run` and `sql` to the parser's commands."""
    run = commands.add_parser("run", help="serve an app until SIGINT or SIGTERM")
    run.set_defaults(command=_run)
    run.add_argument("app", nargs="?", metavar="module:app", help="where the fs.App is, e.g. examples.flights.app:app")
    about = "for development: when a module of the app below the current folder is saved, deploy what it says then"
    run.add_argument("--reload", action="store_true", help=about)
    add_serving_options(run)

    sql = commands.add_parser("sql", help="serve files as SQL tables, without code")
    sql.set_defaults(command=_sql)
    option = sql.add_argument
    about = (
        "a file (Parquet, CSV, JSON, Arrow, DuckDB, a workbook), a quoted glob, a folder (also a Delta or Iceberg "
        "table), or an address (https://, s3://): one table each, called NAME, or as it is; files of a folder "
        "that are not of one table are a table each, called as they are"
    )
    option("tables", nargs="*", default=[], metavar="[NAME=]PATH", type=table, help=about)
    about = "memory: each replica copies the tables when it starts; view: it reads the files for each query"
    option("--load", choices=("memory", "view"), default="memory", help=f"{about} (default: %(default)s)")
    about = "duckdb: a query runs in one replica; daft: on all nodes of the Ray, over Parquet files that all have"
    option("--engine", choices=("duckdb", "daft"), default="duckdb", help=f"{about} (default: %(default)s)")
    option("--name", default="warehouse", help="the deployment's name, and the catalog's (default: %(default)s)")
    option("--threads", type=int, default=0, metavar="N", help="of each replica (default: all cores)")
    option("--memory-limit", default="", metavar="SIZE", help="of each replica's engine, e.g. 4GB (default: its own)")
    about = "what all replicas may spill to disk, together, e.g. 10GB (default: 90 %% of what is free)"
    option("--spill-limit", default="", metavar="SIZE", help=about)
    about = "look so often whether the files changed, and serve them as they are now, e.g. 30s, 5m (default: never)"
    option("--refresh", type=seconds, default=0.0, metavar="TIME", help=about)
    about = "MiB of results that each replica keeps, and gives again until the files change (default: 0, none)"
    option("--cache-mb", type=int, default=0, metavar="N", help=about)
    sql.add_argument("--reload", action="store_true", help=argparse.SUPPRESS)
    add_source_options(sql)
    add_serving_options(sql)


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """What `run` and `sql` have in common."""
    defaults = FrontendOptions()
    option = parser.add_argument
    option("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    for protocol in PROTOCOLS:
        usual = USUAL_PORTS[protocol]
        about = f"default {usual}; 0: a free one" + "; unix:PATH: a unix socket" * (protocol in UNIX_PROTOCOLS)
        option(f"--{protocol}-port", type=port, default=usual, metavar="PORT", help=about)
        option(f"--no-{protocol}", action="store_true", help=f"leave {protocol} out")
    about = "replicas of a deployment, or LOW-HIGH for a number that follows the load; may be given again for others"
    option("--replicas", action="append", default=[], type=replica_counts, metavar="NAME=N", help=about)
    about = (
        "frontend processes; the first takes the ports given, the others free ones. node: one on each node of the Ray "
        "that is joined, on its own node's ports"
    )
    option("--frontends", type=frontends, default=1, metavar="N|node", help=about)
    about = "have all frontends take connections on the ports given for HTTP and gRPC"
    option("--share-ports", action="store_true", help=about)
    about = "router processes; deployments are spread over them"
    option("--routers", type=int, default=1, metavar="N", help=about)
    option("--address", metavar="RAY", help="an existing Ray on this machine (default: a Ray of our own)")
    about = "how long what no node of that Ray has room for may wait for another node, e.g. 5m (default: it fails)"
    option("--wait-for-nodes", type=seconds, default=0.0, metavar="TIME", help=about)
    about = "a name that HTTP answers to, beside numeric addresses, localhost and --host's; may be given again"
    option("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "a web origin whose pages may call (CORS), e.g. https://app.example, or *; may be given again"
    option("--cors-origin", action="append", default=[], metavar="ORIGIN", help=about)
    about = "take SQL by GET /v1/sql?query=... too, for spreadsheets, links and the like (default: on loopback only)"
    option("--allow-get", action=argparse.BooleanOptionalAction, default=None, help=about)
    about = "tell Flight clients of every frontend that they may read a result from (default: where they asked)"
    option("--flight-locations", action="store_true", help=about)
    about = "who may call: a TOML file of roles and principals; flightserve auth makes it (default: everybody may)"
    option("--auth", metavar="FILE", help=about)
    option("--tls-cert", metavar="FILE", help="serve HTTPS, gRPC and Flight with TLS: the certificate chain, in PEM")
    option("--tls-key", metavar="FILE", help="its private key, in PEM, without a password")
    about = "take only clients that show a certificate of this CA (mTLS)"
    option("--tls-client-ca", metavar="FILE", help=about)
    about = "serve ZeroMQ over CURVE with the keys in this folder, which `flightserve keys DIR` makes"
    option("--zmq-keys", metavar="DIR", help=about)
    about = (
        "a file of 32 random bytes or more, by which SQL's tickets and sign-ins are signed: apps that stand in for "
        "each other behind one address have the same (default: a random one)"
    )
    option("--ticket-key", metavar="FILE", help=about)
    about = "listen beyond loopback though nobody is asked who he is"
    option("--insecure", action="store_true", help=about)
    about = "a file that gets a line of JSON for each call and query: who, what, how it ended (default: the log)"
    option("--audit-log", metavar="FILE", help=about)
    about = "how long requests may finish after SIGINT or SIGTERM (default: %(default)s)"
    option("--drain-timeout", type=seconds, default=defaults.drain_timeout_s, metavar="TIME", help=about)
    about = "send traces to this OTLP collector, e.g. http://localhost:4317 (gRPC) or http://localhost:4318 (HTTP)"
    option("--otlp", default=defaults.otlp, metavar="ENDPOINT", help=about)
    about = "trace this part of the requests whose callers do not say, 0 to 1 (default: %(default)g)"
    option("--trace-sample", type=float, default=defaults.trace_sample, metavar="PART", help=about)
    add_log_options(parser)
    add_set_option(parser, serves=True)


def frontends(text: str) -> int | str:
    """A number of frontends, or "node". Raises argparse.ArgumentTypeError."""
    if text == NODE:
        return text
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of frontends; write one, or {NODE}") from error


def _run(arguments: argparse.Namespace) -> int:
    if arguments.app is None:
        raise ConfigError("what is to be served is not said: name module:app, or write app under [run] in a file")
    reloader = None
    if arguments.reload:
        from flightserve.cli.reloading import Reloader

        reloader = Reloader(arguments.app, arguments.settings.options)
    return _serve(arguments, lambda: load_app(arguments.app), reloader)


def _sql(arguments: argparse.Namespace) -> int:
    if arguments.reload:
        raise ConfigError("sql has no code to reload; --refresh TIME serves the files as they are by then")
    check_tables(arguments.tables)
    return _serve(arguments, lambda: warehouse_app(arguments))


def _serve(arguments: argparse.Namespace, make: Callable[[], App], reloader: Reloader | None = None) -> int:
    with naming_flags(arguments.settings):
        options = frontend_options(arguments)
        # Before the app is read, which may take long, and much before Ray starts.
        from flightserve.control import opening, ports

        ports.check(options)
        opening.check(options)
    return serve_until_told(
        lambda: plan_of(arguments, make, options), arguments.address, reloader, log_options(arguments)
    )


def plan_of(arguments: argparse.Namespace, make: Callable[[], App], options: FrontendOptions) -> Plan:
    """The plan that the arguments ask for. Raises ConfigError."""
    from flightserve.running import make_plan

    settings, counts, wait_s = arguments.settings, dict(arguments.replicas), arguments.wait_for_nodes
    with naming_flags(settings):
        app, fabric = settings.with_options(make()), settings.fabric()
        return make_plan(app, options, counts, arguments.routers, fabric, wait_for_nodes_s=wait_s)


def frontend_options(arguments: argparse.Namespace) -> FrontendOptions:
    """What the arguments say of frontends. Raises ConfigError."""
    ports: dict[str, Any] = {
        f"{protocol}_port": None if getattr(arguments, f"no_{protocol}") else getattr(arguments, f"{protocol}_port")
        for protocol in PROTOCOLS
    }
    return FrontendOptions(
        host=arguments.host, frontends=arguments.frontends, drain_timeout_s=arguments.drain_timeout,
        allowed_hosts=tuple(arguments.allow_host), cors_origins=tuple(arguments.cors_origin),
        allow_get=arguments.allow_get, flight_locations=arguments.flight_locations,
        share_ports=arguments.share_ports, tls_cert=arguments.tls_cert, tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca, zmq_keys=arguments.zmq_keys, auth=arguments.auth,
        audit_log=arguments.audit_log, insecure=arguments.insecure, limits=arguments.settings.edge(),
        otlp=arguments.otlp, trace_sample=arguments.trace_sample, **ports, **ticket_key(arguments.ticket_key),
    )  # fmt: skip


def status_of(error: FlightserveError) -> int:
    """The exit status: 2 where the arguments are wrong, 1 for all else."""
    return 2 if isinstance(error, ConfigError | InvalidArgument) else 1


@naming_flags()
def serve_until_told(
    make: Callable[[], Plan],
    address: str | None = None,
    reloader: Reloader | None = None,
    logs: LogOptions | None = None,
) -> int:
    """Make the plan, serve it, print the `ready` line, and stop after SIGINT or SIGTERM; the exit status. Meanwhile
    `reloader` changes what is served. Raises FlightserveError where nothing was started; what goes wrong after that is
    told in the log."""
    stop = threading.Event()
    _on_signals(stop)
    logs = logs or LogOptions()
    with opened(logs) as (out, terminal):
        from flightserve.running import Running

        running: Running | None = None
        try:
            plan = dataclasses.replace(make(), log_level=terminal.log_level)
            running = Running(plan, address)
            if reloader is not None:
                reloader.note_files()
            return _Served(running, plan, terminal, stop, reloader).until_told(out)
        except SystemExit as told:
            # While `ray.init` runs, Ray's own handler answers SIGTERM, by leaving with its number.
            if told.code != signal.SIGTERM:
                raise
            return 0
        except FlightserveError as error:
            terminal.end()
            if terminal.form != "json" or running is None or not running.begun:
                # One line, as of any command.
                raise
            log.error("%s", error.message, extra=detail_of(error))
            return status_of(error)


class _Served:
    """One app from its start to its end, as the terminal tells it."""

    def __init__(
        self, running: Running, plan: Plan, terminal: Terminal, stop: threading.Event, reloader: Reloader | None
    ) -> None:
        self._running = running
        self._plan = plan
        self._terminal = terminal
        self._stop = stop
        self._reloader = reloader
        self._progress = Progress()
        self._began = time.monotonic()

    def until_told(self, out: TextIO) -> int:
        """Serve; the exit status."""
        try:
            self._start()
            if not self._stop.is_set():
                print_ready(self._running, out)
                self._greet()
                if self._reloader is not None:
                    self._reloader.begin(self._running.app_id)
            while not self._stop.wait(POLL_S):
                self._running.check()
                self._look(self._running.told())
            log.info("stopping: what runs may finish for %g s; again ends it at once", self._drain_s)
        finally:
            self._terminal.end()
            if self._reloader is not None:
                self._reloader.stop()
            self._running.stop()
        log.info("stopped")
        return 0

    @property
    def _drain_s(self) -> float:
        return self._plan.options.drain_timeout_s

    def _start(self) -> None:
        if self._terminal.form == "text":
            # To programs the supervisor tells it of each process.
            log.info("starting %s", ", ".join(each.spec.name for each in self._plan.deployments))
        self._terminal.begin()
        self._running.start(self._stop.is_set, self._look)
        self._terminal.end()

    def _look(self, view: View) -> None:
        """Tell people what is another than before; the log of programs has it from the supervisor."""
        self._terminal.starting(*counted(view))
        if self._terminal.form == "text":
            for line in self._progress.told(view):
                log.info("%s", line)

    def _greet(self) -> None:
        if self._terminal.form != "text":
            return
        specs = [each.spec for each in self._plan.deployments]
        if any(spec.kind == "sql" for spec in specs):
            # What the replicas said of their tables comes by another way than that they are ready.
            self._stop.wait(TABLES_S)
        took_s = time.monotonic() - self._began
        options = self._plan.options
        shown = Ready(
            __version__, took_s, self._running.addresses, specs, call_of(specs), dict(self._terminal.rows),
            options.tls_cert is not None, options.zmq_keys is not None,
        )  # fmt: skip
        self._terminal.show(lines(shown, self._terminal.colour))


def print_ready(running: Running, out: TextIO) -> None:
    """The line for programs. Raises Unavailable where it cannot be written: who waits for it would do so in vain."""
    addresses = json.dumps(_ready(running), separators=(",", ":"))
    try:
        print(f"ready {addresses}", file=out, flush=True)
    except OSError as error:
        raise Unavailable(
            f"the line with the addresses cannot be written to standard output: {error.strerror}"
        ) from error


def _ready(running: Running) -> dict[str, Any]:
    """The first frontend's addresses by protocol; with several frontends, all of theirs under `frontends`."""
    everyone = [each.addresses for each in running.status().children if each.tier == FRONTEND and each.addresses]
    return {**running.addresses, "frontends": everyone} if len(everyone) > 1 else dict(running.addresses)


def _on_signals(stop: threading.Event) -> None:
    """First signal: drain. Second of the kind: Python's default, which ends the process at once (the reaper and
    the children's own fences clean up)."""

    def told(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGINT, told)
    signal.signal(signal.SIGTERM, told)
