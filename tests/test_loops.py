"""What comes within one turn of an event loop goes on together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from flightserve.loops import TURNS_ALONE_MAX, TURNS_MAX, TurnGroups

Left = list[tuple[str, list[int]]]


def groups(left: Left, members_max: int = 100, weight_max: int = 0, patient: bool = False) -> TurnGroups[str, int]:
    return TurnGroups(lambda key, members: left.append((key, members)), members_max, weight_max, patient)


def in_a_loop(begin: Callable[[TurnGroups[str, int]], None], joining: TurnGroups[str, int]) -> None:
    async def run() -> None:
        begin(joining)
        await asyncio.sleep(0)

    asyncio.run(run())


def test_by_key_at_the_end_of_the_turn_and_then_it_is_said_that_all_left() -> None:
    left: Left = []
    said: list[int] = []
    joining = TurnGroups(lambda key, members: left.append((key, members)), 100, left=lambda: said.append(len(left)))

    def begin(_: object) -> None:
        for number in range(4):
            joining.join("even" if number % 2 == 0 else "odd", number)
        assert left == []

    in_a_loop(begin, joining)
    assert left == [("even", [0, 2]), ("odd", [1, 3])]
    assert said == [2]


def test_a_full_group_leaves_at_once_and_the_others_stay() -> None:
    left: Left = []

    def begin(joining: TurnGroups[str, int]) -> None:
        joining.join("b", 0)
        for number in range(4):
            joining.join("a", number)
        assert left == [("a", [0, 1, 2])]

    in_a_loop(begin, groups(left, members_max=3))
    assert left == [("a", [0, 1, 2]), ("b", [0]), ("a", [3])]


def test_a_group_that_is_full_by_its_members_sizes_leaves_at_once_and_a_new_one_begins() -> None:
    left: Left = []

    def begin(joining: TurnGroups[str, int]) -> None:
        joining.join("b", 0, size=3, size_max=4)
        for size in (2, 2, 1, 9, 3):
            joining.join("a", size, size=size, size_max=4)
        assert left == [("a", [2, 2]), ("a", [1, 9])]

    in_a_loop(begin, groups(left))
    assert left[2:] == [("b", [0]), ("a", [3])]


def test_who_left_in_a_full_group_had_company() -> None:
    left: Left = []
    joining = groups(left, patient=True)

    async def run() -> None:
        for _ in range(2):
            joining.join("a", 0, size=1, size_max=2)
            joining.join("a", 1, size=1, size_max=2)
        await asyncio.sleep(0)
        joining.join("a", 2)
        await asyncio.sleep(0)
        assert left == [("a", [0, 1])] * 2
        joining.join("a", 3)
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert left[2:] == [("a", [2, 3])]


def test_more_than_the_bound_of_weight_leaves_at_once() -> None:
    left: Left = []

    def begin(joining: TurnGroups[str, int]) -> None:
        joining.join("a", 0, weight=10)
        assert left == []
        joining.join("b", 1, weight=1)
        assert left == [("a", [0]), ("b", [1])]
        joining.join("a", 2, weight=10)
        assert len(left) == 2

    in_a_loop(begin, groups(left, weight_max=10))
    assert left[2:] == [("a", [2])]


def test_a_patient_one_that_had_company_waits_some_turns_for_more() -> None:
    left: Left = []

    async def each_turn(joining: TurnGroups[str, int], members: int) -> int:
        """How many turns the members waited, one joining in each until they left."""
        before, turns = len(left), 0
        while len(left) == before:
            if turns < members:
                joining.join("a", turns)
            await asyncio.sleep(0)
            turns += 1
        return turns

    async def run() -> None:
        joining = groups(left, patient=True)
        assert await each_turn(joining, 1) == 1
        joining.join("a", 0)
        assert await each_turn(joining, 1) == 1
        # Those had company.
        assert await each_turn(joining, 1) == 1 + TURNS_ALONE_MAX
        joining.join("a", 0)
        await each_turn(joining, 1)
        assert await each_turn(joining, 1000) == TURNS_MAX
        assert len(left[-1][1]) == TURNS_MAX

    asyncio.run(run())


@pytest.mark.parametrize("patient", [False, True])
def test_one_that_joins_while_they_leave_goes_with_the_next(patient: bool) -> None:
    left: Left = []

    def leave(key: str, members: list[int]) -> None:
        left.append((key, members))
        if len(left) == 1:
            joining.join(key, 7)

    joining: TurnGroups[str, int] = TurnGroups(leave, 100, patient=patient)

    async def run() -> None:
        joining.join("a", 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert left == [("a", [1]), ("a", [7])]
