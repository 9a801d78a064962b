"""Credits are conserved, spread evenly, and given to the idle first."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flightserve.core.routing.credits import CreditPool

REPLICAS = st.integers(0, 4)
UNLIMITED = 1000


class Credits(RuleBasedStateMachine):
    """The pool against a dict of [credits, taken, draining, limit]."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = CreditPool()
        self.model: dict[int, list[int]] = {}

    def open(self) -> dict[int, int]:
        return {r: m[1] for r, m in self.model.items() if m[1] < self.credits(r) and not m[2]}

    def credits(self, replica_id: int) -> int:
        return min(self.model[replica_id][0], self.model[replica_id][3])

    @rule(replica_id=REPLICAS, credits=st.integers(0, 3))
    def offer(self, replica_id: int, credits: int) -> None:
        self.pool.offer(replica_id, credits)
        _, taken, _, limit = self.model.get(replica_id, [0, 0, 0, UNLIMITED])
        self.model[replica_id] = [credits, taken, 0, limit]

    @rule(replica_id=REPLICAS, credits_max=st.one_of(st.none(), st.integers(0, 2)))
    def limit(self, replica_id: int, credits_max: int | None) -> None:
        self.pool.limit(replica_id, credits_max)
        if replica_id in self.model:
            self.model[replica_id][3] = UNLIMITED if credits_max is None else credits_max

    @rule(replica_id=REPLICAS)
    def drain(self, replica_id: int) -> None:
        self.pool.drain(replica_id)
        if replica_id in self.model:
            self.model[replica_id][2] = 1

    @rule(replica_id=REPLICAS)
    def remove(self, replica_id: int) -> None:
        self.pool.remove(replica_id)
        self.model.pop(replica_id, None)

    @rule()
    def take(self) -> None:
        candidates = self.open()
        taken = self.pool.take()
        if not candidates:
            assert taken is None
            return
        assert taken in candidates
        assert candidates[taken] == min(candidates.values())
        self.model[taken][1] += 1

    @rule(replica_id=REPLICAS)
    def give_back(self, replica_id: int) -> None:
        if self.model.get(replica_id, [0, 0])[1]:
            self.pool.give_back(replica_id)
            self.model[replica_id][1] -= 1

    @invariant()
    def conserved(self) -> None:
        open_ = self.open()
        assert self.pool.free == sum(self.credits(replica_id) - taken for replica_id, taken in open_.items())
        assert len(self.pool) == len(self.model)
        for replica_id, (_, taken, _, _) in self.model.items():
            assert replica_id in self.pool
            assert self.pool.taken(replica_id) == taken


TestCredits = Credits.TestCase
TestCredits.settings = settings(max_examples=80, deadline=None)


@given(st.integers(1, 6), st.integers(1, 3))
def test_nobody_prefetches_while_another_is_idle(replicas: int, credits: int) -> None:
    pool = CreditPool()
    for replica_id in range(replicas):
        pool.offer(replica_id, credits)
    for _ in range(credits):
        assert {pool.take() for _ in range(replicas)} == set(range(replicas))
    assert pool.take() is None


def test_equals_take_turns() -> None:
    pool = CreditPool()
    for replica_id in range(3):
        pool.offer(replica_id, 2)
    served = []
    for _ in range(9):
        replica_id = pool.take()
        assert replica_id is not None
        served.append(replica_id)
        pool.give_back(replica_id)
    assert served == [0, 1, 2] * 3


def test_a_window_of_one_never_locks_up() -> None:
    pool = CreditPool()
    pool.offer(7, 1)
    for _ in range(5):
        assert pool.take() == 7
        assert pool.take() is None
        pool.give_back(7)
    assert pool.free == 1


def test_credits_that_nobody_took_and_offers_below_zero_are_errors() -> None:
    pool = CreditPool()
    pool.offer(1, 1)
    with pytest.raises(AssertionError, match="nobody took"):
        pool.give_back(1)
    with pytest.raises(KeyError):
        pool.give_back(2)
    with pytest.raises(ValueError, match="0 or more"):
        pool.offer(1, -1)
