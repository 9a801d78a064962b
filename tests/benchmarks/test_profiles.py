"""Profiles: what is made of the sampler's stacks."""

from __future__ import annotations

import os

from benchmarks.profiles import CASES, FUNCTIONS_MAX, NO_PYTHON, Stacks, _page
from benchmarks.usage import Used

LINES = ("thread (7): a;loop;read 3", "thread (7): a;loop;loop;write 1", "thread (8): b;wait 400")


def test_a_function_has_what_it_did_itself_and_what_went_on_inside_of_it_once() -> None:
    stacks = Stacks(LINES, {7: 8, 8: 0})
    assert +stacks.own == {"read": 6, "write": 2}
    assert +stacks.within == {"thread a": 8, "loop": 8, "read": 6, "write": 2}
    assert stacks.tables()[:3] == ["    %  in the function itself", " 75.0  read", " 25.0  write"]


def test_threads_count_as_much_as_they_ran_and_those_without_python_as_well() -> None:
    stacks = Stacks(LINES, {7: 4, 8: 4, 9: 8})
    assert stacks.own == {"read": 3, "write": 1, "wait": 4, NO_PYTHON: 8}


def test_names_may_have_blanks_and_lists_have_an_end() -> None:
    lines = [f"thread (7);<frozen runpy> (a b.py:1);f{number} (x.py:{number}) 1" for number in range(2 * FUNCTIONS_MAX)]
    stacks = Stacks(lines, {7: 2 * FUNCTIONS_MAX})
    assert stacks.within["<frozen runpy> (a b.py:1)"] == 2 * FUNCTIONS_MAX
    assert len(stacks.tables()) == 2 * (1 + FUNCTIONS_MAX) + 1


def test_a_page_has_a_process_that_slept_all_the_time() -> None:
    used = {"router": Used(0.75, 0.25), "idle": Used(0.0, 0.0)}
    page = "\n".join(
        _page(CASES[0], {"answered": 1000}, used, {"router": Stacks(LINES, {7: 1}), "idle": Stacks((), {})})
    )
    assert "router: 1000.0 us of processor time a call, 25 % of it the kernel's" in page
    assert "idle: 0.0 us of processor time a call, 0 % of it the kernel's" in page


def test_what_a_process_used_is_read_of_the_kernel() -> None:
    before = Used.of(os.getpid())
    # Until the clock of these figures, of 10 ms, has moved.
    while not sum(Used.of(os.getpid()).since(before)):
        sum(range(100_000))
    assert sum(Used.of(os.getpid())) > sum(before)


def test_every_profile_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
