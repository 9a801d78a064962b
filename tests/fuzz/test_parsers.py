"""Every reader of strangers' bytes: what it takes, and some of what it does not. `make fuzz` goes on for longer."""

from __future__ import annotations

import time

import pytest

from tests.fuzz.parsers import PARSERS, case, check, told

CASES = 1500


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_reader(name: str) -> None:
    parser, seed = PARSERS[name], int(time.time())
    assert all(check(parser, each) for each in parser.seeds)
    taken = 0
    for number in range(CASES):
        data = case(name, seed, number)
        try:
            taken += check(parser, data)
        except Exception as error:
            raise AssertionError(f"{told(name, seed, number)}: {data!r}") from error
    assert 0 < taken < CASES, f"{name}, seed {seed}: {taken} taken"
