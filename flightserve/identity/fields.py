"""Tables of a TOML file, read strictly: a key that is not known, or a value of another type, is told with file and key.

Values are not told: what stands where a hash should may be a password.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flightserve.errors import ConfigError, did_you_mean

# Of a list: patterns, roles, audiences.
ITEMS_MAX: Final = 10_000
TEXT_CHARS_MAX: Final = 4096
_KINDS: Final = {str: "a text", bool: "true or false", dict: "a table", list: "a list"}


class Fields:
    """One table. Each key is asked for once; `done` refuses those that nobody asked for."""

    def __init__(self, file: str, where: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._where = where
        self._values = values
        self._known: list[str] = []

    def wrong(self, key: str, what: str) -> ConfigError:
        """What is wrong with the value of a key."""
        return ConfigError(f"{self._file}: {self._path(key)} {what}")

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """A text, which is not empty where it is given."""
        value: str = self._of(key, str, default)
        if key in self._values and not 0 < len(value) <= TEXT_CHARS_MAX:
            raise self.wrong(key, f"has {len(value):,} characters; it has 1 to {TEXT_CHARS_MAX:,}")
        return value

    def texts(self, key: str, default: tuple[str, ...] = (), alone: bool = False) -> tuple[str, ...]:
        """A list of texts; one text by itself where it may stand `alone`."""
        value = self._values.get(key)
        if alone and isinstance(value, str):
            return (self.text(key),)
        values = self._of(key, list, None)
        if values is None:
            return default
        if len(values) > ITEMS_MAX or not all(isinstance(v, str) and 0 < len(v) <= TEXT_CHARS_MAX for v in values):
            raise self.wrong(key, f"is a list of up to {ITEMS_MAX:,} texts, none of them empty")
        return tuple(values)

    def flag(self, key: str) -> bool:
        """True or false; false where it is not given."""
        return bool(self._of(key, bool, False))

    def number(self, key: str, default: float = 0, least: float = 0, most: float = 1e12, whole: bool = False) -> Any:
        """A number within these bounds."""
        self._known.append(key)
        value = self._values.get(key, default)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise self.wrong(key, f"is no {'whole ' * whole}number from {least:,g} to {most:,g}")
        return value

    def table(self, key: str) -> Fields | None:
        """A table within this one."""
        values = self._of(key, dict, None)
        return None if values is None else Fields(self._file, self._path(key), values)

    def tables(self, key: str) -> Iterator[Fields]:
        """The tables of a list, `[[key]]`."""
        values = self._of(key, list, [])
        for number, each in enumerate(values, 1):
            if not isinstance(each, dict):
                raise self.wrong(key, f"is a list of tables: write [[{key}]] above each")
            yield Fields(self._file, f"{self._path(key)}[{number}]", each)

    def named(self) -> Iterator[tuple[str, Fields]]:
        """All that is in it, as tables by their names."""
        for name in self._values:
            found = self.table(name)
            assert found is not None
            yield name, found

    def done(self) -> None:
        """Raises ConfigError for a key that is not known."""
        for key in self._values:
            if key not in self._known:
                known = did_you_mean(key, self._known) or f"; known are {', '.join(self._known)}"
                raise self.wrong(key, f"is not known{known}")

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def _of(self, key: str, kind: type, default: Any) -> Any:
        self._known.append(key)
        value = self._values.get(key, default)
        if key in self._values and not isinstance(value, kind):
            raise self.wrong(key, f"is not {_KINDS[kind]}")
        return value
