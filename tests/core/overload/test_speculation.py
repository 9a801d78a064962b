"""What is begun early: learnt from cheap askings, given up after waste, bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.overload.speculation import SCORE_MAX, SCORE_WANTED, WASTE_COST, Speculation


def asked(books: Speculation[str], key: str, times: int) -> None:
    for _ in range(times):
        books.asked(key, True)


def test_a_key_is_wanted_once_it_was_cheap_often_enough() -> None:
    books: Speculation[str] = Speculation(10)
    asked(books, "a", SCORE_WANTED - 1)
    assert not books.wanted("a")
    books.asked("a", True)
    assert books.wanted("a") and not books.wanted("b")


def test_one_that_was_dear_ends_it() -> None:
    books: Speculation[str] = Speculation(10)
    asked(books, "a", SCORE_MAX)
    books.asked("a", False)
    assert not books.wanted("a") and len(books) == 0


def test_after_a_waste_it_has_to_be_asked_for_ten_times() -> None:
    books: Speculation[str] = Speculation(10)
    asked(books, "a", 100)
    books.wasted("a")
    asked(books, "a", WASTE_COST + SCORE_WANTED - 1)
    assert not books.wanted("a")
    books.asked("a", True)
    assert books.wanted("a")


def test_waste_of_a_key_that_is_forgotten_is_forgotten() -> None:
    books: Speculation[str] = Speculation(10)
    books.wasted("a")
    assert len(books) == 0


def test_the_key_longest_not_asked_for_goes() -> None:
    books: Speculation[str] = Speculation(2)
    for key in ("a", "b", "a", "b", "a"):
        books.asked(key, True)
    asked(books, "c", 1)
    assert books.wanted("a") and not books.wanted("b") and len(books) == 2


class Oracle:
    """The whole history of each key, looked through each time."""

    def __init__(self) -> None:
        self.history: dict[str, list[str]] = {}

    def note(self, key: str, what: str) -> None:
        self.history.setdefault(key, []).append(what)

    def wanted(self, key: str) -> bool:
        events = self.history.get(key, [])
        known, score = False, 0
        for event in events:
            if event == "cheap":
                known, score = True, min(SCORE_MAX, score + 1)
            elif event == "dear":
                known, score = False, 0
            elif known:
                score = -WASTE_COST
        return score >= SCORE_WANTED


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["cheap", "cheap", "cheap", "dear", "wasted"]))))
def test_as_by_the_whole_history(events: list[tuple[str, str]]) -> None:
    books, oracle = Speculation[str](10), Oracle()
    for key, event in events:
        oracle.note(key, event)
        if event == "wasted":
            books.wasted(key)
        else:
            books.asked(key, event == "cheap")
        assert books.wanted(key) is oracle.wanted(key)
