"""What a mirror says of its regions, against a model; credits of a link, as a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.memory.byte_credits import ByteCredits
from flightserve.core.memory.mirroring import HERE_MAX, Mirroring, Presence

STEPS = st.lists(
    st.tuples(st.sampled_from(["want", "arrived", "failed", "again"]), st.integers(0, 3).map(lambda n: 64 * n)),
    max_size=60,
)


@given(STEPS)
def test_a_region_is_here_exactly_when_its_generation_arrived(steps: list[tuple[str, int]]) -> None:
    mirroring = Mirroring()
    generations = dict.fromkeys(range(0, 256, 64), 1)
    here: set[tuple[int, int]] = set()
    coming: set[tuple[int, int]] = set()
    for step, offset in steps:
        region = (offset, generations[offset])
        if step == "again":
            # The owner gives the range out once more.
            generations[offset] += 1
        elif step == "want":
            wanted = Presence.HERE if region in here else Presence.COMING if region in coming else Presence.MISSING
            assert mirroring.want(*region) is wanted
            coming |= {region} if wanted is Presence.MISSING else set()
        elif region in coming:
            coming.discard(region)
            if step == "arrived":
                mirroring.arrived(*region)
                here.add(region)
            else:
                mirroring.failed(*region)


def test_what_is_remembered_is_bounded() -> None:
    mirroring = Mirroring()
    for offset in range(HERE_MAX + 10):
        mirroring.want(offset, 1)
        mirroring.arrived(offset, 1)
    assert f"{HERE_MAX} regions are here" in repr(mirroring)
    assert mirroring.want(0, 1) is Presence.MISSING
    assert mirroring.want(HERE_MAX, 1) is Presence.HERE


@given(st.lists(st.integers(1, 300), max_size=50), st.integers(1, 200))
def test_no_more_than_the_credits_is_under_way_but_for_one_alone(asked: list[int], bytes_max: int) -> None:
    credits = ByteCredits(bytes_max)
    under_way: list[int] = []
    for nbytes in asked:
        if credits.take(nbytes):
            under_way.append(nbytes)
        else:
            assert under_way and sum(under_way) + nbytes > bytes_max
            credits.give_back(under_way.pop(0))
        assert credits.taken == sum(under_way)
        assert sum(under_way) <= bytes_max or len(under_way) == 1


def test_credits_that_nobody_took_do_not_come_back() -> None:
    credits = ByteCredits(10)
    with pytest.raises(ValueError, match="come back"):
        credits.give_back(1)
    with pytest.raises(ValueError, match="1 or more"):
        ByteCredits(0)
