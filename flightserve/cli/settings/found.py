"""A value of a setting, with where it was found; and what is wrong with one, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from flightserve.cli.settings.kinds import shown
from flightserve.cli.settings.known import Key, Setting
from flightserve.errors import ConfigError

DEFAULT: Final = "default"
FILE: Final = "file"
VARIABLE: Final = "environment"
FLAG: Final = "flag"
# Of a value in a message.
SHOWN_CHARACTERS_MAX: Final = 80
# In the place of what nobody is to read.
HIDDEN: Final = "(not shown)"
# Of an address: who asks and what with.
_USER: Final = re.compile(r"(?<=://)[^/@\s\"]*@")
_QUERY: Final = re.compile(r"(://[^?\s\"]*)\?[^\s\"]*")


@dataclass(frozen=True, slots=True)
class FoundValue:
    """`source` is one of the four above, `place` the file, the variable or the flag that says it, "" for none."""

    value: Any
    source: str = DEFAULT
    place: str = ""


@dataclass(frozen=True, slots=True)
class FoundOption:
    """A deployment's option. A name out of a variable is `in_capitals`, and stands for the deployment that has that
    name in any case, with `_` for what no variable's name can have."""

    deployment: str
    option: str
    found: FoundValue
    in_capitals: bool = False


@dataclass(frozen=True, slots=True)
class FoundSettings:
    """All that one place says."""

    values: dict[Key, FoundValue]
    options: tuple[FoundOption, ...] = ()


def hidden_parts(text: str) -> str:
    """A text without what addresses in it have of secrets."""
    return _QUERY.sub(r"\1?...", _USER.sub("", text))


def harmless(value: Any) -> str:
    """A value as a message may have it: of addresses neither user nor password nor what follows `?`."""
    text = hidden_parts(shown(value))
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 3]}..."


def value_of(setting: Setting, value: Any) -> str:
    """The value of a setting as a message may have it."""
    return HIDDEN if setting.is_secret and value else harmless(value)


def wrong(where: str, value: str, why: object) -> ConfigError:
    """The error for a value that cannot be."""
    return ConfigError(f"{where} is {value}; {why}")
