"""Settings out of a TOML file. Raises ConfigError, which names the file, the key, and the nearest name there is."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flightserve.cli.settings.found import (
    FILE,
    FoundOption,
    FoundSettings,
    FoundValue,
    harmless,
    value_of,
    wrong,
)
from flightserve.cli.settings.kinds import WrongValue
from flightserve.cli.settings.known import DEPLOYMENTS, Key, KnownSettings
from flightserve.errors import ConfigError, did_you_mean
from flightserve.wire.log_lines import neutral

FILE_BYTES_MAX: Final = 1 << 20
_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)")


def read_file(path: str, known: KnownSettings) -> FoundSettings:
    """All that the file says."""
    return _FileReader(path, known).read(parsed(path))


def parsed(path: str) -> dict[str, Any]:
    """The file as TOML has it."""
    text = _text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}{_place(str(error), text)}: {_PLACE.sub('', str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: values are nested too deeply") from error
    except ValueError as error:
        # A number of more digits than Python reads, and a date that is none.
        raise ConfigError(f"{path}: {error}") from error


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--config {path!r} cannot be read: {why}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} has more than {FILE_BYTES_MAX:,} bytes; a file of settings is small")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: it is no UTF-8, which TOML is") from error


def _place(said: str, text: str) -> str:
    found = _PLACE.search(said)
    if found is None:
        return ""
    if found[1]:
        return f", line {found[1]}, column {found[2]}"
    lines = text.split("\n")
    return f", line {len(lines)}, column {len(lines[-1]) + 1}"


class _FileReader:
    """Reads one file's keys."""

    def __init__(self, path: str, known: KnownSettings) -> None:
        self._path = path
        self._folder = os.path.dirname(os.path.abspath(path))
        self._known = known
        self._sections = {key[0] for key in known.by_key if len(key) > 1} | {DEPLOYMENTS}

    def read(self, document: Mapping[str, Any]) -> FoundSettings:
        values: dict[Key, FoundValue] = {}
        options: tuple[FoundOption, ...] = ()
        for name, value in document.items():
            if name == DEPLOYMENTS:
                options = tuple(self._options(value))
            elif name in self._sections:
                values.update(((name, key), self._value((name, key), each)) for key, each in self._table(name, value))
            else:
                values[name,] = self._value((name,), value)
        return FoundSettings(values, options)

    def _table(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            raise ConfigError(f"{self._path}: {name} is {harmless(value)}; it is a section, [{name}]")
        yield from value.items()

    def _value(self, key: Key, value: Any) -> FoundValue:
        setting = self._known.by_key.get(key)
        if setting is None:
            raise self._unknown(key, isinstance(value, dict))
        try:
            return FoundValue(setting.kind.from_toml(value, self._folder), FILE, self._path)
        except WrongValue as error:
            raise wrong(f"{self._path}: {setting.name}", value_of(setting, value), error) from error

    def _unknown(self, key: Key, is_table: bool) -> ConfigError:
        where = f"[{key[0]}] has" if len(key) > 1 else "there is"
        beside = [each[-1] for each in self._known.by_key if each[:-1] == key[:-1]]
        beside += sorted(self._sections) if len(key) == 1 else []
        elsewhere = [each for each in self._known.by_key if each[-1] == key[-1]]
        said = f"{self._path}: {where} no setting {key[-1][:80]!r}"
        if elsewhere:
            place = f"under [{elsewhere[0][0]}]" if len(elsewhere[0]) > 1 else "at the top, before all sections"
            return ConfigError(f"{said}; it stands {place}")
        sections = f"; sections are: {', '.join(sorted(self._sections))}" if is_table and len(key) == 1 else ""
        return ConfigError(said + (did_you_mean(key[-1], beside) or sections))

    def _options(self, value: Any) -> Iterator[FoundOption]:
        for deployment, given in self._table(DEPLOYMENTS, value):
            section = f"{DEPLOYMENTS}.{neutral(deployment)}"
            where = f"{self._path}: {section}"
            for option, each in self._table(section, given):
                kind = self._known.options.get(option)
                if kind is None:
                    hint = did_you_mean(option, list(self._known.options))
                    raise ConfigError(f"{where}: a deployment has no option {option[:80]!r}{hint}")
                try:
                    found = FoundValue(kind.from_toml(each, self._folder), FILE, self._path)
                except WrongValue as error:
                    raise wrong(f"{where}.{option}", harmless(each), error) from error
                yield FoundOption(deployment, option, found)
