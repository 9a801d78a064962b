"""Which router owns a deployment: everybody agrees, little moves, and the load is spread."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flightserve.wire.table import assign

names = st.sets(st.text(max_size=8), max_size=20)
routers = st.dictionaries(st.text(max_size=8), st.integers(1, 2**31), min_size=1, max_size=6)


@given(names, routers)
def test_a_router_that_leaves_moves_only_what_it_owned(names: set[str], routers: dict[str, int]) -> None:
    before = assign(names, routers)
    assert set(before) == names
    gone = next(iter(routers))
    after = assign(names, {place: router for place, router in routers.items() if place != gone})
    owned = {name for name in names if assign([name], dict.fromkeys(routers, 0) | {gone: 1})[name] == 1}
    assert {name: after[name] for name in names - owned} == {name: before[name] for name in names - owned}


@given(names, routers, st.text(min_size=9))
def test_a_router_that_comes_takes_deployments_only_for_itself(
    names: set[str], routers: dict[str, int], place: str
) -> None:
    before = assign(names, routers)
    after = assign(names, routers | {place: 2**32})
    assert {name for name in names if after[name] != before[name]} == {n for n in names if after[n] == 2**32}


@given(names, routers, st.integers(2**31 + 1, 2**40))
def test_a_process_that_takes_anothers_place_takes_exactly_what_that_owned(
    names: set[str], routers: dict[str, int], fresh: int
) -> None:
    place = next(iter(routers))
    routers = {name: number for number, name in enumerate(routers, 1)}
    before, after = assign(names, routers), assign(names, routers | {place: fresh})
    assert after == {name: fresh if owner == routers[place] else owner for name, owner in before.items()}


@given(names, routers)
def test_the_order_in_which_routers_are_named_does_not_matter(names: set[str], routers: dict[str, int]) -> None:
    assert assign(names, dict(reversed(routers.items()))) == assign(names, routers)


def test_deployments_are_spread_evenly() -> None:
    """A thousand over four: 250 each are expected, with a standard deviation of 14; five of them are allowed."""
    owners = list(assign((f"deployment-{n}" for n in range(1000)), {f"router-{n}": n + 1 for n in range(4)}).values())
    assert all(180 <= owners.count(router) <= 320 for router in (1, 2, 3, 4))


def test_without_a_router_deployments_belong_to_nobody() -> None:
    assert assign(["Pricing"], {}) == {"Pricing": 0}
