"""The command's arguments with its settings, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flightserve.cli.main import make_parser
from flightserve.cli.settings.known import read_settings
from flightserve.cli.settings.settled import parse_flags, settle

APP = "tests.control.pricing:app"
KNOWN = read_settings(make_parser())


def settled(*argv: str, env: Mapping[str, str] | None = None) -> Any:
    """As the command would have them in this environment."""
    arguments = parse_flags(make_parser(), argv)
    settle(arguments, env or {})
    return arguments
