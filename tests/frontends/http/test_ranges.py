"""Parts of answers: what `Range` asks for, and which answers are kept for how long."""

from __future__ import annotations

import pytest

from flightserve.frontends.http.ranges import (
    ANSWER_BYTES_MAX,
    TAGGED_NS,
    UNTAGGED_NS,
    WHOLE,
    KeptAnswers,
    Range,
    Wanted,
    place,
    read_range,
)


@pytest.mark.parametrize(
    ("header", "wanted", "of_ten"),
    [
        (b"bytes=0-", WHOLE, (0, 10)),
        (b"bytes=0-0", Range(0, 0), (0, 1)),
        (b" Bytes = 2-4 ", Range(2, 4), (2, 5)),
        (b"bytes=9-100", Range(9, 100), (9, 10)),
        (b"bytes=-3", Range(None, 3), (7, 10)),
        (b"bytes=-30", Range(None, 30), (0, 10)),
        (b"bytes=-0", Range(None, 0), None),
        (b"bytes=10-", Range(10, None), None),
    ],
)
def test_what_is_asked_for_and_where_it_lies(header: bytes, wanted: Range, of_ten: tuple[int, int] | None) -> None:
    assert read_range(header) == wanted
    assert place(wanted, 10) == of_ten


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"bytes=",
        b"bytes=-",
        b"bytes=3-2",
        b"bytes=0-1,3-4",
        b"rows=0-1",
        b"bytes=a-b",
        b"bytes=" + b"9" * 30,
    ],
)
def test_what_is_no_single_range_is_none(header: bytes | None) -> None:
    assert read_range(header) is None


def tagged(part: Range = WHOLE, key: str = "a") -> Wanted:
    return Wanted(key, part, TAGGED_NS)


def test_an_answer_with_a_tag_is_kept_while_it_is_used() -> None:
    kept = KeptAnswers()
    assert kept.keep(tagged(), b"first", 0) == b"first"
    # Made at the same time: the rows may have come in another order.
    assert kept.keep(tagged(), b"other", 1) == b"first"
    for now in (TAGGED_NS, 2 * TAGGED_NS - 1):
        assert kept.find(tagged(Range(0, 0)), now) == b"first"
    assert kept.find(tagged(), 4 * TAGGED_NS) is None


def test_one_without_a_tag_is_for_one_reading() -> None:
    kept = KeptAnswers()
    wanted = Wanted("a", Range(0, 100), UNTAGGED_NS)
    assert kept.keep(wanted._replace(part=Range(0, 0)), b"first", 0) == b"first"
    assert kept.find(wanted, UNTAGGED_NS - 1) == b"first"
    assert kept.find(wanted, UNTAGGED_NS) is None
    assert kept.find(wanted._replace(part=Range(0, 0)), 1) is None
    assert kept.keep(wanted._replace(part=Range(0, 0)), b"second", 1) == b"second"


def test_what_is_over_takes_no_memory() -> None:
    kept = KeptAnswers()
    kept.keep(tagged(), b"x" * 30, 0)
    kept.expire(TAGGED_NS - 1)
    assert "30" in repr(kept)
    kept.expire(TAGGED_NS)
    assert "weight 0" in repr(kept)


def test_what_is_kept_and_made_is_bounded() -> None:
    kept = KeptAnswers(bytes_max=100)
    for n in range(10):
        kept.keep(tagged(key=str(n)), b"x" * 30, 0)
    assert [n for n in range(10) if kept.find(tagged(key=str(n)), 1)] == [7, 8, 9]
    assert kept.grow(0, 60) and not kept.grow(60, 41) and kept.grow(60, 40)
    kept.made(100)
    assert kept.grow(0, 100) and not KeptAnswers().grow(ANSWER_BYTES_MAX, 1)
    assert KeptAnswers().grow(ANSWER_BYTES_MAX - 1, 1)
