"""How CSV files are written, where the engine is told and does not guess: `--csv key=value`, `Warehouse(csv={...})`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from flightserve.errors import ConfigError
from flightserve.sql.sources.spelling import quoted

_BYTES_MAX: Final = 1 << 30


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"csv option {name} is {value!r}; it is a text")
    return quoted(value)


def _letter(name: str, value: Any) -> str:
    # As it can be typed into a shell.
    value = {"\\t": "\t", "tab": "\t", "space": " "}.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, str) or len(value.encode()) > 4:
        raise ConfigError(f"csv option {name} is {value!r}; it is a character, such as ';', or '\\t' for a tab")
    return _word(name, value)


def _truth(name: str, value: Any) -> str:
    word = {"true": "true", "yes": "true", "false": "false", "no": "false"}.get(str(value).lower())
    if word is None:
        raise ConfigError(f"csv option {name} is {value!r}; it is true or false")
    return word


def _count(name: str, value: Any) -> str:
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"csv option {name} is {value!r}; it is a whole number") from error
    if isinstance(value, bool) or not 0 <= number <= _BYTES_MAX:
        raise ConfigError(f"csv option {name} is {value!r}; it is a whole number from 0 to {_BYTES_MAX}")
    return str(number)


def _words(name: str, value: Any) -> str:
    values = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    return f"[{', '.join(_word(name, each) for each in values)}]"


_OPTIONS: Final[dict[str, Callable[[str, Any], str]]] = {
    "allow_quoted_nulls": _truth,
    "comment": _letter,
    "dateformat": _word,
    "decimal_separator": _letter,
    "delim": _letter,
    "encoding": _word,
    "escape": _letter,
    "header": _truth,
    "ignore_errors": _truth,
    "max_line_size": _count,
    "null_padding": _truth,
    "nullstr": _words,
    "quote": _letter,
    "skip": _count,
    "strict_mode": _truth,
    "thousands": _letter,
    "timestampformat": _word,
}
_SAME: Final = {"null": "nullstr", "sep": "delim", "delimiter": "delim", "date_format": "dateformat"}
KNOWN_CSV_OPTIONS: Final = ", ".join(sorted(_OPTIONS))


def csv_arguments(options: Mapping[str, Any]) -> str:
    """The options as arguments of the engine's reader. Raises ConfigError for a name or a value that is none."""
    found: dict[str, str] = {}
    for given, value in options.items():
        name = _SAME.get(str(given), str(given))
        if name not in _OPTIONS:
            close = difflib.get_close_matches(name, [*_OPTIONS, *_SAME], 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"there is no csv option {str(given)[:80]!r}: {hint}there are {KNOWN_CSV_OPTIONS}")
        if name in found:
            raise ConfigError(f"csv option {name} is given twice")
        found[name] = _OPTIONS[name](name, value)
    return ", ".join(f"{name}={value}" for name, value in sorted(found.items()))
