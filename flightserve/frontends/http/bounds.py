"""What one request over HTTP may be in bytes, and how long each of its parts may take, counted as they come.

No socket, no clock and no parser here: the connection tells what arrived and when, in seconds of one clock, and asks
by when the next must have. Bytes of an unfinished head are counted as they are received, because the parser collects a
long header silently. Beside a chunked body's content its trailers are counted like headers, and so are the bytes of
chunk extensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, TooLarge
from flightserve.frontends.http.errors import HeadersTooLarge, UrlTooLong

# What a chunk may take beside its content and not count: its size in 16 digits, and two line ends.
CHUNK_BYTES: Final = 20


class RequestBounds:
    """Of one connection. A piece is received, what it holds is told, and then it is checked."""

    __slots__ = (
        "_body_until", "_in_body", "_limits", "_now", "_piece", "_received", "_received_shared", "_shared",
        "_trailers", "framing", "in_head", "in_message", "length_known",
    )  # fmt: skip

    def __init__(self, limits: EdgeLimits) -> None:
        self._limits = limits
        self._now = 0.0
        self.in_head = False
        self.in_message = False
        # Whether the request's head declared its body's length.
        self.length_known = False
        # The piece that was received last, and whether the head being read shares it with another request's end.
        self._piece = 0
        self._shared = False
        self._in_body = False
        # Of the head being read: bytes that are surely its own, and those of a piece that it shares.
        self._received = 0
        self._received_shared = 0
        # Of the body being read: bytes that are not its content, as far as they are surely its own; and its trailers.
        self.framing = 0
        self._trailers = 0
        self._body_until = math.inf

    def receive(self, size: int, now: float) -> None:
        """A piece of so many bytes has come, and will be parsed."""
        self._now = now
        self._piece = size
        self._shared = in_message = self.in_message
        self._received += size
        self._in_body = in_body = in_message and not self.in_head
        if in_body:
            self.framing += size

    def begin_head(self) -> float:
        """A request's first byte. By when its head must be whole."""
        self.in_head = self.in_message = True
        self.length_known = False
        # A piece that another request's end is in as well counts only once the head is whole.
        self._received, self._received_shared = (0, self._piece) if self._shared else (self._piece, 0)
        self._shared = True
        return self._now + self._limits.header_timeout_s

    def end_head(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The head is whole. Raises UrlTooLong, HeadersTooLarge."""
        self.in_head = False
        limits = self._limits
        if len(headers) > limits.header_count_max or len(url) > limits.url_bytes_max:
            raise self._oversized_head(url, headers)
        # Where all that it came with fits, the head does; only otherwise is it worth counting.
        if self._received + self._received_shared > limits.header_bytes_max:
            size = sum(len(name) + len(value) + 4 for name, value in headers)
            if size > limits.header_bytes_max:
                raise self._oversized_head(url, headers)

    def begin_body(self, declared: bytes | None) -> float:
        """A body of the `declared` length may follow. By when its first piece must be here. Raises TooLarge."""
        limits = self._limits
        self._trailers = 0
        if declared is not None and int(declared) > limits.body_bytes_max:
            raise TooLarge(f"the body has {int(declared)} bytes; at most {limits.body_bytes_max} are taken")
        self._body_until = self._now + limits.body_timeout_s
        return self._now + limits.body_idle_timeout_s

    def begin_chunk(self) -> None:
        """A chunk begins: what it takes to say so is no fault."""
        self.framing -= CHUNK_BYTES

    def take_body(self, size: int) -> float:
        """So much of the body. By when its next piece must be here."""
        self.framing -= size
        return min(self._now + self._limits.body_idle_timeout_s, self._body_until)

    def count_trailer(self) -> None:
        """A header behind a chunked body. Raises HeadersTooLarge."""
        self._trailers += 1
        if self._trailers > self._limits.header_count_max:
            raise HeadersTooLarge(f"there are more than {self._limits.header_count_max} trailers")

    def end_message(self) -> None:
        """The request is whole."""
        self.in_message = False

    def check_piece(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The piece was parsed. `url` and `headers` are of the head being read. Raises UrlTooLong, HeadersTooLarge."""
        bytes_max = self._limits.header_bytes_max
        if self.in_head and self._received > bytes_max:
            raise self._oversized_head(url, headers)
        if not self._in_body or not self.in_message:
            self.framing = 0
        elif self.framing > bytes_max:
            raise HeadersTooLarge(f"trailers and chunk extensions have more than {bytes_max} bytes")

    def _oversized_head(self, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> FlightserveError:
        limits = self._limits
        if len(url) > limits.url_bytes_max:
            return UrlTooLong(f"the URL is longer than {limits.url_bytes_max} bytes")
        if len(headers) > limits.header_count_max:
            return HeadersTooLarge(f"there are more than {limits.header_count_max} headers")
        return HeadersTooLarge(f"the headers have more than {limits.header_bytes_max} bytes")
