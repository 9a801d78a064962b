"""Bounded maps, against plain lists of what was used or put in, and their bounds at the bound and past it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.cache import LRUCache, TTLCache

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "get", "peek", "change", "pop"]), st.integers(0, 6), st.integers(0, 12)),
    max_size=60,
)


@given(STEPS, st.sampled_from([None, 0, 1, 4]), st.sampled_from([None, 0, 11, 20]))
def test_lru_against_a_list(steps: list[tuple[str, int, int]], entries_max: int | None, weight_max: int | None) -> None:
    """The most recently used are there, as many and as much as the bounds allow."""
    cache: LRUCache[int, int] = LRUCache(entries_max, weight_max)
    books: list[tuple[int, int, int]] = []
    for value, (what, key, weight) in enumerate(steps):
        known = next((entry for entry in books if entry[0] == key), None)
        if what == "peek":
            assert cache.peek(key) == (known[1] if known else None)
        elif what == "change":
            cache.change(key, value)
            books = [(key, value, entry[2]) if entry is known else entry for entry in books]
        elif what == "put":
            books = [entry for entry in books if entry is not known]
            gone = [] if weight_max is None or weight <= weight_max else [(key, value)]
            if not gone:
                books.append((key, value, weight))
            while len(books) > (entries_max if entries_max is not None else 99) or (
                weight_max is not None and sum(entry[2] for entry in books) > weight_max
            ):
                gone.append(books.pop(0)[:2])
            assert cache.put(key, value, weight) == gone
        else:
            books = [entry for entry in books if entry is not known]
            assert (cache.get(key) if what == "get" else cache.pop(key)) == (known[1] if known else None)
            books += [known] if known and what == "get" else []
        assert list(cache) == [entry[0] for entry in books]
        assert (len(cache), cache.weight) == (len(books), sum(entry[2] for entry in books))
        assert (key in cache) == any(entry[0] == key for entry in books)


def test_what_is_heavier_than_all_may_be_is_not_kept_and_costs_the_others_nothing() -> None:
    cache: LRUCache[str, int] = LRUCache(weight_max=10)
    assert cache.put("a", 1, 10) == []
    assert cache.put("b", 2, 11) == [("b", 2)]
    assert cache.get("a") == 1
    assert cache.put("a", 3, 11) == [("a", 3)]
    assert cache.get("a") is None, "the earlier one is not true any more"
    assert repr(cache) == "<LRUCache 0 entries, weight 0>"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=60))
def test_ttl_against_a_list(steps: list[tuple[int, int, int]]) -> None:
    """What was put in last is there until its time is over, and not longer."""
    cache: TTLCache[int, int] = TTLCache(entries_max=4)
    books: list[tuple[int, int, int]] = []
    now = 0
    for value, (key, passed, lifetime) in enumerate(steps):
        now += passed
        cache.put(key, value, now + lifetime, now)
        books = [*(entry for entry in books if entry[0] != key), (key, value, now + lifetime)][-4:]
        for each in range(6):
            alive = [entry[1] for entry in books if entry[0] == each and entry[2] > now]
            assert cache.get(each, now) == (alive[0] if alive else None)
        assert len(cache) <= 4


def test_what_is_over_goes_when_something_is_put_in() -> None:
    cache: TTLCache[str, int] = TTLCache(weight_max=10)
    cache.put("a", 1, 5.0, 0.0, 4)
    cache.put("b", 2, 6.0, 0.0, 4)
    assert (cache.get("a", 4.9), cache.get("a", 5.0)) == (1, None)
    cache.put("c", 3, 9.0, 5.0, 1)
    assert repr(cache) == "<TTLCache 2 entries, weight 5>"
    cache.clear()
    assert (len(cache), cache.weight, cache.get("c", 5.0)) == (0, 0, None)
