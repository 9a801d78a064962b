"""`flightserve keys`: keys for ZeroMQ's CURVE, of the server and of its clients."""

from __future__ import annotations

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Add `keys` to the parser's commands."""
    keys = commands.add_parser("keys", help="make the keys with which ZeroMQ is encrypted (--zmq-keys)")
    keys.set_defaults(command=_keys)
    about = "the folder that --zmq-keys names; the server's keys are made where there are none"
    keys.add_argument("folder", metavar="DIR", help=about)
    about = "make keys for a client of that name, which may then connect; as soon as there is one, no others may"
    keys.add_argument("--client", action="append", default=[], metavar="NAME", help=about)


def _keys(arguments: argparse.Namespace) -> int:
    from flightserve.frontends.zmq.curve import make_keys

    made = make_keys(arguments.folder, arguments.client)
    for path in made:
        print(path)
    return 0
