"""Settings out of the environment: `FLIGHTSERVE_` and the key in capitals. An unknown one is an error with the nearest
name, but for what others put there: Kubernetes and Docker tell every container of the services around it in variables
that are called after them, and a service may be called flightserve.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from flightserve.cli.settings.found import (
    FLAG,
    VARIABLE,
    FoundOption,
    FoundSettings,
    FoundValue,
    harmless,
    value_of,
    wrong,
)
from flightserve.cli.settings.kinds import ValueKind, WrongValue
from flightserve.cli.settings.known import DEPLOYMENTS, FILE_OPTION, PREFIX, Key, KnownSettings, variable_of
from flightserve.errors import ConfigError, did_you_mean

FILE_VARIABLE: Final = PREFIX + FILE_OPTION.upper()
# FLIGHTSERVE_SERVICE_HOST, FLIGHTSERVE_HTTP_PORT_8080_TCP_ADDR; and FLIGHTSERVE_HTTP_PORT=tcp://10.0.0.1:8080.
_OF_A_SERVICE: Final = re.compile(
    r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_AT_A_SERVICE: Final = re.compile(r"(tcp|udp|sctp)://.*")
# The example's, for `make demo`.
_OF_OTHERS: Final = frozenset({"FLIGHTSERVE_ADDRESSES"})
_OPTIONS: Final = variable_of((DEPLOYMENTS, ""))


def read_variables(environment: Mapping[str, str], known: KnownSettings) -> FoundSettings:
    """All that the environment says. Raises ConfigError."""
    by_variable = {setting.variable: setting for setting in known.by_key.values()}
    values: dict[Key, FoundValue] = {}
    options: list[FoundOption] = []
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or name == FILE_VARIABLE or _is_of_others(name, text, by_variable):
            continue
        setting = by_variable.get(name)
        if setting is not None:
            try:
                values[setting.key] = FoundValue(setting.kind.from_text(text), VARIABLE, name)
            except WrongValue as error:
                raise wrong(name, value_of(setting, text), error) from error
        elif name.startswith(_OPTIONS):
            options.append(_option(name, text, known.options))
        else:
            names = [*by_variable, FILE_VARIABLE]
            raise ConfigError(f"the environment has {name}, which is no setting{did_you_mean(name, names)}")
    return FoundSettings(values, tuple(options))


def _is_of_others(name: str, text: str, ours: Mapping[str, object]) -> bool:
    if name in ours:
        return bool(name.endswith("_PORT") and _AT_A_SERVICE.fullmatch(text))
    return bool(_OF_A_SERVICE.fullmatch(name) or _AT_A_SERVICE.fullmatch(text) or name in _OF_OTHERS)


def _option(name: str, text: str, known: Mapping[str, ValueKind]) -> FoundOption:
    rest = name.removeprefix(_OPTIONS)
    # The longest, because one option's name may end as another is called.
    for option in sorted(known, key=len, reverse=True):
        deployment = rest[: -len(option) - 1]
        if rest.upper().endswith(f"_{option.upper()}") and deployment:
            try:
                return FoundOption(deployment, option, FoundValue(known[option].from_text(text), VARIABLE, name), True)
            except WrongValue as error:
                raise wrong(name, harmless(text), error) from error
    raise ConfigError(
        f"{name} ends in no option of a deployment; write {_OPTIONS}NAME_OPTION, as in ..._MAX_BATCH_ROWS"
    )


def read_set(given: list[str], known: KnownSettings) -> FoundSettings:
    """What `--set KEY=VALUE` says. Raises ConfigError."""
    values: dict[Key, FoundValue] = {}
    options: list[FoundOption] = []
    names = {setting.name: setting for setting in known.by_key.values()}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set takes KEY=VALUE, as in limits.body_bytes_max=1MB; not {name[:80]!r}")
        setting, where = names.get(name), f"--set {name}"
        section, _, rest = name.partition(".")
        deployment, _, option = rest.rpartition(".")
        kind = known.options.get(option) if section == DEPLOYMENTS and deployment else None
        try:
            if setting is not None:
                values[setting.key] = FoundValue(setting.kind.from_text(value), FLAG, where)
            elif kind is not None:
                options.append(FoundOption(deployment, option, FoundValue(kind.from_text(value), FLAG, where)))
            else:
                said = [*names, *(f"{section}.{deployment}.{each}" for each in known.options)]
                raise ConfigError(f"--set: there is no setting {name[:80]!r}{did_you_mean(name, said)}")
        except WrongValue as error:
            raise wrong(where, value_of(setting, value) if setting else harmless(value), error) from error
    return FoundSettings(values, tuple(options))
