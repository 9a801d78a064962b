"""Small queries begun at GetFlightInfo: taken by one DoGet, given up where none comes, and never in the way.

The warehouse, the data plane, the frontend and the clients are real; time is a fake's only where an early answer has to
grow old.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.clock import NEVER_NS, NS_PER_S
from flightserve.config import EdgeLimits
from flightserve.core.overload.speculation import SCORE_WANTED, WASTE_COST
from flightserve.errors import Unavailable
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.frontends.sql import prefetch as sql_prefetch
from flightserve.frontends.sql.gateway import Statement
from flightserve.frontends.sql.prefetch import HELD_MAX, SMALL_BYTES, Prefetch
from flightserve.frontends.sql.tickets import QueryTicket
from flightserve.metrics import Metrics
from flightserve.types import RequestMeta
from tests.plane import Plane, plane
from tests.sql.warehouses import PEOPLE
from tests.support import eventually

SMALL = "SELECT id, name FROM people WHERE id = 2"
META = RequestMeta()


# ---- by itself


class Begun:
    """An answer that only says whether it was closed."""

    def __init__(self, statement: Statement, meta: RequestMeta) -> None:
        self.statement, self.meta = statement, meta
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Harness:
    """A Prefetch on a clock of its own; what it began and what it said."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.begun: list[Begun] = []
        self.ended: list[tuple[str, bool]] = []
        self.failing: Exception | None = None
        self.prefetch = Prefetch(self.start, lambda *told: self.ended.append(told), lambda: self.now_ns)

    def start(self, statement: Statement, meta: RequestMeta, gone: Callable[[], bool], merged: bool) -> Any:
        if self.failing is not None:
            raise self.failing
        self.begun.append(Begun(statement, meta))
        return self.begun[-1]

    def learn(self, sql: str, times: int = SCORE_WANTED) -> None:
        for _ in range(times):
            self.prefetch.read(ticket(sql), 1, 1)


def ticket(sql: str, id_: str = "one") -> QueryTicket:
    return QueryTicket(id_, 0.0, "", "lake", sql, b"")


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    with contextlib.closing(made.prefetch):
        yield made


def test_a_text_is_begun_early_once_it_was_small_and_quick(harness: Harness) -> None:
    harness.prefetch.begin(ticket("a"), META)
    assert not harness.begun
    harness.learn("a")
    harness.prefetch.begin(ticket("a"), META)
    harness.prefetch.begin(ticket("b", "two"), META)
    assert [begun.statement.sql for begun in harness.begun] == ["a"]
    assert harness.prefetch.take(ticket("a")) is harness.begun[0]
    assert harness.prefetch.take(ticket("a")) is None
    assert harness.ended == [("lake", True)]


def test_one_of_other_roles_gets_none_that_was_begun_by_his_name(harness: Harness) -> None:
    harness.learn("a")
    harness.prefetch.begin(ticket("a"), RequestMeta(caller="ann clerk,admin"))
    assert harness.prefetch.take(ticket("a"), "ann clerk") is None
    assert harness.begun[0].closed.is_set() and harness.ended == [("lake", False)]


@pytest.mark.parametrize(
    ("took_ns", "whole_bytes"), [(60 * NS_PER_S + 1, 1), (1, SMALL_BYTES + 1), (1, None)], ids=["slow", "large", "more"]
)
def test_what_is_slow_or_large_is_not(harness: Harness, took_ns: int, whole_bytes: int | None) -> None:
    harness.learn("a")
    harness.prefetch.read(ticket("a"), took_ns, whole_bytes)
    harness.prefetch.begin(ticket("a"), META)
    assert not harness.begun


def test_it_runs_no_longer_than_it_is_held(harness: Harness) -> None:
    harness.learn("a")
    harness.prefetch.begin(ticket("a"), RequestMeta(deadline_ns=NEVER_NS, priority=3))
    harness.prefetch.begin(ticket("a", "two"), RequestMeta(deadline_ns=5))
    assert [begun.meta.deadline_ns for begun in harness.begun] == [60 * NS_PER_S, 5]
    assert harness.begun[0].meta.priority == 3


