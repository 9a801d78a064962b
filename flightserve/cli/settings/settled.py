"""What a command goes by: defaults, then the file, then the environment, then flags; the later wins.

The parser is asked for flags alone. What it was given takes its place in the same namespace as what was found
elsewhere, so that commands read their arguments as if all had come by flags; `settings` tells the rest: where each came
from, the bounds, and what is said of single deployments.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from flightserve.cli.settings.fields import LIMITS
from flightserve.cli.settings.files import read_file
from flightserve.cli.settings.found import FILE, FLAG, VARIABLE, FoundOption, FoundSettings, FoundValue
from flightserve.cli.settings.known import (
    CHECK,
    FILE_OPTION,
    SERVING,
    SET_OPTION,
    Key,
    KnownSettings,
    Setting,
    options_of,
    parsers_of,
    read_settings,
)
from flightserve.cli.settings.variables import FILE_VARIABLE, read_set, read_variables
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.errors import ConfigError

if TYPE_CHECKING:
    from flightserve.app import App

T = TypeVar("T")

COMMAND: Final = "command_name"


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """`--config`, for every command that has settings."""
    if any(options_of(parser)) or any(action.dest == SET_OPTION for action in parser._actions):
        about = "a TOML file of settings (default: the one that FLIGHTSERVE_CONFIG names); flags go before it"
        parser.add_argument("--config", metavar="FILE", help=about)


def add_set_option(parser: argparse.ArgumentParser, serves: bool = False) -> None:
    """`--set`, for commands that serve, and for others that plan."""
    bound = "a bound (limits.body_bytes_max=1MB) or " if serves else ""
    about = (
        f"a setting by its key in a file: {bound}an option of a deployment (deployments.Pricing.router=deadline); "
        "may be given again"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=about)


@dataclass(frozen=True, slots=True)
class SettledSettings:
    """The values by key, of every setting there is; `file` is the one that was read, "" where none was."""

    known: KnownSettings
    values: Mapping[Key, FoundValue]
    options: tuple[FoundOption, ...] = ()
    file: str = ""

    def value(self, *key: str) -> Any:
        """One of them."""
        return self.values[key].value

    def arguments_of(self, command: str) -> argparse.Namespace:
        """The arguments of a command that gets nothing but settings."""
        found = argparse.Namespace(settings=self)
        for setting in self.known.of_command[command]:
            setattr(found, setting.dest, self.values[setting.key].value)
        return found

    def edge(self) -> EdgeLimits:
        """What frontends take from strangers. Raises ConfigError."""
        return _made(EdgeLimits, self._section("limits"))

    def fabric(self) -> FabricLimits:
        """What a process of the data plane may use. Raises ConfigError."""
        return _made(FabricLimits, self._section("fabric"))

    def _section(self, section: str) -> dict[str, FoundValue]:
        return {key[1]: found for key, found in self.values.items() if key[0] == section and len(key) > 1}

    def named(self, flag: str) -> str:
        """What said the option of that flag: the flag, the file's key, or the variable."""
        key = next((key for key, setting in self.known.by_key.items() if setting.flag == flag), None)
        found = FoundValue(None) if key is None else self.values[key]
        if found.source == FILE:
            return f"{found.place}: {self.known.by_key[key].name}" if key else flag
        return found.place if found.source == VARIABLE else flag

    def placed(self, message: str) -> str:
        """The message, and where it comes from where it begins with a setting's name that no flag says."""
        word = re.match(r"\w*", message)
        name = word[0] if word else ""
        return _told(
            message, [found.place for key, found in self.values.items() if key == (name,) and found.source != FLAG]
        )

    def with_options(self, app: App) -> App:
        """The app with what is said of its deployments. Raises ConfigError, also for a deployment that it has not."""
        from flightserve.cli.settings.deployments import with_options

        return with_options(app, self.options)


def _made(of: Callable[..., T], section: Mapping[str, FoundValue]) -> T:
    try:
        return of(**{name: found.value for name, found in section.items()})
    except ConfigError as error:
        words = re.findall(r"\w+", error.message)
        raise ConfigError(
            _told(error.message, [found.place for name, found in section.items() if name in words])
        ) from error


def _told(message: str, places: Sequence[str]) -> str:
    told = ", ".join(dict.fromkeys(place for place in places if place))
    return f"{message} ({told})" if told else message


class _NotGiven:
    """In the place of a default."""


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What was given by flags; nothing else has an attribute yet, but `known`. Raises SystemExit, as the parser."""
    known = read_settings(parser)
    for each in parsers_of(parser).values():
        for action in options_of(each):
            _forget_default(each, action)
    arguments = parser.parse_args(argv)
    for dest, value in list(vars(arguments).items()):
        if isinstance(value, _NotGiven):
            delattr(arguments, dest)
    arguments.known = known
    return arguments


def _forget_default(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
    """Have it say whether it was given; its help has the default first."""
    if action.help:
        action.help = parser._get_formatter()._expand_help(action).replace("%", "%%")
    adds = isinstance(action, argparse._AppendAction)
    action.default = argparse.SUPPRESS if adds else _NotGiven()


def settle(arguments: argparse.Namespace, variables: Mapping[str, str]) -> None:
    """Add what the file, the environment and the defaults say, and `settings`. Raises ConfigError for a file or a
    variable that is wrong."""
    command = getattr(arguments, COMMAND)
    of_command = arguments.known.of_command[command]
    if not of_command and not hasattr(arguments, SET_OPTION):
        # It has no settings, and goes on beside those that are wrong.
        return
    file = _file(arguments, variables)
    given = read_set(getattr(arguments, SET_OPTION, None) or [], arguments.known)
    _refuse_idle(command, {setting.key for setting in of_command}, given)
    settled = _merged(arguments.known, file, variables, given, _flags(arguments, of_command))
    for setting in of_command:
        setattr(arguments, setting.dest, settled.values[setting.key].value)
    arguments.settings = settled


def _refuse_idle(command: str, keys: set[Key], given: FoundSettings) -> None:
    """What a file says for other commands may stand there; who says it to this one means it to have an effect."""
    if command == CHECK:
        return
    for key, found in given.values.items():
        if key not in keys and not (command in SERVING and key[0] in LIMITS):
            raise ConfigError(f"{found.place}: flightserve {command} does not go by it")


def _file(arguments: argparse.Namespace, variables: Mapping[str, str]) -> str:
    """The file that is read, if any."""
    given: str | None = getattr(arguments, FILE_OPTION, None)
    if given == "":
        raise ConfigError("--config is empty; it is the path of a file")
    return variables.get(FILE_VARIABLE, "") if given is None else given


def _flags(arguments: argparse.Namespace, settings: Iterable[Setting]) -> FoundSettings:
    values = {
        each.key: FoundValue(getattr(arguments, each.dest), FLAG, each.flag)
        for each in settings
        if hasattr(arguments, each.dest)
    }
    return FoundSettings(values)


def _merged(
    known: KnownSettings, file: str, variables: Mapping[str, str], given: FoundSettings, flags: FoundSettings
) -> SettledSettings:
    values = {key: FoundValue(setting.default) for key, setting in known.by_key.items()}
    options: list[FoundOption] = []
    layers = [read_file(file, known)] if file else []
    layers += [read_variables(variables, known), given, flags]
    for layer in layers:
        values |= layer.values
        options += layer.options
    return SettledSettings(known, values, tuple(options), file)
