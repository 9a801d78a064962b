"""The `flightserve` command: `run` serves an app until it is told to stop, `sql` files as tables; `check` says whether
they could; `init` makes a folder to begin in; `status` shows what runs; `scale`, `deploy` and `reconfigure` change it
while it runs; `keys` makes those of ZeroMQ.

Standard output is for programs: `run` writes exactly one line there, `ready {addresses as JSON}`, when every
replica answers. All else (logs, what user code prints) goes to standard error. Exit status: 0 after SIGINT or
SIGTERM and a drain, or a change that was made; 1 when the app cannot be served, or not be changed (then it serves
what it did before); 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from flightserve import __version__
from flightserve.cli import auth, changing, checking, completion, contracts, keys, projects, serving, status
from flightserve.cli.log_options import error_record
from flightserve.cli.serving import status_of
from flightserve.cli.settings.settled import COMMAND, add_file_options, parse_flags, settle
from flightserve.cli.top import screen
from flightserve.control.sources import working_folder
from flightserve.errors import FlightserveError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = parse_flags(make_parser(), argv)
    try:
        try:
            settle(arguments, os.environ)
            ended = int(arguments.command(arguments))
        except FileNotFoundError:
            working_folder()
            raise
        # Of a standard output that is closed there is none.
        print(end="", flush=True)
        return ended
    except BrokenPipeError:
        # Who reads our output (`... | head`) has had enough; nothing more may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except FlightserveError as error:
        if hasattr(arguments, "refused") and not hasattr(arguments, "settings") and hasattr(arguments, "json"):
            print(arguments.refused(error))
            return status_of(error)
        in_json = getattr(arguments, "log_format", None) == "json"
        print(*([error_record(error)] if in_json else _lines(error)), sep="\n", file=sys.stderr)
        return status_of(error)


def _lines(error: FlightserveError) -> list[str]:
    """The one that helps, alone; before it the traceback for who asked for all there is."""
    detail = getattr(error, "detail", "")
    wanted = detail and logging.getLogger("flightserve").isEnabledFor(logging.DEBUG)
    return [*([detail] if wanted else []), f"flightserve: {error.message}"]


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each leaves the function that runs it in `command`."""
    parser = argparse.ArgumentParser(prog="flightserve", description="Serve Python methods on Arrow record batches.")
    parser.add_argument("--version", action="version", version=f"flightserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest=COMMAND)
    for each in (serving, checking, projects, status, screen, changing, auth, keys, contracts, completion):
        each.add_commands(commands)
    for command in commands.choices.values():
        add_file_options(command)
    return parser
