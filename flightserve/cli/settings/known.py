"""Every setting there is, each with its key in a file, its variable and its flag. Read off the command's parser and the
classes that hold bounds and options, so that an option that is added there has all three at once.

A key is a flag's name with `_` for `-`. What `run` and `sql` both take stands at the top of a file, what one command
alone takes under its name: `[sql]`. The variable is the key in capitals: `FLIGHTSERVE_SQL_LOAD`. A flag that may be
given again is a list; where it says NAME=VALUE, a table. Paths (metavar FILE or DIR) in a file are relative
to it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from flightserve.cli.arguments import is_address, port, seconds, table
from flightserve.cli.settings.fields import LIMITS, deployment_options, limits_of
from flightserve.cli.settings.kinds import Locate, OneValue, Several, ValueKind, no_place, truth
from flightserve.config import UNIX

PREFIX: Final = "FLIGHTSERVE_"
# The commands whose common options stand at the top; `check` takes theirs.
SERVING: Final = ("run", "sql")
CHECK: Final = "check"
# They say where settings come from, and are none.
FILE_OPTION: Final = "config"
SET_OPTION: Final = "set"
# What `check` looks at in the place of what the settings say is served.
TARGETS: Final = "targets"
DEPLOYMENTS: Final = "deployments"
# What an option says that nobody is to read. A file that holds it may be named.
_SECRET: Final = re.compile(r"(?:^|_)(?:secret|password|passphrase|token|credentials?|headers?)(?:$|_)")
# What TOML says for flags of these types; a type that is not here takes whatever its own function does.
_TAKEN: Final[Mapping[Any, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    port: ((int, str), 'a number, or a text "unix:PATH"'),
    seconds: ((int, float, str), 'a number of seconds, or a time such as "30s"'),
}
_PATHS: Final = ("FILE", "DIR")

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One. `dest` and `flag` are the parser's; of a bound there are none."""

    key: Key
    kind: ValueKind
    default: Any = None
    dest: str = ""
    flag: str = ""

    @property
    def name(self) -> str:
        """As people write it: `sql.load`."""
        return ".".join(self.key)

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return variable_of(self.key)

    @property
    def is_secret(self) -> bool:
        """Whether no message may have its value."""
        if isinstance(self.kind, OneValue) and (self.kind.takes != (str,) or self.kind.locate is not no_place):
            # A number, or the name of a file.
            return False
        return bool(_SECRET.search(self.key[-1]))


@dataclass(frozen=True, slots=True)
class KnownSettings:
    """All of them by key, and those of each command's options. `options` are those of a deployment."""

    by_key: Mapping[Key, Setting]
    of_command: Mapping[str, tuple[Setting, ...]]
    options: Mapping[str, ValueKind] = field(default_factory=deployment_options)


def variable_of(key: Key) -> str:
    """A key in capitals."""
    return PREFIX + re.sub(r"\W", "_", "_".join(key)).upper()


def parsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)


def options_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options that are settings, and arguments that may be left out; not what only refuses."""
    for action in parser._actions:
        may_be_left_out = bool(action.option_strings) or action.nargs in ("?", "*")
        meta = action.dest in ("help", "version", FILE_OPTION, SET_OPTION, TARGETS)
        if may_be_left_out and not meta and action.help != argparse.SUPPRESS:
            yield action


def read_settings(parser: argparse.ArgumentParser) -> KnownSettings:
    """Read them off the command's parser."""
    parsers = parsers_of(parser)
    in_common = set.intersection(*({_signature(each) for each in options_of(parsers[name])} for name in SERVING))
    by_key: dict[Key, Setting] = {}
    of_command: dict[str, tuple[Setting, ...]] = {}
    serving: dict[tuple[Any, ...], Setting] = {}
    for command in sorted(parsers, key=lambda name: name not in SERVING):
        found = []
        for action in options_of(parsers[command]):
            signature = _signature(action)
            made = serving.get(signature)
            if made is None:
                above = () if signature in in_common else (command,)
                made = _setting(action, (*above, _name(action)))
                by_key[made.key] = made
            if command in SERVING:
                serving[signature] = made
            found.append(made)
        of_command[command] = tuple(found)
    for section, of in LIMITS.items():
        usual = of()
        for name, kind in limits_of(section).items():
            by_key[section, name] = Setting((section, name), kind, getattr(usual, name))
    return KnownSettings(by_key, of_command)


def _signature(action: argparse.Action) -> tuple[Any, ...]:
    """What makes an option of one command the same as one of another."""
    return action.dest, tuple(action.option_strings), action.type, type(action)


def _name(action: argparse.Action) -> str:
    return _flag(action).lstrip("-").replace("-", "_") or action.dest


def _flag(action: argparse.Action) -> str:
    """The first long one; "" of an argument."""
    return next((each for each in action.option_strings if each.startswith("--")), "")


def _setting(action: argparse.Action, key: Key) -> Setting:
    return Setting(key, _kind(action), action.default, action.dest, _flag(action))


def _kind(action: argparse.Action) -> ValueKind:
    if isinstance(action, argparse._StoreTrueAction | argparse.BooleanOptionalAction):
        return OneValue(truth, (bool,), "it is true or false")
    one = _one(action)
    if not isinstance(action, argparse._AppendAction) and action.nargs not in ("*", "+"):
        return one
    if "=" not in str(action.metavar):
        return Several(one, "it is a list of texts")
    return Several(one, f"it is a table of names and values, or a list of {action.metavar}", paired=True)


def _one(action: argparse.Action) -> OneValue:
    locate = _locate(action)
    if action.choices is not None:
        choices = tuple(map(str, action.choices))
        return OneValue(str, (str,), f"it is one of {', '.join(map(repr, choices))}", locate, choices)
    read: Any = action.type or str
    takes, about = _TAKEN.get(read, ((int, float, str), f"a number or a text, {action.metavar}"))
    return OneValue(read, takes, f"it is {about}", locate)


# ---- paths


def _locate(action: argparse.Action) -> Locate:
    if action.type is table:
        return _table_at
    if action.type is port:
        return _port_at
    return _path_at if action.metavar in _PATHS else no_place


def _path_at(text: str, folder: str) -> str:
    return text if not text or is_address(text) else os.path.join(folder, Path(text).expanduser())


def _port_at(text: str, folder: str) -> str:
    return UNIX + _path_at(text.removeprefix(UNIX), folder) if text.startswith(UNIX) else text


def _table_at(text: str, folder: str) -> str:
    """The path in NAME=PATH, or the path."""
    name, separator, path = text.partition("=")
    if separator and name.isidentifier() and not os.path.exists(os.path.join(folder, text)):
        return f"{name}={_path_at(path, folder)}"
    return _path_at(text, folder)
