"""Every reader of strangers' bytes: what it takes, and some of what it does not. `make fuzz` goes on for longer."""

from __future__ import annotations

import time
from itertools import islice

import pytest

from tests.fuzz.parsers import PARSERS, cases, check

CASES = 1500


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_reader(name: str) -> None:
    parser, seed = PARSERS[name], int(time.time())
    assert all(check(parser, each) for each in parser.seeds)
    taken = 0
    for data in islice(cases(name, seed), CASES):
        try:
            taken += check(parser, data)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {data!r}") from error
    assert 0 < taken < CASES, f"{name}, seed {seed}: {taken} taken"
