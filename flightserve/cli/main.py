"""The `flightserve` command: `run` serves an app until it is told to stop, `sql` files as tables; `status` shows what
runs; `scale` and `deploy` change it while it runs.

Standard output is for programs: `run` writes exactly one line there, `ready {addresses as JSON}`, when every
replica answers. All else (logs, what user code prints) goes to standard error. Exit status: 0 after SIGINT or
SIGTERM and a drain, or a change that was made; 1 when the app cannot be served, or not be changed (then it serves
what it did before); 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from flightserve import __version__
from flightserve.config import PROTOCOLS, FrontendOptions
from flightserve.errors import ConfigError, FlightserveError, InvalidArgument, PermissionDenied
from flightserve.running import CHANGE_TIMEOUT_S

if TYPE_CHECKING:
    from flightserve.app import App
    from flightserve.control.messages import View
    from flightserve.control.plan import Plan
    from flightserve.running import Running

POLL_S: Final = 0.5
_UNITS_S: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except (ConfigError, InvalidArgument) as error:
        print(f"flightserve: {error.message}", file=sys.stderr)
        return 2
    except FlightserveError as error:
        print(*filter(None, [getattr(error, "detail", ""), f"flightserve: {error.message}"]), sep="\n", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flightserve", description="Serve Python methods on Arrow record batches.")
    parser.add_argument("--version", action="version", version=f"flightserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="serve an app until SIGINT or SIGTERM")
    run.set_defaults(command=_run)
    run.add_argument("app", metavar="module:app", help="where the fs.App is, e.g. examples.flights.app:app")
    _serving_options(run)

    sql = commands.add_parser("sql", help="serve Parquet, CSV or Arrow files as SQL tables, without code")
    sql.set_defaults(command=_sql)
    option = sql.add_argument
    about = (
        "a file, a quoted glob, or a folder: one table each, called NAME, or as the file or folder is; files of a "
        "folder that are not of one table are a table each, called as they are"
    )
    option("tables", nargs="+", metavar="[NAME=]PATH", type=_table, help=about)
    about = "memory: each replica copies the tables when it starts; view: it reads the files for each query"
    option("--load", choices=("memory", "view"), default="memory", help=f"{about} (default: %(default)s)")
    option("--name", default="warehouse", help="the deployment's name, and the catalog's (default: %(default)s)")
    option("--threads", type=int, default=0, metavar="N", help="of each replica (default: all cores)")
    option("--memory-limit", default="", metavar="SIZE", help="of each replica's engine, e.g. 4GB (default: its own)")
    about = "what all replicas may spill to disk, together, e.g. 10GB (default: 90 %% of what is free)"
    option("--spill-limit", default="", metavar="SIZE", help=about)
    about = "look so often whether the files changed, and serve them as they are now, e.g. 30s, 5m (default: never)"
    option("--refresh", type=_seconds, default=0.0, metavar="TIME", help=about)
    about = "MiB of results that each replica keeps, and gives again until the files change (default: 0, none)"
    option("--cache-mb", type=int, default=0, metavar="N", help=about)
    _serving_options(sql)

    status = commands.add_parser("status", help="show the tiers of the apps that run on this machine")
    status.set_defaults(command=_status)
    status.add_argument("--app", metavar="ID", help="only this app")
    status.add_argument("--json", action="store_true", help="everything, one JSON object a line and app")

    scale = commands.add_parser("scale", help="change how many replicas a running app has")
    scale.set_defaults(command=_scale)
    scale.add_argument(
        "replicas", nargs="+", type=_replicas, metavar="NAME=N", help="replicas of a deployment, 1 or more"
    )
    _changing_options(scale)

    deploy = commands.add_parser("deploy", help="replace what a running app serves, without a failed request")
    deploy.set_defaults(command=_deploy)
    deploy.add_argument("app", metavar="module:app", help="where the new fs.App is")
    about = (
        "replicas of a deployment (default: as many as it has, or as a class declares that declared otherwise before)"
    )
    deploy.add_argument("--replicas", action="append", default=[], type=_replicas, metavar="NAME=N", help=about)
    about = "replace also deployments that are as they were, e.g. to have them load their data again"
    deploy.add_argument("--everything", action="store_true", help=about)
    about = "take the resources of what is replaced, a replica first, where there is no room beside it"
    deploy.add_argument("--in-place", action="store_true", help=about)
    _changing_options(deploy)
    return parser


def _changing_options(parser: argparse.ArgumentParser) -> None:
    """What `scale` and `deploy` have in common."""
    parser.add_argument(
        "--app", dest="app_id", metavar="ID", help="which app (default: the only one of yours that runs)"
    )
    about = "how long new replicas may take to be ready before all is as it was (default: %(default)s)"
    parser.add_argument("--timeout", type=float, default=CHANGE_TIMEOUT_S, metavar="SECONDS", help=about)


def _serving_options(parser: argparse.ArgumentParser) -> None:
    """What `run` and `sql` have in common."""
    defaults = FrontendOptions()
    option = parser.add_argument
    option("--host", default=defaults.host, help="address to listen on (default: %(default)s)")
    for protocol in PROTOCOLS:
        port = getattr(defaults, f"{protocol}_port")
        about = f"default {port}; 0: a free one"
        option(f"--{protocol}-port", type=int, default=port, metavar="PORT", help=about)
        option(f"--no-{protocol}", action="store_true", help=f"leave {protocol} out")
    about = "replicas of a deployment; may be given again for others"
    option("--replicas", action="append", default=[], type=_replicas, metavar="NAME=N", help=about)
    about = "frontend processes; the first takes the ports given, the others free ones"
    option("--frontends", type=int, default=1, metavar="N", help=about)
    about = "router processes; deployments are spread over them"
    option("--routers", type=int, default=1, metavar="N", help=about)
    option("--address", metavar="RAY", help="an existing Ray on this machine (default: a Ray of our own)")
    about = "a name that HTTP answers to, beside numeric addresses, localhost and --host's; may be given again"
    option("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "a web origin whose pages may call (CORS), e.g. https://app.example, or *; may be given again"
    option("--cors-origin", action="append", default=[], metavar="ORIGIN", help=about)
    about = "take SQL by GET /v1/sql?query=... too, for spreadsheets, links and the like (default: on loopback only)"
    option("--allow-get", action=argparse.BooleanOptionalAction, default=None, help=about)
    about = "how long requests may finish after SIGINT or SIGTERM (default: %(default)s)"
    option("--drain-timeout", type=float, default=defaults.drain_timeout_s, metavar="SECONDS", help=about)


def _table(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH: the name is then the file's without its ending, or the folder's. What exists is a path."""
    exists = os.path.exists(text)
    name, separator, path = text.partition("=")
    if separator and name.isidentifier() and not exists:
        if not path:
            raise argparse.ArgumentTypeError(f"{text!r} has no path; write NAME=PATH")
        return name, path
    where = Path(os.path.abspath(text) if exists else text)
    stem = where.parent.name if any(c in where.name for c in "*?[") and not exists else where.name.partition(".")[0]
    name = re.sub(r"\W", "_", stem)
    if not name.strip("_") or name[0].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} gives no name to call the table by; write NAME=PATH")
    return name, text


