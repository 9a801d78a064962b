from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.lifecycle.placement import (
    PACK,
    SEARCHED_MAX,
    SPREAD,
    RayNode,
    Unplaced,
    Want,
    choose,
    in_all,
    matches,
    misfit,
    now_free,
    told,
)


def node(
    name: str, free: dict[str, float] | None = None, labels: dict[str, str] | None = None, **total: float
) -> RayNode:
    return RayNode(name * 8, name, total, total if free is None else free, labels or {})


def want(name: str = "Big", labels: dict[str, str] | None = None, **amounts: float) -> Want:
    return Want(name, amounts, labels or {})


amounts = st.dictionaries(st.sampled_from(["CPU", "GPU"]), st.sampled_from([0.5, 1.0, 2.0, 3.0]), max_size=2)
labelled = st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])
wishes = st.builds(Want, st.sampled_from("AB"), amounts, st.sampled_from([{}, {"zone": "a"}, {"zone": "!a"}]))
machines = st.lists(st.tuples(amounts, labelled), min_size=1, max_size=3).map(
    lambda each: [RayNode(str(at) * 8, str(at), has, has, labels) for at, (has, labels) in enumerate(each)]
)


def fits_somehow(wants: list[Want], nodes: list[RayNode]) -> bool:
    """Every arrangement, tried."""
    for places in product(nodes, repeat=len(wants)):
        used: Counter[tuple[str, str]] = Counter()
        for each, there in zip(wants, places, strict=True):
            used.update({(there.id, name): amount for name, amount in each.amounts.items()})  # type: ignore[dict-item]
        held = all(amount <= there.total.get(name, 0) for there in nodes for name in ("CPU", "GPU")
                   for amount in [used[there.id, name]])  # fmt: skip
        if held and all(matches(each.labels, there.labels) for each, there in zip(wants, places, strict=True)):
            return True
    return False


@given(st.lists(wishes, max_size=5), machines)
def test_what_is_said_to_fit_or_not_is_what_trying_every_arrangement_says(
    wants: list[Want], nodes: list[RayNode]
) -> None:
    found = misfit(wants, nodes, in_all)
    assert (found is None) == fits_somehow(wants, nodes)
    if found is not None:
        assert 0 < found.left <= found.all == wants.count(found.want)
        assert found.alone == (not fits_somehow([found.want], nodes))
        assert told(found, nodes)


def test_a_replica_is_on_one_node() -> None:
    nodes = [node("a", CPU=2), node("b", CPU=2, GPU=1)]
    assert misfit([want(CPU=4)], nodes, in_all) == Unplaced(want(CPU=4), 1, 1, alone=True)
    assert misfit([want(CPU=2)] * 2, nodes, in_all) is None
    assert misfit([want(CPU=1.5)] * 3, nodes, in_all) == Unplaced(want(CPU=1.5), 1, 3, alone=False)
    assert misfit([want(CPU=2, GPU=1), want("Small", CPU=2)], nodes, in_all) is None


def test_the_first_that_finds_room_may_have_to_make_room_for_others() -> None:
    """Filled by size the two of 4 would share a node, and one of 3 be left over."""
    nodes = [node("a", CPU=10), node("b", CPU=10)]
    wants = [want("A", CPU=4), want("B", CPU=4), *[want("C", CPU=3)] * 2, *[want("D", CPU=3)] * 2]
    assert misfit(wants, nodes, in_all) is None


def test_of_many_what_is_certain_is_said_and_no_more() -> None:
    nodes = [node("a", CPU=100), node("b", CPU=100)]
    assert misfit([want(CPU=1)] * 200, nodes, in_all) is None
    assert misfit([want(CPU=1)] * 203, nodes, in_all) == Unplaced(want(CPU=1), 3, 203, alone=False)
    # 33 fit on each node; whether others do is not searched for.
    assert len([want(CPU=3)] * 67) > SEARCHED_MAX
    assert misfit([want(CPU=2.99)] * 66, nodes, in_all) is None
    labelled = [node("a", CPU=100, labels={"zone": "a"}), node("b", CPU=100)]
    assert misfit([want(CPU=1, labels={"zone": "a"})] * 101, labelled, in_all) is not None


def test_amounts_are_compared_as_ray_counts_them() -> None:
    assert misfit([want(CPU=0.1)] * 10, [node("a", CPU=1)], in_all) is None


