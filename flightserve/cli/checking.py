"""`flightserve check`: whether what would be served can be, and by which settings, without starting anything.

Standard output has the settings as TOML, with where each comes from; standard error what is wrong, a line each, and
what a user's modules print.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from flightserve.cli.arguments import is_address, table
from flightserve.cli.flags import naming_flags
from flightserve.cli.loading import load_app
from flightserve.cli.output import StdoutForPrograms
from flightserve.cli.serving import add_serving_options, frontend_options, plan_of
from flightserve.cli.settings.deployments import by_deployment
from flightserve.cli.settings.found import FoundOption, FoundValue
from flightserve.cli.settings.known import SERVING
from flightserve.cli.settings.rendering import json_options, json_settings, toml_lines
from flightserve.cli.settings.settled import SettledSettings
from flightserve.cli.source_options import check_tables, warehouse_app
from flightserve.config import FrontendOptions
from flightserve.errors import FlightserveError

if TYPE_CHECKING:
    from flightserve.app import App
    from flightserve.control.plan import Plan
    from flightserve.types import DeploymentOptions

T = TypeVar("T")

WRONG: Final = 2
DECLARED: Final = "declared"
_APP: Final = re.compile(r"[\w.]+:\w+")


def add_commands(commands: Any) -> None:
    """Add `check` to the parser's commands."""
    check = commands.add_parser("check", help="say whether what is to be served can be, and by which settings")
    check.set_defaults(command=_check, refused=refused)
    about = (
        "module:app, or [NAME=]PATH of files as `sql` takes them; may be several (default: what the settings say is "
        "served, by run or sql)"
    )
    check.add_argument("targets", nargs="*", metavar="TARGET", type=_target, help=about)
    check.add_argument("--json", action="store_true", help="everything as one JSON object")
    add_serving_options(check)


def _target(text: str) -> str | tuple[str, str]:
    """An app, or a table."""
    return text if _APP.fullmatch(text) and not is_address(text) else table(text)


@dataclass(slots=True)
class CheckReport:
    """What came of it. Warnings are of what may be another way when it is served: ports."""

    settings: SettledSettings
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    serves: dict[str, list[str]] = field(default_factory=dict)
    deployments: dict[str, dict[str, FoundValue]] = field(default_factory=dict)


def _check(arguments: argparse.Namespace) -> int:
    with StdoutForPrograms() as out:
        checked = check_all(arguments)
        lines = [_json(checked)] if arguments.json else _lines(checked)
        # A variable may be bytes that are no text, and standard output may take less than all of Unicode.
        encoding = out.encoding
        print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding), file=out)
    if not arguments.json:
        for text in checked.warnings:
            print(f"flightserve: warning: {text}", file=sys.stderr)
        for text in checked.problems:
            print(f"flightserve: {text}", file=sys.stderr)
    return WRONG if checked.problems else 0


def check_all(arguments: argparse.Namespace) -> CheckReport:
    """Look at everything, whatever is found to be wrong on the way."""
    checked = CheckReport(arguments.settings)
    options = _tried(checked, lambda: frontend_options(arguments))
    targets = list(_targets(arguments))
    if not targets:
        checked.problems.append("nothing is to be served: name module:app or [NAME=]PATH, or write it into the file")
    for target in targets:
        plan = _tried(checked, lambda: plan_of(target.arguments, target.make, options or FrontendOptions()))  # noqa: B023
        if plan is not None:
            _note(checked, target.name, plan)
    if options is not None:
        _tried(checked, lambda: _check_opening(options))
        _check_ports(checked, options)
    return checked


def _tried(checked: CheckReport, look: Callable[[], T]) -> T | None:
    """What it gives; None where it is a problem, which is noted once."""
    try:
        with naming_flags(checked.settings):
            return look()
    except FlightserveError as error:
        if error.message not in checked.problems:
            checked.problems.append(error.message)
        return None


def _check_opening(options: FrontendOptions) -> None:
    from flightserve.control import opening

    opening.check(options)


def _check_ports(checked: CheckReport, options: FrontendOptions) -> None:
    """Who holds one may be gone when it is served, and may be the app that runs now."""
    from flightserve.control import ports

    try:
        with naming_flags(checked.settings):
            ports.check(options)
    except FlightserveError as error:
        checked.warnings.append(error.message)


class ToCheck(NamedTuple):
    """Something to be served, with the arguments that `run` or `sql` would have."""

    name: str
    arguments: argparse.Namespace
    make: Callable[[], App]


def _targets(arguments: argparse.Namespace) -> Iterator[ToCheck]:
    run, sql = (arguments.settings.arguments_of(command) for command in SERVING)
    apps = [run.app] if run.app else []
    if arguments.targets:
        apps = [each for each in arguments.targets if isinstance(each, str)]
        sql.tables = [each for each in arguments.targets if not isinstance(each, str)]
    for app in apps:
        yield ToCheck(app, run, functools.partial(load_app, app))
    if sql.tables:
        yield ToCheck("sql", sql, functools.partial(_warehouse, sql))


def _warehouse(arguments: argparse.Namespace) -> App:
    check_tables(arguments.tables)
    return warehouse_app(arguments)


# ---- telling


def _note(checked: CheckReport, name: str, plan: Plan) -> None:
    """What is served by that name."""
    checked.serves[name] = names = [each.spec.name for each in plan.deployments]
    said = by_deployment(checked.settings.options, names)
    for each in plan.deployments:
        checked.deployments[each.spec.name] = dict(_options(each.spec.options, said.get(each.spec.name, {})))


def _options(options: DeploymentOptions, said: Mapping[str, FoundOption]) -> Iterator[tuple[str, FoundValue]]:
    """Those that are said, and those that are declared otherwise than usual."""
    usual = type(options)()
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        if each.name == "autoscale":
            continue
        if each.name == "replicas" and options.autoscale is not None:
            value = dataclasses.asdict(options.autoscale)
        if each.name in said:
            yield each.name, dataclasses.replace(said[each.name].found, value=value)
        elif value != getattr(usual, each.name):
            yield each.name, FoundValue(value, DECLARED)


def _lines(checked: CheckReport) -> list[str]:
    served = [f"# {name} serves {', '.join(names)}" for name, names in checked.serves.items()]
    return [*toml_lines(checked.settings, checked.deployments), *[""][: len(served)], *served]


def _json(checked: CheckReport) -> str:
    told = {
        "ok": not checked.problems,
        "problems": checked.problems,
        "warnings": checked.warnings,
        "file": checked.settings.file or None,
        "serves": checked.serves,
        "settings": json_settings(checked.settings),
        "deployments": json_options(checked.deployments),
    }
    return json.dumps(told)


def refused(error: FlightserveError) -> str:
    """What `--json` says where settings are wrong, so that there are none to show."""
    told = {"ok": False, "problems": [error.message], "warnings": []}
    return json.dumps({**told, "file": None, "serves": {}, "settings": {}, "deployments": {}})
