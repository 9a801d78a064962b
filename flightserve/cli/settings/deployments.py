"""Options of single deployments that a file or the environment sets, put into the app before it is planned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flightserve.cli.settings.found import FoundOption
from flightserve.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from flightserve.app import App


def with_options(app: App, options: Sequence[FoundOption]) -> App:
    """The app with these, the later before the earlier. Raises ConfigError for a deployment that it has not, and for
    options that cannot be."""
    changes = by_deployment(options, [bound.name for bound in app])
    if not changes:
        return app
    values = {name: {option: _value(each) for option, each in given.items()} for name, given in changes.items()}
    try:
        return app.with_options(values)
    except ConfigError as error:
        raise ConfigError(_placed(error.message, changes)) from error


def by_deployment(options: Sequence[FoundOption], names: list[str]) -> dict[str, dict[str, FoundOption]]:
    """Those of each of the deployments, the later before the earlier. Raises ConfigError for another name."""
    found: dict[str, dict[str, FoundOption]] = {}
    for each in options:
        found.setdefault(_named(each, names), {})[each.option] = each
    return found


def _named(each: FoundOption, names: list[str]) -> str:
    """The deployment that it is of."""
    alike = [name for name in names if _in_capitals(name) == _in_capitals(each.deployment)] if each.in_capitals else []
    if each.deployment in names:
        return each.deployment
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise ConfigError(f"{each.found.place} may be of {' or '.join(alike)}; a file says of which")
    hint = did_you_mean(each.deployment, names) or f"; there are: {', '.join(names)}"
    raise ConfigError(f"{each.found.place}: the app has no deployment {each.deployment[:80]!r}{hint}")


def _in_capitals(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def _value(each: FoundOption) -> Any:
    value = each.found.value
    if each.option == "replicas" and isinstance(value, dict):
        from flightserve.declare import autoscale

        try:
            return autoscale(**value)
        except ConfigError as error:
            raise ConfigError(f"{each.deployment}: {error.message} ({each.found.place})") from error
    return value


def _placed(message: str, changes: dict[str, dict[str, FoundOption]]) -> str:
    """The message with where the option that it names was found."""
    words = set(re.findall(r"\w+", message))
    places = [each.found.place for given in changes.values() for name, each in given.items() if name in words]
    return f"{message} ({', '.join(dict.fromkeys(places))})" if places else message
