"""An exchange's states: whatever happens in whichever of them, it ends once, as the table says, and writes no more."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flightserve.errors import InvalidArgument
from flightserve.frontends.http.bodies import JSON
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.exchange_states import (
    ABANDONED,
    AFTER,
    ANSWERED,
    ANSWERING,
    CLIENT_LEFT,
    HEAD_WRITTEN,
    READ,
    READING,
    REQUEST_ENDED,
    ExchangeEvent,
    ExchangeState,
)


class Connection:
    """What an exchange knows of its connection: counts what is written, and who is told of its end."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False
        self.ended: list[str] = []
        self.can_stream = True
        self.transport = SimpleNamespace(write=self._write, abort=self._abort)
        self.edge = SimpleNamespace(standing_lines=b"")

    def _write(self, data: bytes) -> None:
        assert not self.ended, "something was written after the exchange's end"
        self.written += data

    def _abort(self) -> None:
        self.aborted = True

    def end_turn(self, exchange: Exchange, keep_alive: bool) -> None:
        self.ended.append("connection")

    def open(self) -> Exchange:
        return Exchange(self, CallRoute("A", "b"), {}, lambda exchange: self.ended.append("calls"))  # type: ignore[arg-type]


def end_request(exchange: Exchange) -> None:
    """As the protocol does when the parser says so."""
    exchange.state = AFTER[exchange.state][REQUEST_ENDED]


# Every way in which an event comes about.
WAYS: list[tuple[ExchangeEvent, Callable[[Exchange], Any]]] = [
    (REQUEST_ENDED, end_request),
    (HEAD_WRITTEN, lambda exchange: exchange.begin(JSON)),
    (ExchangeEvent.ANSWER_ENDED, lambda exchange: exchange.answer(JSON, b"{}")),
    (ExchangeEvent.ANSWER_ENDED, lambda exchange: exchange.tell(JSON)),
    (ExchangeEvent.ANSWER_ENDED, lambda exchange: exchange.end()),
    (ExchangeEvent.ANSWER_ENDED, lambda exchange: exchange.fail(InvalidArgument("no"))),
    (CLIENT_LEFT, lambda exchange: exchange.abandon()),
]
TO: dict[ExchangeState, list[ExchangeEvent]] = {
    READING: [],
    READ: [REQUEST_ENDED],
    ANSWERING: [REQUEST_ENDED, HEAD_WRITTEN],
    ANSWERED: [REQUEST_ENDED, ExchangeEvent.ANSWER_ENDED],
    ABANDONED: [REQUEST_ENDED, CLIENT_LEFT],
}


def happen(exchange: Exchange, event: ExchangeEvent) -> None:
    next(way for each, way in WAYS if each is event)(exchange)


def test_the_table_knows_every_event_in_every_state() -> None:
    assert len(AFTER) == len(ExchangeState) and all(len(row) == len(ExchangeEvent) for row in AFTER)
    assert all(after >= state for state, row in zip(ExchangeState, AFTER, strict=True) for after in row), (
        "none goes back"
    )
    assert all(set(AFTER[end]) == {end} for end in (ANSWERED, ABANDONED)), "an end stays"


@pytest.mark.parametrize("way", WAYS, ids=range(len(WAYS)))
@pytest.mark.parametrize("state", ExchangeState)
def test_each_event_in_each_state(state: ExchangeState, way: tuple[ExchangeEvent, Callable[[Exchange], Any]]) -> None:
    connection = Connection()
    exchange = connection.open()
    for event in TO[state]:
        happen(exchange, event)
    assert exchange.state is state
    written, told = connection.written, list(connection.ended)
    way[1](exchange)
    assert exchange.state is AFTER[state][way[0]]
    if state >= ANSWERED:
        assert (connection.written, connection.ended) == (written, told), "what is over changes nothing"
    if exchange.state >= ANSWERED:
        assert connection.ended == ["calls", "connection"], "everybody is told once"
    if state is READING and connection.written.startswith(b"HTTP"):
        assert not exchange.keep_alive, "the next request would begin inside of this one"


@given(st.lists(st.sampled_from(range(len(WAYS))), max_size=8))
def test_whatever_happens_in_whatever_order_it_ends_once(ways: list[int]) -> None:
    connection = Connection()
    exchange = connection.open()
    expected: ExchangeState = READING
    for number in ways:
        event, way = WAYS[number]
        way(exchange)
        expected = AFTER[expected][event]
        assert exchange.state is expected
    assert connection.ended == (["calls", "connection"] if expected >= ANSWERED else [])


def test_an_error_in_a_begun_answer_breaks_the_connection() -> None:
    connection = Connection()
    exchange = connection.open()
    happen(exchange, REQUEST_ENDED)
    happen(exchange, HEAD_WRITTEN)
    exchange.fail(InvalidArgument("no"))
    assert connection.aborted and not exchange.keep_alive and exchange.state is ANSWERED
