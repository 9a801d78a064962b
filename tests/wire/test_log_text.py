"""Records of the log as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from flightserve.wire.log_text import is_for_people, text_of


def record(level: str = "INFO", logger: str = "mine", **more: Any) -> dict[str, Any]:
    said = {"time": "2026-01-31T12:00:00.000Z", "level": level, "logger": logger, "process": "replica-Pricing-0"}
    return {**said, "message": "said", **more}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (record(), "12:00:01 Pricing-0 said"),
        (record("WARNING"), "12:00:01 warning Pricing-0 said"),
        (record(process="launcher"), "12:00:01 said"),
        (record(method="charge", requests=1, request_ids=["a"]), "12:00:01 Pricing-0.charge said [a]"),
        (record(requests=9, request_ids=[*"abcde"]), "12:00:01 Pricing-0 said [a, b, c and 6 more]"),
        (record("ERROR", exception="Traceback\n  at"), "12:00:01 error Pricing-0 said\n  Traceback\n    at"),
        (record(message="a\nb"), "12:00:01 Pricing-0 a\n  b"),
        (record(message="\x1b[2Jcleared\r", request_ids=["\x1b[1mid"]), "12:00:01 Pricing-0 cleared\\r [id]"),
        (record(method=5, request_ids="odd", requests="many"), "12:00:01 Pricing-0 said"),
    ],
)
def test_a_line_says_when_who_and_what(given: dict[str, Any], line: str) -> None:
    assert text_of(given, "12:00:01", colour=False) == line


def test_colour_is_of_the_parts_and_ends_with_them() -> None:
    line = text_of(record("ERROR"), "12:00:01", colour=True)
    assert line == "\x1b[2m12:00:01\x1b[0m \x1b[31merror\x1b[0m \x1b[36mPricing-0\x1b[0m said"


@pytest.mark.parametrize(
    ("level", "logger", "told"),
    [
        ("INFO", "stdout", True),
        ("INFO", "users.model", True),
        ("DEBUG", "users.model", False),
        ("INFO", "flightserve.control.processes", False),
        ("WARNING", "flightserve.control.processes", True),
        ("INFO", "flightserve.told", True),
        ("INFO", "flightserves", True),
        ("WARNING", "ray", False),
        ("ERROR", "ray", True),
    ],
)
def test_people_are_told_what_matters(level: str, logger: str, told: bool) -> None:
    assert is_for_people(record(level, logger)) is told
