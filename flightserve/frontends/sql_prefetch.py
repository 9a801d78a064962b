"""Small queries, begun at GetFlightInfo so that their rows are there when DoGet asks for them.

A client reads a FlightInfo and sends its ticket back; meanwhile the tiers have nothing to do. Where a text was quick
and its whole result small the last times, and its tickets are taken soon (`core.speculation`), the query runs in that
time. An early answer is of use to one DoGet, of its own ticket, at this frontend, within `HELD_NS`; whatever else
happens to it (an error, a time-out, another frontend, a second DoGet), the statement runs as if it had not been. It may
then run twice, which is harmless: warehouses are read-only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.core.speculation import Speculation
from flightserve.errors import FlightserveError
from flightserve.frontends.sql_gateway import Answer, Statement
from flightserve.frontends.sql_tickets import QueryTicket
from flightserve.types import RequestMeta

# How long an early answer is kept for its DoGet. Clients send it within a millisecond or two.
HELD_NS: Final = NS_PER_S
HELD_MAX: Final = 64
# A query that takes longer gains little by an early start, and a waste of it costs much.
QUICK_NS: Final = NS_PER_S // 50
SMALL_BYTES: Final = 64 << 10
TEXTS_MAX: Final = 1024

Text = tuple[str, str]
Open = Callable[[QueryTicket, RequestMeta], Answer]


@dataclass(slots=True)
class _Early:
    answer: Answer
    text: Text
    until_ns: int


class Prefetch:
    """Early answers by their tickets' ids. Any thread; `close` at the end."""

    def __init__(self, start: Open, clock: Clock = monotonic_ns) -> None:
        """`start` starts a ticket's statement."""
        self._start = start
        self._clock = clock
        self._changed = threading.Condition()
        self._texts: Speculation[Text] = Speculation(TEXTS_MAX)
        # The oldest first.
        self._held: OrderedDict[str, _Early] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._asleep = False
        self._closed = False
        self.begun = 0
        self.wasted = 0

    def __repr__(self) -> str:
        return f"<Prefetch {len(self._held)} held, {self.begun} begun, {self.wasted} wasted>"

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, ticket: QueryTicket, meta: RequestMeta) -> None:
        """A ticket was given out: begin its statement, where that is worth it."""
        text = _text(ticket)
        with self._changed:
            if not self._texts.wanted(text) or len(self._held) >= HELD_MAX or self._closed:
                return
        until_ns = self._clock() + HELD_NS
        try:
            answer = self._start(ticket, replace(meta, deadline_ns=min(meta.deadline_ns, until_ns)))
        except FlightserveError:
            # DoGet will say it, if it is still so by then.
            return
        if not self._hold(ticket.id, _Early(answer, text, until_ns)):
            answer.close()

    def _hold(self, ticket_id: str, early: _Early) -> bool:
        """False where all was closed meanwhile."""
        with self._changed:
            if self._closed:
                return False
            self._held[ticket_id] = early
            self.begun += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sql-prefetch", daemon=True)
                self._thread.start()
            elif self._asleep:
                self._changed.notify()
            return True

    def take(self, ticket: QueryTicket) -> Answer | None:
        """The ticket's early answer, if there is one; the caller closes it."""
        with self._changed:
            early = self._held.pop(ticket.id, None)
        return None if early is None else early.answer

    def read(self, statement: Statement | QueryTicket, took_ns: int, whole_bytes: int | None) -> None:
        """DoGet has had the first rows so long after it began; `whole_bytes`: the result's size, if that was all."""
        cheap = took_ns <= QUICK_NS and whole_bytes is not None and whole_bytes <= SMALL_BYTES
        with self._changed:
            self._texts.asked(_text(statement), cheap)

    def close(self) -> None:
        """Give all up and begin no more. Idempotent."""
        with self._changed:
            self._closed = True
            held = list(self._held.values())
            self._held.clear()
            self._changed.notify_all()
        for early in held:
            early.answer.close()

    # ---- what nobody takes

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                overdue = self._overdue()
                # Not under the lock: it sends a frame.
                self._changed.release()
                try:
                    for early in overdue:
                        early.answer.close()
                    overdue.clear()
                finally:
                    self._changed.acquire()
                first = next(iter(self._held.values()), None)
                self._asleep = first is None
                if not self._closed:
                    self._changed.wait(None if first is None else max(0, first.until_ns - self._clock()) / NS_PER_S)
                self._asleep = False

    def _overdue(self) -> list[_Early]:
        """Take out what was held for too long."""
        now_ns, overdue = self._clock(), []
        while self._held and next(iter(self._held.values())).until_ns <= now_ns:
            _, early = self._held.popitem(last=False)
            self._texts.wasted(early.text)
            self.wasted += 1
            overdue.append(early)
        return overdue


def _text(statement: Statement | QueryTicket) -> Text:
    return statement.warehouse, statement.sql
