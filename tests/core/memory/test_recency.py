"""A bounded cache's books: against a plain list, and its bound at the bound and past it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.core.memory.recency import Recency


def test_the_least_recently_used_goes_first() -> None:
    books: Recency[str, int] = Recency(10)
    assert books.add(1, 4, {"a": 0}) == [] and books.add(2, 4, {"b": 0}) == []
    assert books.find("a") == (1, 0)
    assert books.add(3, 4, {"c": 0}) == [2]
    assert books.find("b") is None and books.find("a") == (1, 0)


@pytest.mark.parametrize(("nbytes", "gone"), [(10, []), (11, [1])])
def test_the_bound(nbytes: int, gone: list[int]) -> None:
    books: Recency[str, int] = Recency(10)
    assert books.add(1, nbytes, {"a": 0}) == gone
    assert books.nbytes == (0 if gone else 10)


def test_an_item_too_large_leaves_the_others() -> None:
    books: Recency[str, int] = Recency(10)
    books.add(1, 10, {"a": 0})
    assert books.add(2, 11, {"a": 1, "b": 1}) == [2]
    assert books.find("a") == (1, 0)


def test_what_has_no_key_left_goes() -> None:
    books: Recency[str, int] = Recency(10)
    books.add(1, 1, {"a": 0, "b": 0})
    assert books.add(2, 1, {"a": 1}) == []
    assert books.add(3, 1, {"b": 2}) == [1]
    assert (books.find("a"), books.find("b")) == ((2, 1), (3, 2))
    assert books.add(4, 1, {}) == [4]


def test_values_that_python_calls_equal_are_the_caller_s_to_tell_apart() -> None:
    books: Recency[tuple[str, int], int] = Recency(10)
    books.add(1, 1, {("BIGINT", 1): 0})
    books.add(2, 1, {("BOOLEAN", True): 1})
    assert books.find(("BIGINT", 1)) == (1, 0) and len(books) == books.keys == 2


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="bytes_max"):
        Recency(-1)
    books: Recency[str, int] = Recency(10)
    books.add(1, 1, {"a": 0})
    with pytest.raises(ValueError, match="already"):
        books.add(1, 1, {"b": 0})


class Oracle:
    """A list of (item, bytes, keys), the least recently used first."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.items: list[tuple[int, int, dict[int, int]]] = []

    def find(self, key: int) -> tuple[int, int] | None:
        for entry in self.items:
            if key in entry[2]:
                self.items.remove(entry)
                self.items.append(entry)
                return entry[0], entry[2][key]
        return None

    def add(self, item: int, nbytes: int, values: dict[int, int]) -> set[int]:
        if nbytes > self.bytes_max or not values:
            return {item}
        for _, _, held in self.items:
            for key in values:
                held.pop(key, None)
        gone = self.sweep()
        self.items.append((item, nbytes, dict(values)))
        while sum(entry[1] for entry in self.items) > self.bytes_max:
            gone.add(self.items.pop(0)[0])
        return gone

    def retain(self, least: int) -> set[int]:
        for _, _, held in self.items:
            for key in [key for key in held if key < least]:
                del held[key]
        return self.sweep()

    def sweep(self) -> set[int]:
        gone = {entry[0] for entry in self.items if not entry[2]}
        self.items = [entry for entry in self.items if entry[2]]
        return gone


KEYS = st.integers(0, 9)
STEPS = st.one_of(
    st.tuples(st.just("find"), KEYS),
    st.tuples(st.just("retain"), KEYS),
    st.tuples(st.just("add"), st.integers(0, 60), st.dictionaries(KEYS, st.integers(), max_size=4)),
)


@given(st.integers(0, 50), st.lists(STEPS, max_size=60))
def test_against_a_list(bytes_max: int, steps: list[tuple[object, ...]]) -> None:
    books: Recency[int, int] = Recency(bytes_max)
    oracle = Oracle(bytes_max)
    for number, step in enumerate(steps):
        if step[0] == "find":
            assert books.find(step[1]) == oracle.find(step[1])  # type: ignore[arg-type]
        elif step[0] == "retain":
            least = step[1]
            gone = books.retain(lambda key, least=least: key >= least)  # type: ignore[misc]
            assert sorted(gone) == sorted(oracle.retain(least))  # type: ignore[arg-type]
        else:
            gone = books.add(number, step[1], step[2])  # type: ignore[arg-type]
            assert sorted(gone) == sorted(oracle.add(number, step[1], step[2]))  # type: ignore[arg-type]
        assert books.nbytes == sum(entry[1] for entry in oracle.items) <= bytes_max
        assert len(books) == len(oracle.items)
        assert books.keys == sum(len(entry[2]) for entry in oracle.items)
    for key in range(10):
        assert books.find(key) == oracle.find(key)
