"""What a setting may be, and how its value is read: out of a variable's text, and of TOML.

Text is read as the flag reads it. TOML has types, and they count: a number is written as one, without quotes, and a
truth as `true` or `false`; text is there for what no number says ("30s", "64MB", "unix:PATH"). Lists and tables may be
said in one variable, with commas or as TOML has them.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

# Text as a flag or a variable has it.
Read = Callable[[str], Any]
# A text with a path in it, and the folder that the path is relative to.
Locate = Callable[[str, str], str]

_NUMBER: Final = re.compile(r"\s*[+-]?[\d_]*\.?\d+(?:[eE][+-]?\d+)?\s*")


class WrongValue(ValueError):
    """A value that cannot be; the message says what it is instead, or what is wrong with it."""


class ValueKind(Protocol):
    """How one setting is read. Both ways raise `WrongValue`."""

    def from_text(self, text: str) -> Any:
        """Out of a variable."""

    def from_toml(self, value: Any, folder: str) -> Any:
        """Out of a file in that folder."""


def no_place(text: str, _folder: str) -> str:
    """Text that is no path."""
    return text


@dataclass(frozen=True, slots=True)
class OneValue:
    """`read` makes it of text; `takes` are TOML's types for it, and `about` says in words what it is."""

    read: Read
    takes: tuple[type, ...]
    about: str
    locate: Locate = no_place
    choices: tuple[str, ...] = ()

    def from_text(self, text: str) -> Any:
        """As the flag reads it."""
        value = _read(self.read, text, self.about)
        if self.choices and value not in self.choices:
            raise WrongValue(self.about)
        return value

    def from_toml(self, value: Any, folder: str) -> Any:
        """Of the right type, and then as the flag reads it."""
        if type(value) not in self.takes:
            raise WrongValue(self.about)
        if not isinstance(value, str):
            return self.from_text(spelled(value))
        return _unquoted(value, self.from_text(self.locate(value, folder)))


@dataclass(frozen=True, slots=True)
class Several:
    """Of a flag that may be given again: a list of texts; where each is NAME=VALUE, a table as well."""

    one: OneValue
    about: str
    paired: bool = False

    def from_text(self, text: str) -> Any:
        """With commas between, or as TOML writes lists and tables."""
        if text.lstrip()[:1] in ("[", "{"):
            return self.from_toml(_inline(text, self.about), "")
        return [self.one.from_text(part.strip()) for part in text.split(",") if part.strip()]

    def from_toml(self, value: Any, folder: str) -> Any:
        """Each as the flag reads it."""
        if self.paired and isinstance(value, dict):
            return [self._pair(name, each, folder) for name, given in value.items() for each in _listed(given)]
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise WrongValue(self.about)
        return [self.one.from_toml(each, folder) for each in value]

    def _pair(self, name: str, value: Any, folder: str) -> Any:
        if not isinstance(value, str | int | float):
            raise WrongValue(self.about)
        found = self.one.from_text(self.one.locate(f"{name}={spelled(value)}", folder))
        if found[0] != name:
            raise WrongValue(f"{name!r} is no name that may stand there")
        if isinstance(value, str):
            _unquoted(value, found[1])
        return found


@dataclass(frozen=True, slots=True)
class NamedValues:
    """Names and a value of each, such as the resources of a replica."""

    one: OneValue

    @property
    def about(self) -> str:
        """In words."""
        return f"it is a table of names and values; of each name {self.one.about}"

    def from_text(self, text: str) -> Any:
        """NAME=VALUE with commas between, or as TOML writes tables."""
        if text.lstrip()[:1] == "{":
            return self.from_toml(_inline(text, self.about), "")
        parts = [part.partition("=") for part in text.split(",") if part.strip()]
        if not all(name.strip() and separator for name, separator, _ in parts):
            raise WrongValue(self.about)
        return {name.strip(): self.one.from_text(value.strip()) for name, _, value in parts}

    def from_toml(self, value: Any, folder: str) -> Any:
        """Each of the right type."""
        if not isinstance(value, dict):
            raise WrongValue(self.about)
        return {name: self.one.from_toml(each, folder) for name, each in value.items()}


@dataclass(frozen=True, slots=True)
class Count:
    """`replicas` of a deployment: a number, or bounds of one that follows the load, as `fs.autoscale` takes them."""

    about = 'it is a whole number, "LOW-HIGH", or a table of low, high, and target_queue_ms or down_after_s'

    def from_text(self, text: str) -> Any:
        """A number, LOW-HIGH, or as TOML writes tables."""
        if text.lstrip()[:1] == "{":
            return self.from_toml(_inline(text, self.about), "")
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text.strip(), re.ASCII)
        if found is None:
            raise WrongValue(self.about)
        low, high = found.groups()
        return int(low) if high is None else {"low": int(low), "high": int(high)}

    def from_toml(self, value: Any, _folder: str) -> Any:
        """What JSON can say: a number, or the arguments of `fs.autoscale`."""
        if type(value) is int:
            return value
        if isinstance(value, str):
            return _unquoted(value, self.from_text(value))
        known = {"low": (int,), "high": (int,), "target_queue_ms": (int, float), "down_after_s": (int, float)}
        if not isinstance(value, dict) or not value.keys() <= known.keys() or not {"low", "high"} <= value.keys():
            raise WrongValue(self.about)
        if not all(type(each) in known[name] for name, each in value.items()):
            raise WrongValue(self.about)
        return dict(value)


def truth(text: str) -> bool:
    """true or false."""
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise WrongValue("it is true or false") from None


def spelled(value: Any) -> str:
    """A number or a truth as a flag would be given it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _read(read: Read, text: str, about: str) -> Any:
    try:
        return read(text)
    except argparse.ArgumentTypeError as error:
        raise WrongValue(str(error)) from error
    except WrongValue:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise WrongValue(about) from error


def _unquoted(text: str, found: Any) -> Any:
    """What was found in a text of TOML, which is no number in quotes."""
    if not isinstance(found, str) and _NUMBER.fullmatch(text):
        raise WrongValue("a number is written without quotes")
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _inline(text: str, about: str) -> Any:
    """A list or a table as TOML writes it on one line."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, KeyError, RecursionError) as error:
        raise WrongValue(about) from error


def shown(value: Any) -> str:
    """A value as TOML would write it, or nearly so."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_of(name)} = {shown(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, str):
        # One character that JSON leaves as it is and TOML does not.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return spelled(value)


def key_of(name: str) -> str:
    """A name that is a key of TOML's as it stands, or in quotes."""
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else shown(name)
