"""Where a call over HTTP stands, and what each thing that happens to it makes of that: all of it, in one table.

An exchange goes from reading its request to having answered it, or is abandoned by its client on the way. From ANSWERED
on it is over: nothing more is written, and what is still said of it changes nothing.
"""

from __future__ import annotations

import enum
from typing import Final


class ExchangeState(enum.IntEnum):
    """In the order in which they are passed; `ANSWERED` and `ABANDONED` are ends."""

    READING = 0
    READ = 1
    ANSWERING = 2
    ANSWERED = 3
    ABANDONED = 4


class ExchangeEvent(enum.IntEnum):
    """What happens: the request's end has come, the answer's head was written (its length not known yet), the answer's
    end was, the client went away."""

    REQUEST_ENDED = 0
    HEAD_WRITTEN = 1
    ANSWER_ENDED = 2
    CLIENT_LEFT = 3


READING: Final = ExchangeState.READING
READ: Final = ExchangeState.READ
ANSWERING: Final = ExchangeState.ANSWERING
ANSWERED: Final = ExchangeState.ANSWERED
ABANDONED: Final = ExchangeState.ABANDONED

REQUEST_ENDED: Final = ExchangeEvent.REQUEST_ENDED
HEAD_WRITTEN: Final = ExchangeEvent.HEAD_WRITTEN
ANSWER_ENDED: Final = ExchangeEvent.ANSWER_ENDED
CLIENT_LEFT: Final = ExchangeEvent.CLIENT_LEFT

# AFTER[state][event]: the state that follows. An answer may come before the request's end; the connection ends with it.
AFTER: Final = (
    # REQUEST_ENDED, HEAD_WRITTEN, ANSWER_ENDED, CLIENT_LEFT
    (READ, ANSWERING, ANSWERED, ABANDONED),  # READING
    (READ, ANSWERING, ANSWERED, ABANDONED),  # READ
    (ANSWERING, ANSWERING, ANSWERED, ABANDONED),  # ANSWERING
    (ANSWERED, ANSWERED, ANSWERED, ANSWERED),  # ANSWERED
    (ABANDONED, ABANDONED, ABANDONED, ABANDONED),  # ABANDONED
)
