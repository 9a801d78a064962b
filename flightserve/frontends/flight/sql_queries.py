"""Statements that run for Flight's clients: begun, streamed, counted, cancelled by their tickets' ids."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
from pyarrow import flight

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.contracts.access import Visit
from flightserve.contracts.warehouse import QUERY
from flightserve.errors import OK, Cancelled, FlightserveError, MethodFailed, Unavailable
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.frontends.edge import traced, with_trace_of
from flightserve.frontends.flight.errors import flight_error, unforeseen
from flightserve.frontends.flight.streams import EndedSpan
from flightserve.frontends.sql.gateway import Answer, Gateway, Statement
from flightserve.frontends.sql.prefetch import Prefetch
from flightserve.frontends.sql.tickets import QueryTicket, new_id
from flightserve.tracing.spans import Known
from flightserve.types import RequestMeta


class Ended(Protocol):
    """What is told of a query's end."""

    def __call__(self, code: int, rows: int = 0) -> None: ...


class RunningQueries:
    """What runs, or is being read. Any thread; reading blocks the RPC's own."""

    def __init__(
        self,
        gateway: Gateway,
        answered: Callable[[str, str, int, float], None],
        prefetched: Callable[[str, bool], None],
        spans_of: Callable[[Known], EndedSpan | None] = lambda _: None,
    ) -> None:
        """`answered` is told each query's warehouse, method, code and seconds; `prefetched` as `Prefetch` says;
        `spans_of` gives, of a warehouse and a method, who is told of what is traced, if anything is."""
        self._gateway = gateway
        self._answered = answered
        self._spans_of = spans_of
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # What runs, by the id of its ticket; one ticket may be redeemed several times at once.
        self._running: dict[Answer, str] = {}
        self._refusing = ""
        self._prefetch = Prefetch(gateway.open, prefetched)

    def __repr__(self) -> str:
        return f"<RunningQueries {len(self._running)} running, {self._prefetch}>"

    @property
    def running(self) -> int:
        """Queries that run or are being read."""
        return len(self._running)

    def announce(self, ticket: QueryTicket, meta: RequestMeta) -> None:
        """A ticket is given out: its statement may begin before its DoGet comes."""
        if not self._refusing:
            self._prefetch.begin(ticket, traced(meta))

    def stream(
        self, ticket: QueryTicket, meta: RequestMeta, gone: Callable[[], bool], begin: Callable[[], Visit]
    ) -> Any:
        """The result, for pyarrow to send. `gone` says whether the client is; `begin` lets the statement in."""
        started_ns = monotonic_ns()
        self._check_open()
        with entering(begin()) as visit:
            answer = self._prefetch.take(ticket, meta.caller)
            if answer is None:
                meta = traced(meta)
                answer = self._gateway.open(ticket.statement, meta, gone, ticket.merged)
            else:
                meta = with_trace_of(meta, answer.meta)
                answer.adopt(meta, gone)
            ended = self._enter(answer, ticket.id, ticket.warehouse, started_ns, visit)
        try:
            # Until the first batch an error can still have the RPC's own status, and the schema is its.
            first = next(answer)
        except StopIteration:
            ended(MethodFailed.code)
            raise MethodFailed("the warehouse answered nothing, not even a schema") from None
        except BaseException as error:
            ended(error.code if isinstance(error, FlightserveError) else FlightserveError.code)
            raise
        self._prefetch.read(ticket, monotonic_ns() - started_ns, nbytes_of(first) if answer.finished else None)
        if answer.finished:
            # The whole result: pyarrow sends it without asking Python for each batch.
            ended(OK, first.num_rows)
            return flight.RecordBatchStream(pa.Table.from_batches([first]))
        batches = _batches(first, answer, ended)
        # pyarrow does not begin to read what a client that left before has asked for.
        weakref.finalize(batches, ended, Cancelled.code).atexit = False
        return flight.GeneratorStream(first.schema, batches)

    def count_rows(
        self, statement: Statement, meta: RequestMeta, gone: Callable[[], bool], begin: Callable[[], Visit]
    ) -> int:
        """Run a statement for its effect, which is none, and count its rows."""
        started_ns, code, rows = monotonic_ns(), FlightserveError.code, 0
        self._check_open()
        with entering(begin()) as visit:
            answer = self._gateway.open(statement, traced(meta), gone)
            ended = self._enter(answer, new_id(), statement.warehouse, started_ns, visit)
        try:
            rows = sum(batch.num_rows for batch in answer)
            code = OK
            return rows
        except FlightserveError as error:
            code = error.code
            raise
        finally:
            ended(code, rows)

    def _check_open(self) -> None:
        if self._refusing:
            raise Unavailable(self._refusing)

    def _enter(self, answer: Answer, id_: str, warehouse: str, started_ns: int, visit: Visit) -> Ended:
        """Keep it, so that it can be cancelled. Whoever reads it calls what is returned, with its code and how many
        rows it had."""
        with self._lock:
            self._running[answer] = id_
        return partial(self._leave, answer, warehouse, started_ns, visit)

    def _leave(self, answer: Answer, warehouse: str, started_ns: int, visit: Visit, code: int, rows: int = 0) -> None:
        with self._lock:
            if self._running.pop(answer, None) is None:
                return
            self._changed.notify_all()
        answer.close()
        answer.tell_tables()
        visit.end(code, rows)
        self._answered(warehouse, QUERY, code, (monotonic_ns() - started_ns) / NS_PER_S)
        ended_span = self._spans_of((warehouse, QUERY))
        if ended_span is not None:
            ended_span(answer.meta, code, started_ns)

    # ---- the end

    def cancel(self, ticket: QueryTicket) -> None:
        """End what runs for the ticket."""
        self._prefetch.drop(ticket)
        with self._lock:
            running = [answer for answer, ticket_id in self._running.items() if ticket_id == ticket.id]
        for answer in running:
            answer.cancel()

    def refuse(self, why: str) -> None:
        """From now on nothing begins."""
        self._refusing = why
        self._prefetch.close()

    def wait_quiet(self, timeout_s: float) -> bool:
        """Wait until no query runs; False when some still do after that time."""
        with self._lock:
            return self._changed.wait_for(lambda: not self._running, timeout_s)

    def end_all(self) -> None:
        """Cancel every query."""
        self._prefetch.close()
        with self._lock:
            running = list(self._running)
        for answer in running:
            answer.cancel()


@contextlib.contextmanager
def entering(visit: Visit) -> Iterator[Visit]:
    """What was let in begins; where that fails, it is over."""
    try:
        yield visit
    except BaseException as error:
        visit.end(error.code if isinstance(error, FlightserveError) else FlightserveError.code)
        raise


def _batches(first: pa.RecordBatch, answer: Answer, ended: Ended) -> Iterator[pa.Table]:
    """A result whose first batch came already. pyarrow loses the dictionaries of batches that a generator yields, but
    not of tables."""
    code, rows = Cancelled.code, first.num_rows
    try:
        if rows:
            yield pa.Table.from_batches([first])
        del first
        for batch in answer:
            rows += batch.num_rows
            yield pa.Table.from_batches([batch])
            del batch
        code = OK
    except FlightserveError as error:
        code = error.code
        raise flight_error(error) from None
    except Exception as error:
        code = FlightserveError.code
        raise flight_error(unforeseen("a query's stream", error)) from None
    finally:
        ended(code, rows)
