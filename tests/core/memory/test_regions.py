"""The allocator never overlaps, never loses a byte, and never frees what is leased."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flightserve.core.memory.leases import Hold, Leases
from flightserve.core.memory.regions import ALIGNMENT, Allocator, Placement, size_class
from flightserve.errors import ProtocolError, TooLarge

SEGMENT = 4096
BYTES_MAX = 5 * SEGMENT


class Counted(Hold):
    """A hold that counts how often it was freed."""

    def __init__(self, refs: int) -> None:
        super().__init__(refs)
        self.times_freed = 0

    def freed(self) -> None:
        self.times_freed += 1


class Memory(RuleBasedStateMachine):
    """An owner's memory: the allocator, its regions' holds, two readers' leases, and the segments that the caller
    would have made."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(SEGMENT, BYTES_MAX, spare_segments=1)
        self.tables: dict[str, Leases[tuple[int, int], Counted]] = {"a": Leases(), "b": Leases()}
        self.holds: dict[tuple[int, int], Counted] = {}
        self.segments: dict[int, int] = {}
        self.regions: dict[tuple[int, int], Placement] = {}
        self.leases: dict[tuple[int, int], list[str]] = {}
        self.retired: set[int] = set()

    @rule(length=st.one_of(st.integers(0, 600), st.integers(0, SEGMENT), st.integers(0, 3 * SEGMENT)))
    def allocate(self, length: int) -> None:
        placement = self.allocator.allocate(length)
        if placement is None:
            assert sum(self.segments.values()) + min(length, SEGMENT) > BYTES_MAX - SEGMENT or length > SEGMENT
            return
        for segment in placement.dropped:
            self.drop(segment)
        if placement.new_segment_bytes:
            assert placement.segment not in self.segments
            self.segments[placement.segment] = placement.new_segment_bytes
        assert placement.offset % ALIGNMENT == 0
        assert placement.length >= length
        assert placement.offset + placement.length <= self.segments[placement.segment]
        assert placement.segment not in self.retired
        self.regions[placement.segment, placement.offset] = placement
        self.holds[placement.segment, placement.offset] = Counted(1)
        self.leases[placement.segment, placement.offset] = ["owner"]

    @precondition(lambda self: self.regions)
    @rule(data=st.data(), holder=st.sampled_from("ab"))
    def lease(self, data: st.DataObject, holder: str) -> None:
        region = data.draw(st.sampled_from(sorted(self.regions)))
        self.tables[holder].grant(region, self.holds[region])
        self.leases[region].append(holder)

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        region = data.draw(st.sampled_from(sorted(self.regions)))
        holder = data.draw(st.sampled_from(self.leases[region]))
        self.leases[region].remove(holder)
        hold = self.holds[region]
        if holder == "owner":
            hold.drop()
        else:
            self.tables[holder].release(region)
        assert hold.times_freed == (not self.leases[region])
        if not self.leases[region]:
            self.free(region)

    @rule(holder=st.sampled_from("ab"))
    def die(self, holder: str) -> None:
        expected = set()
        before = {region: list(holders) for region, holders in self.leases.items()}
        for region, holders in self.leases.items():
            if holder in holders:
                holders[:] = [other for other in holders if other != holder]
                if not holders:
                    expected.add(region)
        lost = {region for region, holders in before.items() if holder in holders}
        self.tables[holder].end()
        assert {region for region, hold in self.holds.items() if hold.times_freed} == expected
        assert all(self.holds[region].lost for region in lost)
        for region in expected:
            self.free(region)

    @precondition(lambda self: set(self.segments) - self.retired)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        segment = data.draw(st.sampled_from(sorted(set(self.segments) - self.retired)))
        self.retired.add(segment)
        dropped = self.allocator.retire(segment)
        assert dropped in {None, segment}
        if dropped is not None:
            self.drop(dropped)

    def free(self, region: tuple[int, int]) -> None:
        del self.regions[region]
        del self.leases[region]
        del self.holds[region]
        dropped = self.allocator.free(*region)
        if dropped is not None:
            self.drop(dropped)

    def drop(self, segment: int) -> None:
        assert all(region[0] != segment for region in self.regions), "a segment in use was dropped"
        del self.segments[segment]

    @invariant()
    def books_agree(self) -> None:
        self.allocator.check_invariants()
        statistics = self.allocator.statistics()
        assert statistics.segment_bytes == sum(self.segments.values()) <= BYTES_MAX
        assert statistics.regions == len(self.regions) == len(self.holds)
        assert not any(hold.times_freed for hold in self.holds.values())
        for holder, table in self.tables.items():
            assert len(table) == sum(holders.count(holder) for holders in self.leases.values())

    @invariant()
    def no_overlap(self) -> None:
        last_segment, last_end = 0, 0
        for (segment, offset), placement in sorted(self.regions.items()):
            assert segment > last_segment or offset >= last_end
            last_segment, last_end = segment, offset + placement.length

    def teardown(self) -> None:
        for holder in "ab":
            self.die(holder)
        for region in list(self.regions):
            self.holds[region].drop()
            assert self.holds[region].times_freed == 1
            self.free(region)
        self.books_agree()
        assert len(self.segments) <= 1
        # All is reusable: the whole of a segment can be given out at once, as often as there is room.
        for _ in range(BYTES_MAX // SEGMENT):
            self.allocate(SEGMENT)
        assert len(self.regions) == BYTES_MAX // SEGMENT


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


@given(st.integers(0, 1 << 40))
def test_a_size_class_holds_its_length_and_wastes_little(length: int) -> None:
    size = size_class(length)
    assert size >= length
    assert size % ALIGNMENT == 0
    assert size - length <= max(ALIGNMENT, length // 8)
    assert size_class(size) == size


def test_the_most_recently_freed_region_is_reused_first() -> None:
    allocator = Allocator(1 << 20, 1 << 20)
    first, second, third = (_place(allocator, 1000) for _ in range(3))
    allocator.free(first.segment, first.offset)
    allocator.free(third.segment, third.offset)
    assert _place(allocator, 990).offset == third.offset
    assert _place(allocator, 1000).offset == first.offset
    assert second.offset not in {first.offset, third.offset}


def test_free_neighbours_merge_before_a_new_segment_is_asked_for() -> None:
    allocator = Allocator(1024, 1 << 20)
    small = [_place(allocator, 64) for _ in range(16)]
    assert sum(placement.new_segment_bytes for placement in small) == 1024
    for placement in small:
        assert allocator.free(placement.segment, placement.offset) is None
    assert _place(allocator, 1024) == Placement(small[0].segment, 0, 1024)


def test_memory_is_full_at_its_bound_and_not_before() -> None:
    allocator = Allocator(1024, 2048)
    held = [_place(allocator, 1024), _place(allocator, 1024)]
    assert allocator.allocate(1) is None
    allocator.free(held[0].segment, held[0].offset)
    assert _place(allocator, 1).segment == held[0].segment


def test_a_region_larger_than_a_segment_has_its_own_and_goes_with_it() -> None:
    allocator = Allocator(4096, 5 * 4096)
    large = _place(allocator, 4097)
    assert (large.offset, large.length, large.new_segment_bytes) == (0, 8192, 8192)
    assert allocator.free(large.segment, 0) == large.segment
    assert _place(allocator, 4096).new_segment_bytes == 4096


def test_a_large_region_takes_the_room_of_spare_segments() -> None:
    allocator = Allocator(4096, 2 * 4096)
    held = [_place(allocator, 4096) for _ in range(2)]
    for placement in held:
        allocator.free(placement.segment, placement.offset)
    large = _place(allocator, 8192)
    assert sorted(large.dropped) == [placement.segment for placement in held]
    assert allocator.statistics().segments == 1


def test_what_never_fits_and_what_makes_no_sense_is_refused() -> None:
    allocator = Allocator(4096, 8192)
    assert _place(allocator, 8192).length == 8192
    with pytest.raises(TooLarge, match="8193 bytes"):
        allocator.allocate(8193)
    with pytest.raises(ValueError, match="-1 bytes"):
        allocator.allocate(-1)
    with pytest.raises(KeyError):
        allocator.free(1, 64)
    for arguments in ((100, 4096), (4096, 4095), (4096, 4096, 0)):
        with pytest.raises(ValueError):
            Allocator(*arguments)


def test_surplus_empty_segments_are_dropped_coldest_first() -> None:
    allocator = Allocator(1024, 1 << 20, spare_segments=2)
    held = [_place(allocator, 1024) for _ in range(4)]
    dropped = [allocator.free(placement.segment, placement.offset) for placement in held]
    assert dropped == [None, None, held[0].segment, held[1].segment]


def test_a_reader_cannot_give_back_what_it_does_not_hold() -> None:
    hold, mine, others = Counted(1), Leases[int, Counted](), Leases[int, Counted]()
    mine.grant(5, hold)
    mine.grant(5, hold)
    with pytest.raises(ProtocolError, match="no lease"):
        others.release(5)
    mine.release(5)
    hold.drop()
    assert (hold.times_freed, len(mine)) == (0, 1)
    mine.release(5)
    assert (hold.times_freed, hold.lost) == (1, False)
    with pytest.raises(ProtocolError, match="no lease"):
        mine.release(5)


def test_a_kept_region_is_lost_with_its_keeper() -> None:
    hold, keeper = Counted(1), Leases[int, Counted]()
    keeper.take_over(5, hold)
    keeper.end()
    keeper.end()
    assert (hold.times_freed, hold.lost) == (1, True)


def _place(allocator: Allocator, length: int) -> Placement:
    placement = allocator.allocate(length)
    assert placement is not None
    return placement