def _seconds(text: str) -> float:
    """30, 30s, 500ms, 5m or 1h, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 30s, 500ms, 5m or 1h")
    return float(found[1]) * _UNITS_S[found[2]]


def _replicas(text: str) -> tuple[str, int]:
    name, separator, count = text.partition("=")
    if not (name and separator and count.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N")
    return name, int(count)


# ---- run


def _run(arguments: argparse.Namespace) -> int:
    return _serve(arguments, lambda: load_app(arguments.app))


def _sql(arguments: argparse.Namespace) -> int:
    names = [name for name, _ in arguments.tables]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two tables would be called {repeated[0]!r}; write NAME=PATH for one of them")

    def make() -> App:
        from flightserve.app import App
        from flightserve.sql import Warehouse

        warehouse = Warehouse(
            dict(arguments.tables),
            name=arguments.name,
            load=arguments.load,
            threads=arguments.threads,
            memory_limit=arguments.memory_limit,
            spill_limit=arguments.spill_limit,
            refresh_s=arguments.refresh,
            cache_mb=arguments.cache_mb,
        )
        return App(warehouse.bind())

    return _serve(arguments, make)


def _serve(arguments: argparse.Namespace, make: Callable[[], App]) -> int:
    ports: dict[str, Any] = {
        f"{protocol}_port": None if getattr(arguments, f"no_{protocol}") else getattr(arguments, f"{protocol}_port")
        for protocol in PROTOCOLS
    }
    options = FrontendOptions(
        host=arguments.host, frontends=arguments.frontends, drain_timeout_s=arguments.drain_timeout,
        allowed_hosts=tuple(arguments.allow_host), cors_origins=tuple(arguments.cors_origin),
        allow_get=arguments.allow_get, **ports,
    )  # fmt: skip

    def plan() -> Plan:
        from flightserve.running import make_plan

        return make_plan(make(), options, dict(arguments.replicas), arguments.routers)

    return serve_until_told(plan, arguments.address)


def serve_until_told(make: Callable[[], Plan], address: str | None = None) -> int:
    """Make the plan, serve it, print the `ready` line, and stop after SIGINT or SIGTERM; the exit status."""
    stop = threading.Event()
    _on_signals(stop)
    with _StdoutForPrograms() as out:
        from flightserve.control.logs import configure_logging
        from flightserve.running import Running

        configure_logging("launcher")
        running = Running(make(), address)
        try:
            running.start(cancelled=stop.is_set)
            if not stop.is_set():
                addresses = json.dumps(_ready(running), separators=(",", ":"))
                print(f"ready {addresses}", file=out, flush=True)
            while not stop.wait(POLL_S):
                running.check()
        except SystemExit as told:
            # While `ray.init` runs, Ray's own handler answers SIGTERM, by leaving with its number.
            if told.code != signal.SIGTERM:
                raise
        finally:
            running.stop()
    return 0


def _ready(running: Running) -> dict[str, Any]:
    """The first frontend's addresses by protocol; with several frontends, all of theirs under `frontends`."""
    everyone = [child.addresses for child in running.status().children if child.addresses]
    return {**running.addresses, "frontends": everyone} if len(everyone) > 1 else dict(running.addresses)


