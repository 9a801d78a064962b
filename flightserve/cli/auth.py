"""`flightserve auth`: who may do what, in the file of `--auth`."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import sys
from typing import Any, Final

from flightserve.core.access.rights import Principal, PrincipalLimits
from flightserve.errors import ConfigError, Unavailable

PASSWORD_BYTES_MAX: Final = 1024
# A shorter one can be guessed where its hash becomes known.
PASSWORD_CHARS_MIN: Final = 12


def add_commands(commands: Any) -> None:
    """Add `auth` to the parser's commands."""
    auth = commands.add_parser("auth", help="add, revoke and list who may call (the file of --auth)")
    actions = auth.add_subparsers(required=True, metavar="ACTION")

    add = actions.add_parser("add", help="add a principal, and print its token once")
    add.set_defaults(command=_add)
    add.add_argument("name", metavar="NAME", help="the principal's name")
    _file_option(add)
    about = "a role that the file says, or admin, which may all; may be given again"
    add.add_argument("--role", action="append", default=[], metavar="ROLE", help=about)
    about = "a password in place of a token: it is asked for, or read from standard input"
    add.add_argument("--password", action="store_true", help=about)

    revoke = actions.add_parser("revoke", help="remove a principal; apps that use the file refuse it within a second")
    revoke.set_defaults(command=_revoke)
    revoke.add_argument("name", metavar="NAME", help="the principal's name")
    _file_option(revoke)

    show = actions.add_parser("list", help="the principals, without what they show")
    show.set_defaults(command=_list)
    _file_option(show)
    show.add_argument("--json", action="store_true", help="one JSON array")


def _file_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--auth", required=True, metavar="FILE", help="the file, as --auth of run and sql names it")


def _add(arguments: argparse.Namespace) -> int:
    from flightserve.identity.editing import add_principal

    password = _ask_password() if arguments.password else None
    token = add_principal(arguments.auth, arguments.name, arguments.role, password)
    if not arguments.role:
        print(f"{arguments.name} has no role, and may do nothing yet", file=sys.stderr)
    if token:
        _print_once(token, arguments)
    return 0


def _print_once(token: str, arguments: argparse.Namespace) -> None:
    """Raises Unavailable where nobody gets it, and takes the principal back: nobody could ever be it."""
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        print(token, flush=True)
    except OSError as error:
        from flightserve.identity.editing import revoke_principal

        revoke_principal(arguments.auth, arguments.name)
        # Nor is it to be written when the process ends.
        sys.stdout = None
        why = error.strerror or error
        raise Unavailable(f"{arguments.name} is not added: standard output does not take the token: {why}") from error


def _ask_password() -> str:
    """From the terminal, twice, or a line of standard input; not an argument, which all users of the machine see."""
    if sys.stdin is None:
        raise ConfigError("no password was given: standard input is closed")
    try:
        password = _asked_twice() if sys.stdin.isatty() else sys.stdin.readline(PASSWORD_BYTES_MAX + 2).rstrip("\r\n")
        length = len(password.encode())
    except UnicodeError as error:
        raise ConfigError("the password is no text in UTF-8") from error
    if not 0 < length <= PASSWORD_BYTES_MAX:
        raise ConfigError(f"a password has 1 to {PASSWORD_BYTES_MAX:,} bytes")
    if len(password) < PASSWORD_CHARS_MIN:
        print(f"a password of less than {PASSWORD_CHARS_MIN} characters can be guessed", file=sys.stderr)
    return password


def _asked_twice() -> str:
    try:
        password, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    except (EOFError, KeyboardInterrupt) as error:
        raise ConfigError("no password was given") from error
    if password != again:
        raise ConfigError("the two passwords differ")
    return password


def _revoke(arguments: argparse.Namespace) -> int:
    from flightserve.identity.editing import revoke_principal

    revoke_principal(arguments.auth, arguments.name)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from flightserve.identity.reading import read_auth, read_book

    book = read_book(read_auth(arguments.auth), arguments.auth)
    rows = [(entry.principal, entry.shows) for entry in book.entries.values()]
    if arguments.json:
        print(json.dumps([_described(*row) for row in rows]))
        return 0
    for principal, shows in rows:
        told = [", ".join(principal.roles) or "no role", ", ".join(shows), *_limits(principal)]
        print(f"{principal.name}: {'; '.join(told)}")
    return 0


def _described(principal: Principal, shows: list[str]) -> dict[str, Any]:
    limits = dataclasses.asdict(principal.limits)
    return {"name": principal.name, "roles": list(principal.roles), "shows": shows, "limits": limits}


def _limits(principal: Principal) -> list[str]:
    usual = dataclasses.asdict(PrincipalLimits())
    return [f"{key} {value:g}" for key, value in dataclasses.asdict(principal.limits).items() if value != usual[key]]
