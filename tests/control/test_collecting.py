"""Garbage is looked for where nobody else did."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from flightserve.control.collecting import FULL_LOOKS, QuietCollector


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def disabled() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("disabled")
def test_a_cycle_goes_at_the_next_look_of_a_quiet_process() -> None:
    collector = QuietCollector()
    gone = weakref.ref(Ring())
    assert gone() is not None
    assert collector.look()
    assert gone() is None


@pytest.mark.usefixtures("disabled")
def test_an_old_one_goes_later() -> None:
    collector, ring = QuietCollector(), Ring()
    gc.collect()
    gone = weakref.ref(ring)
    del ring
    assert collector.look() is False
    looks = 0
    while gone() is not None:
        assert collector.look()
        looks += 1
    assert 1 < looks <= FULL_LOOKS


@pytest.mark.usefixtures("disabled")
def test_who_looked_meanwhile_is_not_helped() -> None:
    collector = QuietCollector()
    gc.collect(0)
    gone = weakref.ref(Ring())
    assert not collector.look()
    assert gone() is not None
    assert collector.look()
    assert gone() is None
