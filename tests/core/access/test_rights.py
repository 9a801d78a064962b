"""What roles grant."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.access.rights import (
    ADMIN,
    ANSWERS_MAX,
    ANYBODY,
    Principal,
    Rights,
    Role,
    is_name,
    read_caller,
    rights_of,
)

NAMES = st.text("abAB_.", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("grant", "may", "may_not"),
    [
        ("Flights.*", [("Flights", "delays"), ("Flights", "x")], [("Flight", "delays"), ("FlightsX", "delays")]),
        ("Flights", [("Flights", "delays")], [("flights", "delays"), ("Flights2", "a")]),
        ("Flights.delays", [("Flights", "delays")], [("Flights", "delays2"), ("Flights", "Delays")]),
        ("*.read", [("A", "read"), ("B", "read")], [("A", "write"), ("A", "reads")]),
        ("*", [("A", "b")], []),
        ("[A]", [], [("A", "b")]),
    ],
)
def test_a_grant_of_calls(grant: str, may: list[tuple[str, str]], may_not: list[tuple[str, str]]) -> None:
    rights = Rights([Role(call=(grant,))])
    assert [key for key in may if not rights.may_call(*key)] == []
    assert [key for key in may_not if rights.may_call(*key)] == []
    assert not rights.may_query("Flights")
    assert not rights.operate
    assert not rights.metrics


def test_tables_are_named_without_regard_to_case() -> None:
    rights = Rights([Role(query=("trips", "day_*"))])
    assert rights.may_query("Trips")
    assert rights.may_query("DAY_1")
    assert not rights.may_query("today_1")
    assert not rights.may_call("trips", "query")


@given(NAMES, NAMES, st.lists(st.text("abAB_.*?", max_size=6), max_size=4))
def test_a_grant_is_as_a_shell_reads_it(deployment: str, method: str, patterns: list[str]) -> None:
    rights = Rights([Role(call=tuple(patterns), query=tuple(patterns))])
    names = f"{deployment}.{method}", deployment
    expected = any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)
    assert rights.may_call(deployment, method) is expected
    assert rights.may_call(deployment, method) is expected
    tables = any(fnmatch.fnmatchcase(deployment.lower(), pattern.lower()) for pattern in patterns)
    assert rights.may_query(deployment) is tables


@given(st.lists(st.builds(Role, st.tuples(NAMES), st.tuples(NAMES), st.booleans(), st.booleans())), NAMES, NAMES)
def test_roles_together_grant_what_one_of_them_does(roles: list[Role], name: str, method: str) -> None:
    together, each = Rights(roles), [Rights([role]) for role in roles]
    assert together.may_call(name, method) is any(rights.may_call(name, method) for rights in each)
    assert together.may_query(name) is any(rights.may_query(name) for rights in each)
    assert together.operate is any(rights.operate for rights in each)
    assert together.metrics is any(rights.metrics for rights in each)


def test_a_role_that_no_file_names_grants_nothing_and_admin_everything() -> None:
    assert not rights_of(["lost"], {"reader": Role(call=("*",))}).may_call("A", "b")
    assert rights_of([ADMIN], {}).may_query("t")
    assert rights_of([ADMIN], {}).operate
    assert ANYBODY.rights.metrics


def test_answers_that_strangers_ask_for_do_not_stay() -> None:
    rights = Rights([Role(call=("A",), query=("t",))])
    for number in range(ANSWERS_MAX * 2):
        assert not rights.may_call("B", str(number))
        assert not rights.may_query(str(number))
    assert len(rights._calls) <= ANSWERS_MAX
    assert len(rights._queries) <= ANSWERS_MAX
    assert rights.may_call("A", "b")


def test_a_caller_is_read_as_it_was_written() -> None:
    alice = Principal("alice@example.org", ("reader", "ops"), Rights([]))
    assert read_caller(alice.caller) == (alice.name, alice.roles)
    assert read_caller(Principal("bob", (), Rights([])).caller) == ("bob", ())


@pytest.mark.parametrize("text", ["", " ", "a b", "a\nb", "a,b", "x" * 129, "ü", "a\0", "-a"])
def test_what_no_principal_may_be_called(text: str) -> None:
    assert not is_name(text)
