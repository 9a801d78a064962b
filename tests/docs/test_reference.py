"""Tables of docs/reference/ against the code: a name or a default that changes in one changes in the other."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import inspect
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import flightserve as fs
from flightserve import errors, metrics
from flightserve.cli.main import make_parser
from flightserve.cli.settings.files import read_file
from flightserve.cli.settings.known import read_settings
from flightserve.config import EdgeLimits, FabricLimits, FrontendOptions
from flightserve.types import DeploymentOptions
from flightserve.wire.status import TABLE, Code

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
# Defaults that a page says in words.
IN_WORDS = {"replicas": "as declared", "ticket_key": "random", "limits": "EdgeLimits()"}


@functools.cache
def tables(page: str) -> dict[str, list[list[str]]]:
    """The rows of a page's tables by the heading above them, without the head of each table; cells as they read."""
    found: dict[str, list[list[str]]] = {}
    heading, rows = "", 0
    for line in (REFERENCE / f"{page}.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        rows = rows + 1 if line.startswith("|") else 0
        if rows > 2:
            cells = line.replace(r"\|", "\0").strip("|").split("|")
            found.setdefault(heading, []).append([cell.replace("\0", "|").strip() for cell in cells])
    return found


def plain(cell: str) -> str:
    return cell.replace("`", "")


def commands() -> Mapping[str, argparse.ArgumentParser]:
    (sub,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return sub.choices


def options_of(command: str) -> dict[str, Any]:
    """Each option, as the page writes it, and its default."""
    actions = commands()[command]._actions
    return {", ".join(a.option_strings): a.default for a in actions if a.option_strings and a.dest != "help"}


# ---- the command


def test_every_command_has_its_section() -> None:
    page = (REFERENCE / "cli.md").read_text()
    sections = set(re.findall(r"^## flightserve (\w+)$", page, re.MULTILINE))
    assert sections == set(commands())


@pytest.mark.parametrize("command", ["run", "sql", "check", "status", "top", "scale", "reconfigure", "deploy", "keys"])
def test_options_of_the_command(command: str) -> None:
    said = {plain(name): default for name, default, _ in tables("cli")[f"flightserve {command}"]}
    options = options_of(command)
    if command in ("sql", "check"):
        # Its section refers to `run` for what they have in common.
        shared = options_of("run")
        options = {name: default for name, default in options.items() if name not in shared}
    assert said.keys() == options.keys()
    for name, default in options.items():
        if default not in (None, False, "", []):
            assert said[name] == str(default), name


# ---- settings


def test_the_full_file_of_settings_has_every_one_with_its_default() -> None:
    """docs/how-to/flightserve.toml: what has no default stands there as an example, behind a #."""
    path = ROOT / "docs" / "how-to" / "flightserve.toml"
    known = read_settings(make_parser())
    values = read_file(str(path), known).values
    for key, setting in known.by_key.items():
        if setting.default not in (None, "", []):
            assert key in values, f"{path.name} lacks {setting.name} = {setting.default!r}"
            assert values[key].value == setting.default, setting.name
    everything = tomllib.loads(re.sub(r"^# (?=[\w\[])(?=.*(?: = |\]$))", "", path.read_text(), flags=re.MULTILINE))
    for setting in known.by_key.values():
        section = everything if len(setting.key) == 1 else everything[setting.key[0]]
        assert setting.key[-1] in section, f"{path.name} lacks an example of {setting.name}"
    (options,) = everything["deployments"].values()
    assert options.keys() == known.options.keys()
    for name, value in options.items():
        default = getattr(DeploymentOptions(), name)
        assert default is None or known.options[name].from_toml(value, "") == default, name


# ---- options


def check_defaults(said: list[list[str]], actual: Mapping[str, Any]) -> None:
    """Names and defaults are those of the code, in any order."""
    page = {plain(row[0]): row[1].replace('"', "'") for row in said}
    assert page.keys() == actual.keys()
    for name, default in actual.items():
        assert page[name] in (repr(default), IN_WORDS.get(name)), name


def fields(of: type) -> dict[str, Any]:
    """A dataclass's fields and their defaults."""
    example = of()
    return {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}


def keywords(of: Any) -> dict[str, Any]:
    parameters = inspect.signature(of).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_options_of_a_deployment() -> None:
    options = fields(DeploymentOptions)
    # It is said as `replicas`.
    del options["autoscale"]
    check_defaults(tables("options")["Deployment"], options)


def test_options_of_autoscale() -> None:
    check_defaults(tables("options")["Autoscale"], keywords(fs.autoscale))


@pytest.mark.parametrize(
    ("heading", "of"),
    [
        ("Method", fs.method),
        ("Health", fs.healthy),
        ("Warehouse", fs.sql.Warehouse),
        ("Sklearn", fs.models.Sklearn),
        ("Onnx", fs.models.Onnx),
        ("Torch", fs.models.Torch),
    ],
)
def test_options_of_decorators_and_warehouses(heading: str, of: Any) -> None:
    check_defaults(tables("options")[heading], keywords(of))


def test_options_of_serve() -> None:
    check_defaults(tables("options")["Serve"], {**keywords(fs.serve), **fields(FrontendOptions)})


# ---- limits


@pytest.mark.parametrize("of", [EdgeLimits, FabricLimits])
def test_limits(of: type) -> None:
    check_defaults(tables("limits")[of.__name__], fields(of))


def test_other_limits() -> None:
    for name, value, _ in tables("limits")["Others"]:
        module, _, constant = plain(name).rpartition(".")
        assert str(getattr(importlib.import_module(module), constant)) == value, name


# ---- errors


def test_codes() -> None:
    said = {row[0]: row[1:5] for row in tables("errors")["Codes"]}
    assert said.keys() == {code.name for code in Code}
    for code, status in TABLE.items():
        again = "" if code is Code.OK else "yes" if status.retryable else "no"
        assert said[code.name] == [str(int(code)), str(status.http), status.flight, again]


def test_statuses_that_only_http_has() -> None:
    from flightserve.frontends.http import errors as http_errors
    from flightserve.frontends.http import origin_policy

    said = {(int(status), code) for status, code, _ in tables("errors")["HTTP statuses beside those"]}
    own = [kind for kind in [*vars(http_errors).values(), origin_policy.WrongHost] if hasattr(kind, "http_status")]
    actual = {(kind.http_status, Code(kind.code).name) for kind in own}
    actual |= {(status, Code(kind.code).name) for kind, status in http_errors._BY_CLASS.items()}
    assert said == {pair for pair in actual if pair != (400, "INVALID_ARGUMENT")}


def test_classes_of_errors() -> None:
    said = {plain(name): code for name, code in tables("errors")["In Python"]}
    assert said == {kind.__name__: Code(kind.code).name for kind in errors.KINDS}


# ---- metrics


def test_metrics() -> None:
    said = {plain(row[0]) for row in tables("metrics")["Metrics"]}
    shown = {name for name, *_ in metrics._GAUGES.values()} | {name for name, *_ in metrics._SUMMARIES.values()}
    shown |= {f"{name}_total" for name, *_ in metrics._TOTALS.values()}
    shown |= {f"flightserve_tier_{name}_total" for name in metrics._TIER_TOTALS}
    shown |= {f"flightserve_tier_{name}" for name, _ in metrics._TIER_GAUGES.values()}
    shown |= {metrics.PROCESS_INFO, metrics.CERTIFICATE_EXPIRES}
    own = re.findall(rb"^# TYPE (\S+) (?:counter|histogram)", metrics.Metrics().text(), re.MULTILINE)
    assert said == shown | {name.decode() for name in own}


# ---- rooms


def test_rooms_and_their_ranks() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    ranks = {rank: set(re.findall(r"\w+", layer)) for rank, layer in enumerate(reversed(layers))}
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    said: dict[int, set[str]] = {}
    for rank, names in rows:
        said.setdefault(int(rank), set()).update(re.findall(r"\w+", names))
    assert said == ranks


# ---- routes, RPCs, actions


def test_http_routes() -> None:
    from flightserve.frontends.http import pages
    from flightserve.frontends.http.console.routes import ConsolePages

    said = {plain(row[0]) for row in tables("http")["Routes"]}
    source = inspect.getsource(pages.Application) + inspect.getsource(ConsolePages)
    served = set(re.findall(r'Route\("([^"]+)"', source))
    assert {re.sub(r"\?.*", "", path) for cell in said for path in re.findall(r"(/\S*?)(?:,|$| )", cell)} == served


def test_rpcs() -> None:
    from flightserve.proto import flightserve_pb2 as pb

    rows = " ".join(row[0] for row in tables("grpc")["gRPC"])
    for method in pb.DESCRIPTOR.services_by_name["FlightServe"].methods:
        assert re.search(rf"`{method.name}\b", rows), method.name


def test_flight_actions() -> None:
    from flightserve.frontends.flight.sql_actions import ACTIONS

    rows = " ".join(row[0] for row in tables("flight")["SQL"])
    assert set(re.findall(r"`([\w.]+)`", rows)) >= ACTIONS.keys()
