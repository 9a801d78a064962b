"""How far ahead of its replies a stream of requests is read.

A client that waits for each reply is served fastest by one thread that reads, submits, receives and writes in turn. One
that sends ahead is served faster when reading goes on while its requests run. Which of the two a client is shows in
whether its next batch was already there when somebody came to read it: whoever reads says whether the read had to wait.

A stream begins in turn, one request in flight. `AHEAD_AFTER` points of evidence, with no read that waited between,
let it be read ahead, with two in flight. From then on every batch that was there already allows one more, up to
`window`; a read that waited while replies went out lowers that to what the client had outstanding; and one that waited
until nothing else was in flight ends the reading ahead.

A batch that was there already is worth less the longer ago the last reply was: on a busy machine the client's whole
round fits between a reply and the next read, while the reading thread waits for its turn. It counts all the same,
because on a busy machine no better evidence is to be had. How long a round of this client takes, on this machine and by
this way, the reads that waited tell; until one did, it is guessed.
"""

from __future__ import annotations

from typing import Final

# A batch that was there sooner after the last reply than this part of the client's shortest round was sent before it.
SOON: Final = 0.5
# The same where no round is known (longer by the batch's own way, at 2 ns a byte).
ROUND_NS: Final = 100_000
WAY_NS_PER_BYTE: Final = 2
# By so much the shortest round grows with each that was longer: what a client did once is forgotten.
_ROUND_GROWTH: Final = 17 / 16
STRONG: Final = 4
WEAK: Final = 1
AHEAD_AFTER: Final = 8


class ReadAhead:
    """How many requests of one stream may be in flight: `allowed`, from 1 (read in turn) to `window`.

    Told of each read by whichever thread reads; never by two at a time. All operations are O(1)."""

    __slots__ = ("_evidence", "_round_ns", "_window", "allowed")

    def __init__(self, window: int) -> None:
        self._window = window
        self._evidence = 0
        # The client's shortest round; 0 until there was one.
        self._round_ns = 0.0
        self.allowed = 1

    def __repr__(self) -> str:
        return f"<ReadAhead {self.allowed} of {self._window}, evidence {self._evidence}>"

    def note_turn(self, waited: bool, since_reply_ns: int | None, nbytes: int) -> None:
        """A batch of so many bytes was read with nothing in flight, so long after the last reply began to be written.
        Before the first reply (None) it tells nothing: the first batch may come with the call itself."""
        if waited or since_reply_ns is None:
            self._evidence = 0
            if since_reply_ns is not None:
                grown_ns = self._round_ns * _ROUND_GROWTH
                self._round_ns = min(grown_ns, since_reply_ns) if grown_ns else since_reply_ns
            return
        soon_ns = SOON * self._round_ns if self._round_ns else ROUND_NS + WAY_NS_PER_BYTE * nbytes
        self._evidence += STRONG if since_reply_ns < soon_ns else WEAK
        if self._evidence >= AHEAD_AFTER:
            self.allowed = min(2, self._window)

    def note_ahead(self, waited: bool, in_flight_before: int, in_flight: int, replied: bool) -> bool:
        """A batch was read while others ran: how many were in flight before the read and are with it, and whether a
        reply was written meanwhile. False where the stream is to be read in turn again."""
        if not waited:
            self.allowed = min(self.allowed + 1, self._window)
        elif in_flight == 1:
            self.allowed, self._evidence = 1, 0
            return False
        elif replied and in_flight_before >= 2:
            self.allowed = min(in_flight_before, self._window)
        return True
