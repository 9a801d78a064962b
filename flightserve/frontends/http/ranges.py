"""Parts of an answer (RFC 9110, 14), for readers that fetch a file piece by piece, as polars does.

An answer is made once, by the request for its begin or its end, and kept for a moment, so that all of its parts are of
one run of the query: rows may come in another order the next time. A part from the middle of an answer that is not kept
is not made anew; who asks for it gets the whole, as from a server that knows no parts. So does who asks for a part of a
large answer. One loop's; bytes of all answers together are bounded, those that are being made included.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Final, NamedTuple

from flightserve.clock import NS_PER_S
from flightserve.core.cache import TTLCache

ANSWER_BYTES_MAX: Final = 64 << 20
KEPT_BYTES_MAX: Final = 128 << 20
KEPT_MAX: Final = 64
# An answer that has a tag is that of the tables as they are; it is kept so long after each use. One that has none
# may be another the next time, and is only kept for the address that asked for it.
TAGGED_NS: Final = 60 * NS_PER_S
UNTAGGED_NS: Final = 10 * NS_PER_S
_RANGE: Final = re.compile(rb"\s*bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*", re.IGNORECASE)


class Range(NamedTuple):
    """The bytes from `first` to `last`; those from `first` on, where `last` is None; the last so many, where `first`
    is None."""

    first: int | None
    last: int | None

    @property
    def begins(self) -> bool:
        """Whether a reader may begin with it."""
        return not self.first

    @property
    def probes(self) -> bool:
        """Whether it only asks how many bytes there are."""
        return self.first == 0 and self.last is not None and self.last <= 1


WHOLE: Final = Range(0, None)


def read_range(header: bytes | None) -> Range | None:
    """What the header `Range` asks for; None for what is no single range of bytes, which is the same as none."""
    found = _RANGE.fullmatch(header or b"")
    if found is None or not (found[1] or found[2]):
        return None
    first, last = (int(text) if text else None for text in found.groups())
    return None if first is not None and last is not None and last < first else Range(first, last)


def place(wanted: Range, size: int) -> tuple[int, int] | None:
    """Where in so many bytes it lies, from and to; None where it does not."""
    if wanted.first is None:
        start, stop = max(0, size - (wanted.last or 0)), size
    else:
        start, stop = wanted.first, size if wanted.last is None else min(size, wanted.last + 1)
    return (start, stop) if start < stop else None


class Wanted(NamedTuple):
    """A part of the answer that is kept, or to be kept, under `key`, for `lifetime_ns`."""

    key: Hashable
    part: Range
    lifetime_ns: int


class KeptAnswers:
    """See the module. Times are monotonic nanoseconds."""

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._answers: TTLCache[Hashable, bytes] = TTLCache(KEPT_MAX, bytes_max)
        # Of answers that are being made.
        self._growing = 0

    def __repr__(self) -> str:
        return f"<KeptAnswers {self._answers}, {self._growing} bytes growing>"

    def find(self, wanted: Wanted, now_ns: int) -> bytes | None:
        """The whole answer, where it is kept. Whoever probes one without a tag gets a new one."""
        is_tagged = wanted.lifetime_ns == TAGGED_NS
        answer = None if wanted.part.probes and not is_tagged else self._answers.get(wanted.key, now_ns)
        if answer is not None and is_tagged:
            self._answers.put(wanted.key, answer, now_ns + TAGGED_NS, now_ns, len(answer))
        return answer

    def grow(self, size: int, more: int) -> bool:
        """Whether an answer of `size` bytes may have so many more; they count until `made`."""
        if size + more > ANSWER_BYTES_MAX or self._growing + more > self._bytes_max:
            return False
        self._growing += more
        return True

    def expire(self, now_ns: int) -> None:
        """Let go of what is over. Asked again and again."""
        self._answers.expire(now_ns)

    def made(self, size: int) -> None:
        """An answer of so many bytes was made, or given up."""
        self._growing -= size

    def keep(self, wanted: Wanted, answer: bytes, now_ns: int) -> bytes:
        """Keep an answer; the one that counts, where another was made at the same time."""
        known = self.find(wanted, now_ns)
        if known is not None:
            return known
        self._answers.put(wanted.key, answer, now_ns + wanted.lifetime_ns, now_ns, len(answer))
        return answer
