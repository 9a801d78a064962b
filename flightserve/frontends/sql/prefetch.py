"""Small queries, begun at GetFlightInfo so that their rows are there when DoGet asks for them.

A client reads a FlightInfo and sends its ticket back; meanwhile the tiers have nothing to do. Where a text was quick
and its whole result small the last times, and its tickets are taken soon (`core.overload.speculation`), the query runs
in that time. An early answer is of use to one DoGet, of its own ticket, at this frontend, within `HELD_NS`; whatever
else happens to it (an error, a time-out, another frontend, a second DoGet), the statement runs as if it had not been.
It may then run twice, which is harmless: warehouses are read-only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, Clock, monotonic_ns
from flightserve.core.overload.speculation import Speculation
from flightserve.errors import FlightserveError
from flightserve.frontends.sql.gateway import Answer, Statement
from flightserve.frontends.sql.tickets import QueryTicket
from flightserve.types import RequestMeta

# How long an early answer is kept for its DoGet. Clients send it within a millisecond or two.
HELD_NS: Final = NS_PER_S
HELD_MAX: Final = 64
# A query that takes longer gains little by an early start, and a waste of it costs much.
QUICK_NS: Final = NS_PER_S // 50
SMALL_BYTES: Final = 64 << 10
TEXTS_MAX: Final = 1024

Text = tuple[str, str]


@dataclass(slots=True)
class _Early:
    answer: Answer
    text: Text
    until_ns: int


class Prefetch:
    """Early answers by their tickets' ids. Any thread; `close` at the end."""

    def __init__(
        self,
        start: Callable[[Statement, RequestMeta, Callable[[], bool], bool], Answer],
        ended: Callable[[str, bool], None],
        clock: Clock = monotonic_ns,
    ) -> None:
        """`start` is `Gateway.open`; `ended` is told of each early answer's warehouse and whether it was taken."""
        self._start = start
        self._ended = ended
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._texts: Speculation[Text] = Speculation(TEXTS_MAX)
        self._held: dict[str, _Early] = {}
        self._thread: threading.Thread | None = None
        # When the thread looks by itself.
        self._wakes_ns = NEVER_NS
        self._closed = False

    def __repr__(self) -> str:
        return f"<Prefetch {len(self._held)} held, {self._texts}>"

    def __len__(self) -> int:
        return len(self._held)

    def begin(self, ticket: QueryTicket, meta: RequestMeta) -> None:
        """A ticket was given out: begin its statement, where that is worth it."""
        text = _text(ticket)
        with self._lock:
            if not self._texts.wanted(text) or len(self._held) >= HELD_MAX or self._closed:
                return
        until_ns = self._clock() + HELD_NS
        try:
            early = msgspec.structs.replace(meta, deadline_ns=min(meta.deadline_ns, until_ns))
            answer = self._start(ticket.statement, early, _never_gone, ticket.merged)
        except FlightserveError:
            # DoGet will say it, if it is still so by then.
            return
        if not self._hold(ticket.id, _Early(answer, text, until_ns)):
            answer.close()

    def _hold(self, ticket_id: str, early: _Early) -> bool:
        """False where all was closed meanwhile, or nobody would look when it is overdue."""
        with self._lock:
            if self._closed or not self._watched():
                return False
            self._held[ticket_id] = early
            if early.until_ns < self._wakes_ns:
                self._changed.notify()
            return True

    def _watched(self) -> bool:
        """Start the thread that looks, once; where it cannot start, the next one tries again."""
        if self._thread is None:
            try:
                self._thread = threads.start("sql-prefetch", self._run, lambda: self._closed, again=True)
            except RuntimeError:
                return False
        return True

    def take(self, ticket: QueryTicket, caller: str = "") -> Answer | None:
        """The ticket's early answer, if there is one, for whoever asks to read and close. It was made by the rights of
        `caller` (`RequestMeta.caller`), or is of no use: one name may come with other roles."""
        early = self._pop(ticket)
        if early is None:
            return None
        is_his = early.answer.meta.caller == caller
        self._ended(ticket.warehouse, is_his)
        if not is_his:
            early.answer.close()
            return None
        return early.answer

    def drop(self, ticket: QueryTicket) -> None:
        """The ticket is void: give its early answer up, if there is one."""
        early = self._pop(ticket)
        if early is not None:
            early.answer.close()

    def _pop(self, ticket: QueryTicket) -> _Early | None:
        with self._lock:
            return self._held.pop(ticket.id, None)

    def read(self, ticket: QueryTicket, took_ns: int, whole_bytes: int | None) -> None:
        """DoGet has had the first rows so long after it began; `whole_bytes`: the result's size, if that was all."""
        cheap = took_ns <= QUICK_NS and whole_bytes is not None and whole_bytes <= SMALL_BYTES
        with self._lock:
            self._texts.asked(_text(ticket), cheap)

    def close(self) -> None:
        """Give all up and begin no more. Idempotent."""
        with self._lock:
            self._closed = True
            held = list(self._held.values())
            self._held.clear()
            self._changed.notify_all()
        for early in held:
            early.answer.close()

    # ---- what nobody takes

    def _run(self) -> None:
        while overdue := self._wait():
            # Not under the lock: it sends frames.
            while overdue:
                early = overdue.pop()
                early.answer.close()
                self._ended(early.text[0], False)
                del early

    def _wait(self) -> list[_Early]:
        """What was held for too long, once there is any; nothing at the end."""
        with self._lock:
            while not self._closed:
                now_ns = self._clock()
                overdue = [number for number, early in self._held.items() if early.until_ns <= now_ns]
                if overdue:
                    return [self._give_up(number) for number in overdue]
                self._wakes_ns = min((early.until_ns for early in self._held.values()), default=NEVER_NS)
                self._changed.wait(None if self._wakes_ns == NEVER_NS else (self._wakes_ns - now_ns) / NS_PER_S)
            return []

    def _give_up(self, ticket_id: str) -> _Early:
        early = self._held.pop(ticket_id)
        self._texts.wasted(early.text)
        return early


def _never_gone() -> bool:
    """Nobody waits for an early answer, so nobody can have left."""
    return False


def _text(ticket: QueryTicket) -> Text:
    return ticket.warehouse, ticket.sql
