"""Reading ahead: begun by evidence in a row, within the window, and ended by a client that waits for each reply."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.overload.read_ahead import AHEAD_AFTER, ROUND_NS, SOON, STRONG, WAY_NS_PER_BYTE, WEAK, ReadAhead

WINDOWS = st.integers(1, 32)


@dataclasses.dataclass
class Client:
    """A stream's requests, as the stream counts them: at most `allowed` are in flight once one was read."""

    policy: ReadAhead
    in_flight: int = 0
    ahead: bool = False

    def read(self, waited: bool, since_reply_ns: int | None, nbytes: int, answered_meanwhile: int) -> None:
        if not self.ahead:
            self.policy.note_turn(waited, since_reply_ns, nbytes)
            self.in_flight = 1
            self.ahead = self.policy.allowed > 1
            return
        before = min(self.in_flight, self.policy.allowed - 1)
        answered = min(answered_meanwhile, before)
        self.in_flight = before - answered + 1
        self.ahead = self.policy.note_ahead(waited, before, self.in_flight, answered > 0)
        if not self.ahead:
            self.in_flight = 1


READS = st.lists(
    st.tuples(
        st.booleans(),
        st.none() | st.integers(0, 4 * ROUND_NS),
        st.integers(0, 1 << 20),
        st.integers(0, 4),
    ),
    max_size=200,
)


@given(WINDOWS, READS)
def test_what_is_allowed_stays_within_one_and_the_window(
    window: int, reads: list[tuple[bool, int | None, int, int]]
) -> None:
    client = Client(ReadAhead(window))
    for read in reads:
        client.read(*read)
        assert 1 <= client.policy.allowed <= window
        assert client.ahead == (client.policy.allowed > 1)
        assert client.in_flight <= window


@given(WINDOWS, st.lists(st.tuples(st.integers(0, 4 * ROUND_NS), st.integers(0, 1 << 20)), max_size=100))
def test_a_client_that_waits_for_each_reply_is_never_read_ahead(window: int, reads: list[tuple[int, int]]) -> None:
    policy = ReadAhead(window)
    for since_reply_ns, nbytes in reads:
        policy.note_turn(True, since_reply_ns, nbytes)
        assert policy.allowed == 1


@pytest.mark.parametrize(("since_reply_ns", "weight"), [(0, STRONG), (ROUND_NS - 1, STRONG), (ROUND_NS, WEAK)])
def test_a_client_that_sends_ahead_is_read_ahead_once_there_is_evidence_enough(
    since_reply_ns: int, weight: int
) -> None:
    policy = ReadAhead(32)
    for _ in range(AHEAD_AFTER // weight - 1):
        policy.note_turn(False, since_reply_ns, 0)
    assert policy.allowed == 1
    policy.note_turn(False, since_reply_ns, 0)
    assert policy.allowed == 2


@given(st.integers(0, 1 << 24))
def test_a_large_batch_has_longer_for_its_way(nbytes: int) -> None:
    latest_ns = ROUND_NS + WAY_NS_PER_BYTE * nbytes
    for since_reply_ns, expected in ((latest_ns - 1, 2), (latest_ns, 1)):
        policy = ReadAhead(32)
        for _ in range(AHEAD_AFTER // STRONG):
            policy.note_turn(False, since_reply_ns, nbytes)
        assert policy.allowed == expected


@pytest.mark.parametrize(("waited", "since_reply_ns"), [(True, 0), (False, None)])
def test_one_read_that_tells_otherwise_makes_the_evidence_begin_anew(waited: bool, since_reply_ns: int | None) -> None:
    policy = ReadAhead(32)
    for _ in range(AHEAD_AFTER // STRONG - 1):
        policy.note_turn(False, 0, 0)
    policy.note_turn(waited, since_reply_ns, 0)
    for _ in range(AHEAD_AFTER // STRONG - 1):
        policy.note_turn(False, 0, 0)
    assert policy.allowed == 1


@pytest.mark.parametrize("round_ns", [10_000, 80_000, 5_000_000])
def test_how_soon_is_soon_is_learnt_from_the_clients_rounds(round_ns: int) -> None:
    soon_ns = int(SOON * round_ns)
    for since_reply_ns, expected in ((soon_ns - 1, 2), (soon_ns + 1, 1)):
        policy = ReadAhead(32)
        for longer in (5, 1, 1):
            policy.note_turn(True, longer * round_ns, 0)
        for _ in range(AHEAD_AFTER // STRONG):
            policy.note_turn(False, since_reply_ns, 1 << 20)
        assert policy.allowed == expected


def test_a_client_that_becomes_slower_is_learnt_anew() -> None:
    policy = ReadAhead(32)
    policy.note_turn(True, 1_000, 0)
    for _ in range(80):
        policy.note_turn(True, 100_000, 0)
    for _ in range(AHEAD_AFTER // STRONG):
        policy.note_turn(False, 40_000, 0)
    assert policy.allowed == 2


def read_ahead(window: int, allowed: int) -> ReadAhead:
    """A policy that allows so many."""
    policy = ReadAhead(window)
    for _ in range(AHEAD_AFTER):
        policy.note_turn(False, 0, 0)
    while policy.allowed < allowed:
        assert policy.note_ahead(False, policy.allowed - 1, policy.allowed, False)
    return policy


@given(st.integers(2, 32))
def test_each_batch_that_was_there_allows_one_more_up_to_the_window(window: int) -> None:
    policy = read_ahead(window, 2)
    for allowed in [*range(3, window + 1), window, window]:
        assert policy.note_ahead(False, 1, 2, True)
        assert policy.allowed == allowed


@given(st.integers(2, 32).flatmap(lambda most: st.tuples(st.integers(2, most), st.integers(1, most - 1 or 1))))
def test_a_read_that_waited_for_replies_lowers_it_to_what_was_outstanding(counts: tuple[int, int]) -> None:
    allowed, before = counts
    policy = read_ahead(32, allowed)
    assert policy.note_ahead(True, before, 2, True)
    assert policy.allowed == (before if before >= 2 else allowed)
    unanswered = read_ahead(32, allowed)
    assert unanswered.note_ahead(True, before, before + 1 if before > 1 else 2, False)
    assert unanswered.allowed == allowed, "no reply went out: nothing says that the client waited for one"


@given(st.integers(2, 32), st.integers(0, 31))
def test_a_read_that_waited_until_nothing_ran_ends_it_and_the_evidence_begins_anew(allowed: int, before: int) -> None:
    policy = read_ahead(32, allowed)
    assert not policy.note_ahead(True, before, 1, True)
    assert policy.allowed == 1
    for _ in range(AHEAD_AFTER // STRONG - 1):
        policy.note_turn(False, 0, 0)
    assert policy.allowed == 1