def test_what_nobody_takes_is_closed_and_its_text_waits(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.learn("a")
    harness.learn("b")
    harness.prefetch.begin(ticket("b", "two"), META)
    monkeypatch.setattr(sql_prefetch, "HELD_NS", 0)
    # The thread sleeps for the first one, and is woken for the second, which is due sooner.
    harness.prefetch.begin(ticket("a"), META)
    assert harness.begun[1].closed.wait(20) and not harness.begun[0].closed.is_set()
    eventually(lambda: harness.ended == [("lake", False)])
    assert harness.prefetch.take(ticket("a")) is None
    assert harness.prefetch.take(ticket("b", "two")) is harness.begun[0]
    harness.learn("a", WASTE_COST)
    harness.prefetch.begin(ticket("a"), META)
    assert len(harness.begun) == 2


def test_one_that_cannot_begin_is_none_s_concern(harness: Harness) -> None:
    harness.learn("a")
    harness.failing = Unavailable("no router")
    harness.prefetch.begin(ticket("a"), META)
    assert harness.prefetch.take(ticket("a")) is None


def test_without_a_thread_nothing_is_held(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    harness.learn("a")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        harness.prefetch.begin(ticket("a"), META)
    assert harness.begun[0].closed.is_set() and len(harness.prefetch) == 0
    harness.prefetch.begin(ticket("a"), META)
    assert harness.prefetch.take(ticket("a")) is harness.begun[1]


def test_a_bounded_number_is_held(harness: Harness) -> None:
    harness.learn("a")
    for number in range(HELD_MAX + 5):
        harness.prefetch.begin(ticket("a", str(number)), META)
    assert len(harness.begun) == len(harness.prefetch) == HELD_MAX


def test_a_void_ticket_s_answer_is_closed(harness: Harness) -> None:
    harness.learn("a")
    harness.prefetch.begin(ticket("a"), META)
    harness.prefetch.drop(ticket("a"))
    harness.prefetch.drop(ticket("a"))
    assert harness.begun[0].closed.is_set() and len(harness.prefetch) == 0 and not harness.ended


def test_the_end_closes_all_and_begins_no_more(harness: Harness) -> None:
    harness.learn("a")
    harness.prefetch.begin(ticket("a"), META)
    harness.prefetch.close()
    assert harness.begun[0].closed.is_set()
    harness.prefetch.begin(ticket("a", "two"), META)
    assert len(harness.begun) == 1


# ---- with all that is around it


class Served:
    """A warehouse behind the data plane and its Flight frontend."""

    def __init__(self, plane: Plane, address: str, metrics: Metrics) -> None:
        self.plane, self.address, self.metrics = plane, address, metrics

    def ended(self, taken: bool) -> float:
        """How many early answers were taken, or were not."""
        return float(self.metrics.prefetches.labels("lake", str(taken).lower())._value.get())

    @property
    def begun(self) -> float:
        """How often the replica ran the small statement."""
        return float(self.plane.targets[0].small)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that stands still for a second everything is slow and old."""
    monkeypatch.setattr(sql_prefetch, "QUICK_NS", 60 * NS_PER_S)
    monkeypatch.setattr(sql_prefetch, "HELD_NS", 60 * NS_PER_S)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    (bound,) = fs.App(fs.sql.Warehouse({"people": PEOPLE}, name="lake", threads=2, memory_limit="300MB"))
    with plane(bound) as running:
        metrics = Metrics()
        frontend = FlightFrontend(running.client, "127.0.0.1", 0, EdgeLimits(), metrics, b"k" * 32)
        count_queries(running.targets[0])
        try:
            yield Served(running, frontend.start(), metrics)
            eventually(running.at_rest, 20, what="queries ended, regions were given back")
        finally:
            frontend.stop()
            running.targets[0].close()


def count_queries(target: Any) -> None:
    """Count in `target.small` how often the replica streams a statement."""
    runner = target._tables.current.runner
    target.small = 0

    def counted(*arguments: Any, stream: Callable[..., Any] = runner.stream) -> Any:
        target.small += 1
        return stream(*arguments)

    runner.stream = counted


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with flight.connect(served.address) as made:
        yield made


def info(client: Any, sql: str = SMALL, options: Any = None) -> Any:
    return client.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()), options)


def rows(client: Any, ticket: Any, options: Any = None) -> pa.Table:
    return client.do_get(ticket, options).read_all()


def learn(client: Any, served: Served, sql: str = SMALL) -> None:
    """Ask until the text is begun early."""

    def taken() -> bool:
        before = served.ended(True)
        rows(client, info(client, sql).endpoints[0].ticket)
        return served.ended(True) > before

    eventually(taken, 30, what="the text is begun early")


def test_the_query_runs_once_and_its_rows_are_the_same(client: Any, served: Served) -> None:
    first = rows(client, info(client).endpoints[0].ticket)
    learn(client, served)
    before = served.begun
    ticket = info(client).endpoints[0].ticket
    eventually(lambda: served.begun == before + 1, what="it was begun")
    assert rows(client, ticket).equals(first)
    assert served.begun == before + 1
    # A ticket may be read twice; the second time it runs anew.
    assert rows(client, ticket).equals(first)
    assert served.begun == before + 2


def test_an_adbc_cursor_s_second_text_is_begun_early(served: Served) -> None:
    with adbc.connect(served.address, autocommit=True) as connection, connection.cursor() as cursor:

        def taken() -> bool:
            before = served.ended(True)
            cursor.execute("SELECT name FROM people WHERE id = 3")
            assert cursor.fetchall() == [(PEOPLE["name"][2].as_py(),)]
            return served.ended(True) > before

        eventually(taken, 30, what="the cursor's text is begun early")


def test_a_ticket_that_is_never_redeemed_leaves_nothing(
    client: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(client, served)
    monkeypatch.setattr(sql_prefetch, "HELD_NS", 0)
    before = served.ended(False)
    info(client)
    eventually(lambda: served.ended(False) == before + 1, what="it was given up")
    eventually(served.plane.at_rest, what="its region was given back")


def test_a_cancelled_ticket_s_answer_is_given_up(client: Any, served: Served) -> None:
    learn(client, served)
    found = info(client)
    cancelled = client.do_action(flight.Action("CancelFlightInfo", cancel_request(found)))
    assert [result.body.to_pybytes() for result in cancelled]
    with pytest.raises(KeyError, match="closed"):
        rows(client, found.endpoints[0].ticket)
    eventually(served.plane.at_rest, what="its region was given back")


def cancel_request(found: Any) -> bytes:
    from flightserve.proto import flight_pb2

    whole = flight_pb2.FlightInfo.FromString(found.serialize())
    return bytes(flight_pb2.CancelFlightInfoRequest(info=whole).SerializeToString())


def test_an_early_run_that_failed_is_nobody_s_error(
    client: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(client, served)
    first = rows(client, info(client).endpoints[0].ticket)
    runner = served.plane.targets[0]._tables.current.runner
    failed = threading.Event()

    def failing(*arguments: Any, stream: Callable[..., Any] = runner.stream) -> Any:
        if not failed.is_set():
            failed.set()
            raise Unavailable("the early run fails")
        return stream(*arguments)

    monkeypatch.setattr(runner, "stream", failing)
    ticket = info(client).endpoints[0].ticket
    assert failed.wait(20)
    assert rows(client, ticket).equals(first)


def test_the_deadline_of_who_asks_holds(client: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(client, served)
    runner, go, inside = served.plane.targets[0]._tables.current.runner, threading.Event(), threading.Event()

    def held(*arguments: Any, stream: Callable[..., Any] = runner.stream) -> Any:
        inside.set()
        assert go.wait(30)
        return stream(*arguments)

    monkeypatch.setattr(runner, "stream", held)
    ticket = info(client).endpoints[0].ticket
    assert inside.wait(20)
    try:
        with pytest.raises(flight.FlightTimedOutError, match="deadline"):
            rows(client, ticket, flight.FlightCallOptions(headers=[(b"x-timeout-ms", b"50")]))
    finally:
        go.set()