def _on_signals(stop: threading.Event) -> None:
    """First signal: drain. Second of the kind: Python's default, which ends the process at once (the reaper and
    the children's own fences clean up)."""

    def told(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGINT, told)
    signal.signal(signal.SIGTERM, told)


class _StdoutForPrograms:
    """Inside, descriptor 1 is standard error, so that nothing that Ray or a user prints mixes with our line;
    the real standard output is what `with` gives."""

    def __enter__(self) -> TextIO:
        sys.stdout.flush()
        self._kept = os.dup(1)
        os.dup2(2, 1)
        self._out = os.fdopen(os.dup(self._kept), "w")
        return self._out

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        self._out.close()
        os.dup2(self._kept, 1)
        os.close(self._kept)


def load_app(target: str) -> Any:
    """The object named by `module:attribute`; the current directory is importable. Raises ConfigError."""
    from flightserve.app import App

    module, separator, attribute = target.partition(":")
    if not (module and separator and attribute):
        raise ConfigError(f"{target!r} is not module:app, e.g. examples.flights.app:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"there is no module {error.name!r} in {os.getcwd()} or on sys.path") from error
    try:
        app = getattr(imported, attribute)
    except AttributeError as error:
        raise ConfigError(f"module {module} has no {attribute!r}") from error
    if not isinstance(app, App):
        raise ConfigError(f"{target} is a {type(app).__name__}; it must be a flightserve.App")
    return app


# ---- scale, deploy


def _scale(arguments: argparse.Namespace) -> int:
    from flightserve.control import commands

    print(commands.scale(commands.find_app(arguments.app_id), dict(arguments.replicas), arguments.timeout))
    return 0


def _deploy(arguments: argparse.Namespace) -> int:
    from flightserve.control import commands
    from flightserve.running import planned

    running = commands.find_app(arguments.app_id)
    with _StdoutForPrograms() as out:
        try:
            deployments = planned(load_app(arguments.app), arguments.everything)
        except FlightserveError:
            raise
        except Exception as error:
            # Whatever a stranger's module raises.
            message = f"nothing was changed: {arguments.app} cannot be imported: {type(error).__name__}: {error}"
            raise commands.ChangeFailed(message, traceback.format_exc()) from error
        replicas, timeout_s, in_place = dict(arguments.replicas), arguments.timeout, arguments.in_place
        print(commands.deploy(running, deployments, replicas, timeout_s, in_place), file=out)
    return 0


# ---- status


def _status(arguments: argparse.Namespace) -> int:
    from flightserve.control.names import running_apps
    from flightserve.control.observer import ask_view

    apps = [app for app in running_apps() if arguments.app in (None, app)]
    if not apps:
        print("no flightserve app runs on this machine", file=sys.stderr)
        return 1
    failed = False
    for app in apps:
        try:
            view = ask_view(app)
        except FlightserveError as error:
            print(f"{app}: {error.message}", file=sys.stderr)
            # Another user's app is there to see and no fault, unless it is the one that was asked for.
            failed |= bool(arguments.app) or not isinstance(error, PermissionDenied)
            continue
        try:
            print(_as_json(view) if arguments.json else render(view), flush=True)
        except BrokenPipeError:
            # Who reads our output (`... | head`) has had enough; nothing more may be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
    return 1 if failed else 0


def _as_json(view: View) -> str:
    import msgspec

    return msgspec.json.encode(view).decode()


def render(view: View) -> str:
    """The view as a table for people."""
    lines = [f"app {view.app_id}: {view.phase}" + (f" ({view.problem})" if view.problem else "")]
    lines += [f"  changing: {view.change}"] if view.change else []
    lines += [f"  {protocol:8}{address}" for protocol, address in view.addresses.items()]
    lines += _columns(
        [("DEPLOYMENT", "VERSION", "STATE", "DESIRED", "READY", "DRAINING")],
        [
            (each.name, each.version, each.state, str(each.desired), str(each.ready), str(each.draining))
            for each in view.deployments
        ],
    )
    lines += _columns(
        [
            ("PROCESS", "PHASE", "READY", "VERSION", "PID", "RESTARTS", "AGE", "ADDRESSES"),
            ("supervisor", "serving", "yes", "", str(view.supervisor_pid), "", "", ""),
        ],
        [
            (
                child.name,
                child.phase,
                "yes" if child.ready else "no",
                child.version if child.deployment else "",
                str(child.pid or ""),
                str(child.restarts),
                f"{child.age_s:.0f} s",
                " ".join(child.addresses.values()),
            )
            for child in view.children
        ],
    )
    return "\n".join(lines)


def _columns(head: list[tuple[str, ...]], rows: list[tuple[str, ...]]) -> list[str]:
    """An empty line, then the rows with cells of equal width; nothing where there is only a head line."""
    rows = [*head, *rows]
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["", *("  ".join(row).rstrip() for row in cells)]
