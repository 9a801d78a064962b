"""The bounds of one HTTP request, without a connection: at each bound, and one past it."""

from __future__ import annotations

import pytest

from flightserve.config import EdgeLimits
from flightserve.errors import TooLarge
from flightserve.frontends.http.bounds import CHUNK_BYTES, RequestBounds
from flightserve.frontends.http.errors import HeadersTooLarge, UrlTooLong

LIMITS = EdgeLimits(
    header_bytes_max=100,
    header_count_max=3,
    url_bytes_max=10,
    body_bytes_max=50,
    header_timeout_s=1,
    body_idle_timeout_s=2,
    body_timeout_s=5,
)
Headers = list[tuple[bytes, bytes]]


def reading(size: int, now: float = 0.0) -> RequestBounds:
    """A head begins, in a piece of so many bytes."""
    bounds = RequestBounds(LIMITS)
    bounds.receive(size, now)
    bounds.begin_head()
    return bounds


def in_body() -> RequestBounds:
    bounds = reading(60)
    bounds.end_head(b"/", [])
    bounds.begin_body(None)
    bounds.check_piece(b"/", [])
    return bounds


@pytest.mark.parametrize(
    ("url", "headers", "error"),
    [
        (b"u" * 10, [(b"a", b"b")] * 3, None),
        (b"u" * 11, [], UrlTooLong),
        (b"u", [(b"a", b"b")] * 4, HeadersTooLarge),
        (b"u" * 11, [(b"a", b"b")] * 4, UrlTooLong),
    ],
)
def test_a_whole_head(url: bytes, headers: Headers, error: type[Exception] | None) -> None:
    bounds = reading(60)
    if error is None:
        bounds.end_head(url, headers)
        assert not bounds.in_head
        return
    with pytest.raises(error):
        bounds.end_head(url, headers)


@pytest.mark.parametrize("over", [0, 1])
def test_what_has_come_of_a_head_is_counted_before_it_is_whole(over: int) -> None:
    bounds = reading(60)
    bounds.check_piece(b"/", [])
    bounds.receive(40 + over, 0)
    if not over:
        bounds.check_piece(b"/", [])
        return
    with pytest.raises(HeadersTooLarge):
        bounds.check_piece(b"/", [])


@pytest.mark.parametrize("over", [0, 1])
def test_a_head_in_the_piece_of_another_request_s_end_is_counted_by_its_own_bytes(over: int) -> None:
    bounds = in_body()
    bounds.receive(1000, 0)
    bounds.take_body(50)
    bounds.end_message()
    bounds.begin_head()
    own = [(b"a", b"b" * (95 + over))]
    if not over:
        bounds.end_head(b"/", own)
        return
    with pytest.raises(HeadersTooLarge):
        bounds.end_head(b"/", own)


@pytest.mark.parametrize(("declared", "fits"), [(None, True), (b"50", True), (b"51", False), (b"9" * 40, False)])
def test_a_declared_length(declared: bytes | None, fits: bool) -> None:
    bounds = reading(60)
    bounds.end_head(b"/", [])
    if fits:
        bounds.begin_body(declared)
        return
    with pytest.raises(TooLarge):
        bounds.begin_body(declared)


@pytest.mark.parametrize("over", [0, 1])
def test_chunk_extensions_are_counted_and_the_content_is_not(over: int) -> None:
    bounds = in_body()
    for extension in (30, 70 + over):
        bounds.receive(10 + CHUNK_BYTES + extension, 0)
        bounds.begin_chunk()
        bounds.take_body(10)
        if extension == 71:
            with pytest.raises(HeadersTooLarge, match="extensions"):
                bounds.check_piece(b"/", [])
        else:
            bounds.check_piece(b"/", [])


def test_trailers_are_counted_like_headers() -> None:
    bounds = in_body()
    for _ in range(3):
        bounds.count_trailer()
    with pytest.raises(HeadersTooLarge, match="trailers"):
        bounds.count_trailer()


def test_how_long_each_part_may_take() -> None:
    bounds = RequestBounds(LIMITS)
    bounds.receive(60, 10)
    assert bounds.begin_head() == 11
    bounds.end_head(b"/", [])
    assert bounds.begin_body(None) == 12
    for now, until in ((11, 13), (13, 15), (14.5, 15)):
        bounds.receive(5, now)
        assert bounds.take_body(5) == until
