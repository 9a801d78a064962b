"""Which regions of another node's segment have their rows here: each is pulled once, whoever wants it.

A mirror is a segment of the same size whose bytes come over the network, region by region. The owner writes a range
again only when nobody reads it any more, and gives it another generation then; so what came for one generation is
there until the range is asked for under another, and no lease has to be counted twice. All operations are O(1).
"""

from __future__ import annotations

import enum
from typing import Final

# Of one segment so many regions are remembered; one that was forgotten is pulled again.
HERE_MAX: Final = 1 << 16


class Presence(enum.Enum):
    """What a reader has to do about a region."""

    HERE = "here"
    # Somebody pulls it already: wait.
    COMING = "coming"
    # It is yours to pull: say `arrived` or `failed`.
    MISSING = "missing"


class Mirroring:
    """The regions of one segment, by where they begin."""

    __slots__ = ("_coming", "_here")

    def __init__(self) -> None:
        self._here: dict[int, int] = {}
        self._coming: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Mirroring: {len(self._here)} regions are here, {len(self._coming)} coming>"

    def want(self, offset: int, generation: int) -> Presence:
        """Somebody is to read the region of that generation. Where it is MISSING the caller pulls it."""
        state = self.state(offset, generation)
        if state is not Presence.MISSING:
            return state
        # What was there, or came, is nobody's any more.
        self._here.pop(offset, None)
        self._coming[offset] = generation
        return Presence.MISSING

    def state(self, offset: int, generation: int) -> Presence:
        """As `want`, of a region that somebody wanted before; nobody is to pull it for this."""
        if self._here.get(offset) == generation:
            return Presence.HERE
        return Presence.COMING if self._coming.get(offset) == generation else Presence.MISSING

    def arrived(self, offset: int, generation: int) -> None:
        """All its rows are there."""
        if self._coming.get(offset) == generation:
            del self._coming[offset]
        self._here[offset] = generation
        if len(self._here) > HERE_MAX:
            del self._here[next(iter(self._here))]

    def failed(self, offset: int, generation: int) -> None:
        """It could not be had: the next who wants it tries again."""
        if self._coming.get(offset) == generation:
            del self._coming[offset]
