"""`flightserve proto` and `flightserve openapi`: what clients in other languages are made from, without serving."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from typing import Any

from flightserve.cli.loading import load_app
from flightserve.cli.output import StdoutForPrograms
from flightserve.cli.settings.settled import add_set_option


def add_commands(commands: Any) -> None:
    """Add `proto` and `openapi` to the parser's commands."""
    about = "print the folder of the .proto files, for protoc's -I and grpcurl's -import-path"
    commands.add_parser("proto", help=about).set_defaults(command=_proto)
    openapi = commands.add_parser("openapi", help="print an app's OpenAPI document, as it is served at /openapi.json")
    openapi.set_defaults(command=_openapi)
    openapi.add_argument("app", metavar="module:app", help="where the fs.App is")
    add_set_option(openapi)


def _proto(_arguments: argparse.Namespace) -> int:
    print(files("flightserve.proto"))
    return 0


def _openapi(arguments: argparse.Namespace) -> int:
    with StdoutForPrograms() as out:
        from flightserve.frontends.http.openapi import openapi

        app = arguments.settings.with_options(load_app(arguments.app))
        specs = sorted(app.specs, key=lambda spec: spec.name)
        # A server on loopback takes queries by URL too; a document that names more than some server takes would lie.
        print(json.dumps(openapi(specs), indent=2), file=out)
    return 0
