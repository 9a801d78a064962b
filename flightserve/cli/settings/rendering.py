"""Settings as they are shown: as TOML that would give the same again, each with where it comes from, and as what JSON
can say. Of addresses neither user nor password is shown, nor what follows `?`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flightserve.cli.settings.found import DEFAULT, HIDDEN, FoundValue, hidden_parts
from flightserve.cli.settings.kinds import Several, key_of, shown
from flightserve.cli.settings.known import DEPLOYMENTS, SERVING, Setting
from flightserve.cli.settings.settled import SettledSettings

# Where a comment begins, for values that are shorter.
COLUMN: Final = 44


def plain_value(setting: Setting, value: Any) -> Any:
    """What JSON and TOML can say of it."""
    if setting.is_secret and value:
        return HIDDEN
    if isinstance(setting.kind, Several) and setting.kind.paired:
        return _paired(value)
    return _harmless(value)


def _paired(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Names that come again have a list."""
    found: dict[str, list[Any]] = {}
    for name, value in pairs:
        bounds = f"{value[0]}-{value[1]}" if isinstance(value, tuple) else value
        found.setdefault(name, []).append(_harmless(bounds))
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return hidden_parts(value)
    if isinstance(value, list | tuple):
        return [_harmless(each) for each in value]
    if isinstance(value, dict):
        return {name: _harmless(each) for name, each in value.items()}
    return value


def served_settings(settled: SettledSettings) -> Iterator[tuple[Setting, FoundValue]]:
    """Those that `run` and `sql` go by."""
    others = {command for command in settled.known.of_command if command not in SERVING}
    for key, setting in settled.known.by_key.items():
        if len(key) == 1 or key[0] not in others:
            yield setting, settled.values[key]


def toml_lines(settled: SettledSettings, deployments: Mapping[str, Mapping[str, FoundValue]]) -> Iterator[str]:
    """The settings, and of each deployment the options that are not the default."""
    section = ""
    rows = sorted(served_settings(settled), key=lambda row: len(row[0].key) > 1)
    for setting, found in rows:
        above = setting.key[0] if len(setting.key) > 1 else ""
        if above != section:
            section = above
            yield from ("", f"[{section}]")
        yield _line(setting.key[-1], plain_value(setting, found.value), found)
    for name, options in deployments.items():
        yield from ("", f"[{DEPLOYMENTS}.{key_of(name)}]")
        for option, found in options.items():
            yield _line(option, _harmless(found.value), found)


def _line(name: str, value: Any, found: FoundValue) -> str:
    told = f"# {name} =" if value is None else f"{name} = {shown(value)}"
    return f"{told:{COLUMN}} # {found.place or found.source}"


def json_settings(settled: SettledSettings) -> dict[str, dict[str, Any]]:
    """By key what `plain_value` says, with its source."""
    return {
        setting.name: told_value(plain_value(setting, found.value), found)
        for setting, found in served_settings(settled)
    }


def told_value(value: Any, found: FoundValue) -> dict[str, Any]:
    """A value with where it comes from."""
    place = {"place": found.place} if found.source != DEFAULT and found.place else {}
    return {"value": value, "source": found.source, **place}


def json_options(deployments: Mapping[str, Mapping[str, FoundValue]]) -> dict[str, dict[str, Any]]:
    """The options of deployments, the same way."""
    return {
        name: {option: told_value(_harmless(found.value), found) for option, found in options.items()}
        for name, options in deployments.items()
    }