@pytest.mark.parametrize(
    ("expression", "label", "accepted"),
    [
        ("a", "a", True), ("a", "b", False), ("a", None, False),
        ("!a", "a", False), ("!a", "b", True), ("!a", None, True),
        ("in(a, b)", "b", True), ("in(a,b)", "c", False), ("in(a)", None, False),
        ("!in(a, b)", "b", False), ("!in(a,b)", "c", True),
    ],
)  # fmt: skip
def test_labels_mean_what_they_mean_to_ray(expression: str, label: str | None, accepted: bool) -> None:
    assert matches({"zone": expression}, {} if label is None else {"zone": label}) is accepted


@given(machines, wishes, st.sampled_from([PACK, SPREAD]))
def test_a_child_goes_only_where_there_is_room(nodes: list[RayNode], wish: Want, placement: str) -> None:
    chosen = choose(wish, placement, nodes, {}, {})
    able = [each for each in nodes if misfit([wish], [each], now_free) is None]
    assert chosen in {each.id for each in able} if able else chosen == ""


@given(st.integers(1, 5), st.integers(0, 40))
def test_spread_is_even_whatever_died_before(count: int, replicas: int) -> None:
    nodes = [node(chr(97 + at)) for at in range(count)]
    there: Counter[str] = Counter({nodes[0].id: replicas // 3})
    for _ in range(replicas):
        there[choose(want(), SPREAD, nodes, there, there)] += 1
    most, least = max(there.values()), min(there[each.id] for each in nodes)
    assert most - least <= 1 or most == replicas // 3


def test_deployments_of_one_replica_are_spread_over_nodes_too() -> None:
    nodes = [node("a"), node("b"), node("c")]
    assert choose(want("B"), SPREAD, nodes, {}, {"a" * 8: 3, "b" * 8: 1, "c" * 8: 2}) == "b" * 8


def test_pack_fills_the_first_node_then_that_where_most_are() -> None:
    full = {"CPU": 0.5}
    nodes = [node("a", CPU=2), node("b", CPU=2), node("c", CPU=2)]
    assert choose(want(CPU=1), PACK, nodes, {"c" * 8: 2}, {}) == "a" * 8
    nodes[0] = node("a", free=full, CPU=2)
    assert choose(want(CPU=1), PACK, nodes, {"c" * 8: 2}, {}) == "c" * 8
    assert choose(want(CPU=1), PACK, nodes, {}, {}) == "b" * 8
    nodes[1] = node("b", CPU=2, GPU=1)
    assert choose(want(CPU=1), PACK, nodes, {}, {}) == "c" * 8
    assert choose(want(CPU=1, GPU=1), PACK, nodes, {}, {}) == "b" * 8


def test_what_is_missing_is_told_by_node_the_nearest_first() -> None:
    nodes = [node("a", free={"CPU": 0.5}, CPU=2), node("b", CPU=3, labels={"zone": "x"}), node("c", CPU=8)]
    asked = want(CPU=4, GPU=1, labels={"zone": "x"})
    found = misfit([asked], nodes, in_all)
    assert found is not None
    assert told(found, nodes) == (
        "no node has 4 CPU and 1 GPU and label zone=x for a replica of Big; node b (bbbbbbbb) has 3 CPU, 3 of it free, "
        "no GPU; node a (aaaaaaaa) has no label zone, 2 CPU, 0.5 of it free, no GPU; node c (cccccccc) has no label "
        "zone, 8 CPU, 8 of it free, no GPU"
    )
    many = [node(chr(97 + at), CPU=1) for at in range(12)]
    found = misfit([want(CPU=1)] * 13, many, in_all)
    assert found is not None
    assert told(found, many).startswith("no room for 1 of 13 replicas of Big, each 1 CPU, beside what else there is; ")
    assert told(found, many).endswith("; and 4 more")


def test_a_node_that_leaves_has_room_for_nothing() -> None:
    nodes = [node("h", CPU=1.0), node("a", CPU=4.0)._replace(leaves=True), node("b", CPU=4.0)]
    for placement in (PACK, SPREAD):
        assert choose(want(CPU=2.0), placement, nodes, {}, {}) == "b" * 8
        assert choose(want(), placement, nodes, {"h" * 8: 1, "b" * 8: 1}, {}) != "a" * 8
    found = misfit([want(CPU=3.0)] * 2, nodes, in_all)
    assert found is not None and found.left == 1
    assert "node a (aaaaaaaa) is drained by Ray, has 4 CPU, 4 of it free" in told(found, nodes)
    assert misfit([want(CPU=3.0)], nodes, in_all) is None
