"""docs/explanation/life-of-a-request.md against trips that are made: its stops are called, in its order."""

from __future__ import annotations

import re

import pytest

from tests.docs.trips import ROOT, Stop, trips

STOPS_MAX = 12
PAGE = (ROOT / "docs" / "explanation" / "life-of-a-request.md").read_text()
# A micro-batch is part of every call.
PART_OF = {"A micro-batch in a replica": "An HTTP JSON call"}


def stops_of(section: str) -> list[Stop]:
    return re.findall(r"^\d+\. `([^`]+)` `([^`]+)`: ", section, re.MULTILINE)


SECTIONS = {text.split("\n")[0]: stops_of(text) for text in PAGE.split("\n## ")[1:]}


@pytest.fixture(scope="module")
def made() -> dict[str, list[Stop]]:
    return trips()


def test_every_trip_is_on_the_page_and_short(made: dict[str, list[Stop]]) -> None:
    assert SECTIONS.keys() == made.keys() | PART_OF.keys()
    assert all(1 < len(stops) <= STOPS_MAX for stops in SECTIONS.values())


@pytest.mark.parametrize("heading", SECTIONS)
def test_stops(made: dict[str, list[Stop]], heading: str) -> None:
    called = iter(made[PART_OF.get(heading, heading)])
    for stop in SECTIONS[heading]:
        assert stop in called, f"{stop} is not called after the stops before it"
