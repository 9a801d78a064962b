"""Settings that are fields of frozen classes: the bounds of `EdgeLimits` and `FabricLimits`, and the options of a
deployment. What each may be is read off its annotation, and its unit off its name."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from flightserve.cli.arguments import seconds, size
from flightserve.cli.settings.kinds import Count, NamedValues, OneValue, ValueKind, WrongValue, truth
from flightserve.config import EdgeLimits, FabricLimits
from flightserve.declare.options import Options

# Sections of bounds, by the names that `fs.serve` has for them.
LIMITS: Final[Mapping[str, type]] = {"limits": EdgeLimits, "fabric": FabricLimits}

_SECONDS: Final = re.compile(r".*_s(_max)?")
_MILLISECONDS: Final = re.compile(r".*_ms(_max)?")
_BYTES: Final = re.compile(r"(.*_)?bytes(_.*)?")
_TRUTH: Final = OneValue(truth, (bool,), "it is true or false")
_TEXT: Final = OneValue(str, (str,), "it is a text")
_WHOLE: Final = OneValue(int, (int,), "it is a whole number")
_NUMBER: Final = OneValue(float, (int, float), "it is a number")
_SIZE: Final = OneValue(size, (int, str), 'it is a number of bytes, or a size such as "64MB" or "64MiB"')
_DURATION: Final = OneValue(seconds, (int, float, str), 'it is a number of seconds, or a time such as "500ms"')


def limits_of(section: str) -> dict[str, ValueKind]:
    """The bounds of one section."""
    hints = get_type_hints(LIMITS[section])
    return {name: kind_of(name, hint) for name, hint in hints.items()}


def deployment_options() -> dict[str, ValueKind]:
    """What may be said of a deployment."""
    return {name: kind_of(name, hint) for name, hint in get_type_hints(Options).items()}


def kind_of(name: str, hint: Any) -> ValueKind:
    """What a field of that name and annotation may be."""
    if name == "replicas":
        return Count()
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return OneValue(str, (str,), f"it is one of {', '.join(map(repr, choices))}", choices=choices)
    if get_origin(hint) is dict:
        return NamedValues(_TEXT if get_args(hint)[1] is str else _NUMBER)
    if get_origin(hint) in (Union, types.UnionType):
        # None is what it is where nothing is said.
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    return _number(name, hint)


def _number(name: str, hint: type) -> ValueKind:
    if hint is bool:
        return _TRUTH
    if _BYTES.fullmatch(name):
        return _SIZE
    if _SECONDS.fullmatch(name):
        return _DURATION
    if _MILLISECONDS.fullmatch(name):
        about = 'it is a number of milliseconds, or a time such as "2s"'
        takes = (int, str) if hint is int else (int, float, str)
        return OneValue(_whole_milliseconds if hint is int else milliseconds, takes, about)
    return _WHOLE if hint is int else _NUMBER


def milliseconds(text: str) -> float:
    """20, 20ms, 2s or 5m, in milliseconds."""
    return float(text) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text) else seconds(text) * 1000


def _whole_milliseconds(text: str) -> int:
    found = milliseconds(text)
    if found != int(found):
        raise WrongValue("it is a whole number of milliseconds")
    return int(found)
