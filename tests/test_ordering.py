"""The order in which several processes take the files."""

from __future__ import annotations

from itertools import pairwise

from tests.ordering import FLIGHTS, LONG_S, OTHERS_S, SERVED, mixed, scope_of

WORK = [f"tests/a/test_{number:03}.py" for number in range(300)]
WAIT = [*LONG_S, *(f"tests/b/test_{number}.py" for number in range(12))]


def test_all_that_share_a_system_run_in_one_process() -> None:
    assert {scope_of(f"tests/served/test_{name}.py::test_x[1::2]") for name in "ab"} == {SERVED}
    assert (
        scope_of("tests/docs/test_snippets.py::test_it") == scope_of("tests/examples/test_flights_served.py") == FLIGHTS
    )
    assert scope_of("tests/wire/test_table.py::test_it[a::b]") == "tests/wire/test_table.py"


def test_those_that_wait_are_spread_by_the_time_they_take_and_none_is_left_over() -> None:
    order = mixed([*WORK, *WAIT], set(WAIT))
    assert sorted(order) == sorted([*WORK, *WAIT])
    assert [scope for scope in order if scope in WORK] == WORK
    places = [place for place, scope in enumerate(order) if scope in WAIT]
    assert places[0] == 0
    assert places[-1] < len(order) - 10
    seconds = [LONG_S.get(order[place], OTHERS_S) for place in places]
    assert seconds == sorted(seconds, reverse=True)
    # So many files lie between one and the next as take about its time.
    shares = [(after - place) / taken for (place, after), taken in zip(pairwise(places), seconds, strict=False)]
    assert max(shares) < 2 * min(shares)


def test_any_part_of_the_tests_has_an_order() -> None:
    assert mixed([], set()) == []
    assert mixed(WORK[:3], set(WAIT)) == WORK[:3]
    assert sorted(mixed(WAIT, set(WAIT))) == sorted(WAIT)
