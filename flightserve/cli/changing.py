"""`flightserve scale`, `flightserve deploy` and `flightserve reconfigure`: change an app while it runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from flightserve.cli.arguments import replica_count, replica_counts, seconds
from flightserve.cli.loading import NotLoaded, load_app
from flightserve.cli.output import StdoutForPrograms
from flightserve.cli.settings.settled import add_set_option
from flightserve.errors import ConfigError
from flightserve.running import CHANGE_TIMEOUT_S, RECONFIGURE_TIMEOUT_S


def add_commands(commands: Any) -> None:
    """Add `scale`, `deploy` and `reconfigure` to the parser's commands."""
    scale = commands.add_parser("scale", help="change how many replicas a running app has")
    scale.set_defaults(command=_scale)
    scale.add_argument(
        "replicas", nargs="+", type=replica_counts, metavar="NAME=N",
        help="replicas of a deployment, 1 or more; NAME=LOW-HIGH: bounds of a number that follows the load",
    )  # fmt: skip
    _changing_options(scale)

    deploy = commands.add_parser("deploy", help="replace what a running app serves, without a failed request")
    deploy.set_defaults(command=_deploy)
    deploy.add_argument("app", metavar="module:app", help="where the new fs.App is")
    about = (
        "replicas of a deployment (default: as many as it has, or as a class declares that declared otherwise before)"
    )
    deploy.add_argument("--replicas", action="append", default=[], type=replica_count, metavar="NAME=N", help=about)
    about = "replace also deployments that are as they were, e.g. to have them load their data again"
    deploy.add_argument("--everything", action="store_true", help=about)
    about = "take the resources of what is replaced, a replica first, where there is no room beside it"
    deploy.add_argument("--in-place", action="store_true", help=about)
    _changing_options(deploy)
    add_set_option(deploy)

    reconfigure = commands.add_parser("reconfigure", help="tell a deployment's replicas of another configuration")
    reconfigure.set_defaults(command=_reconfigure)
    reconfigure.add_argument("deployment", metavar="NAME", help="the deployment")
    about = "JSON that the object's reconfigure(config) gets, e.g. '{\"threshold\": 0.5}'; - reads standard input"
    reconfigure.add_argument("configuration", metavar="CONFIG", help=about)
    _app_option(reconfigure)
    about = "how long all replicas together may take (default: %(default)s)"
    reconfigure.add_argument("--timeout", type=seconds, default=RECONFIGURE_TIMEOUT_S, metavar="TIME", help=about)


def _app_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--app", dest="app_id", metavar="ID", help="which app (default: the only one of yours that runs)"
    )


def _changing_options(parser: argparse.ArgumentParser) -> None:
    """What `scale` and `deploy` have in common."""
    _app_option(parser)
    about = "how long new replicas may take to be ready before all is as it was (default: %(default)s)"
    parser.add_argument("--timeout", type=seconds, default=CHANGE_TIMEOUT_S, metavar="TIME", help=about)


def _scale(arguments: argparse.Namespace) -> int:
    from flightserve.control import commands

    print(commands.scale(commands.find_app(arguments.app_id), dict(arguments.replicas), arguments.timeout))
    return 0


def _reconfigure(arguments: argparse.Namespace) -> int:
    from flightserve.control import commands

    text = sys.stdin.read() if arguments.configuration == "-" else arguments.configuration
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the configuration is no JSON: {error}") from error
    app_id = commands.find_app(arguments.app_id)
    print(commands.reconfigure(app_id, arguments.deployment, config, arguments.timeout))
    return 0


def _deploy(arguments: argparse.Namespace) -> int:
    from flightserve.control import commands
    from flightserve.running import plan_deployments

    running = commands.find_app(arguments.app_id)
    with StdoutForPrograms() as out:
        try:
            app = arguments.settings.with_options(load_app(arguments.app))
            deployments = plan_deployments(app, arguments.everything)
        except NotLoaded as error:
            raise commands.ChangeFailed(f"nothing was changed: {error.message}", error.detail) from error
        replicas, timeout_s, in_place = dict(arguments.replicas), arguments.timeout, arguments.in_place
        print(commands.deploy(running, deployments, replicas, timeout_s, in_place), file=out)
    return 0
