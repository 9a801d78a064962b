"""`flightserve completion SHELL`: a script by which bash, zsh or fish complete commands, options, files, and the names
of what runs. `shtab` writes it, off the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

SHELLS: Final = ("bash", "zsh", "fish")
# What the scripts ask us for, each a word a line.
NAMES: Final = ("apps", "deployments")
# How long an app may take to say what its deployments are.
ASK_S: Final = 1.0


def add_commands(commands: Any) -> None:
    """Add `completion` to the parser's commands."""
    about = "print a script by which a shell completes commands, options, files and names of what runs"
    completion = commands.add_parser("completion", help=about)
    completion.set_defaults(command=_completion)
    completion.add_argument("shell", choices=(*SHELLS, *NAMES), metavar="SHELL", help=", ".join(SHELLS))


def _completion(arguments: argparse.Namespace) -> int:
    lines = _names(arguments.shell) if arguments.shell in NAMES else [script(arguments.shell)]
    for line in lines:
        print(line)
    return 0


def script(shell: str) -> str:
    """The script for that shell."""
    import shtab

    from flightserve.cli.main import make_parser

    parser = make_parser()
    _mark(parser)
    return str(shtab.complete(parser, shell))


def _mark(parser: argparse.ArgumentParser) -> None:
    """Say of options what their values are completed by."""
    import shtab

    names = {kind: shtab.cmd(f"flightserve completion {kind} 2>/dev/null") for kind in NAMES}
    of_metavar = {
        "FILE": shtab.FILE, "DIR": shtab.DIRECTORY, "[NAME=]PATH": shtab.FILE, "TARGET": shtab.FILE,
        "ID": names["apps"],
    }  # fmt: skip
    for command, action in _actions(parser):
        if action.metavar == "SHELL":
            action.choices = SHELLS
        found = of_metavar.get(str(action.metavar))
        if command in ("scale", "reconfigure") and action.dest in ("replicas", "deployment"):
            found = names["deployments"]
        if found is not None:
            action.complete = found  # type: ignore[attr-defined]


def _actions(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """Each option and argument with the command that it is of, those of commands below commands too."""
    for action in parser._actions:
        yield command, action
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from _actions(each, name)


def _names(kind: str) -> Iterator[str]:
    """Of this user's apps; nothing of one that does not answer."""
    from flightserve.control.names import running_apps
    from flightserve.control.observer import ask_view
    from flightserve.errors import FlightserveError

    for app in running_apps():
        if kind == "apps":
            yield app
            continue
        try:
            view = ask_view(app, ASK_S)
        except FlightserveError:
            # A shell that completes a word has no place for what is wrong.
            continue
        yield from dict.fromkeys(each.name for each in view.deployments)
