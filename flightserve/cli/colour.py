"""Whether a stream gets colour: NO_COLOR and FORCE_COLOR as no-color.org and force-color.org have them, then the
terminal itself. Pure but for the last line's asking."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, TextIO

_DUMB: Final = frozenset({"", "dumb", "unknown"})


def has_colour(is_terminal: bool, environment: Mapping[str, str]) -> bool:
    """Whether what is written there is coloured. NO_COLOR goes before FORCE_COLOR; either says so by any text but none,
    FORCE_COLOR=0 excepted."""
    if environment.get("NO_COLOR"):
        return False
    if forced := environment.get("FORCE_COLOR"):
        return forced != "0"
    return is_terminal and not is_dumb(environment)


def is_dumb(environment: Mapping[str, str]) -> bool:
    """Whether the terminal only takes lines."""
    return environment.get("TERM", "").lower() in _DUMB


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it; a closed or odd stream has nobody."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def colour_of(stream: TextIO) -> bool:
    """Whether this stream gets colour in this process's environment."""
    return has_colour(is_terminal(stream), os.environ)
