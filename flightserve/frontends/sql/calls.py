"""Statements of clients on an event loop (HTTP, gRPC): `query` streams them, and what comes often is merged.

A statement with one row of parameters can run together with others of its text (`execute`; `gateway` says what that
is). Most texts come once. One that came before is looked at (`describe`) while it runs by `query` once more; from then
on, if its executions are merged, it goes to `execute`, until one of its results turns out too large for that, or for
`LARGE_NS`, when it is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.service import AsyncCall, Result, Service
from flightserve.contracts.warehouse import DESCRIBE, EXECUTE, QUERY, QUERY_TAGGED, tagged_row, unnumbered
from flightserve.errors import FlightserveError, TooLarge, Unavailable
from flightserve.fabric.memory.batches import stream_of
from flightserve.frontends.sql.gateway import (
    EXECUTED_SQL_CHARS_MAX,
    LARGE_NS,
    Recent,
    Statement,
    check,
    execution_row,
    request_batch,
    without_rows,
)
from flightserve.loops import beside
from flightserve.types import RequestMeta

# What is known of a text.
_SEEN: Final = "seen"
_MERGED: Final = "merged"
_SINGLE: Final = "one by one"
# Texts that are looked at, at a time, and how long that may take.
LOOKS_MAX: Final = 8
LOOK_NS: Final = 10 * NS_PER_S


class SqlCalls:
    """Starts statements. Of one event loop; `close` at the end."""

    def __init__(self, service: Service, limits: EdgeLimits, clock: Clock = monotonic_ns) -> None:
        self._service = service
        self._limits = limits
        self._clock = clock
        # By who asks as well: whoever may not query what others may is not to hold up their executions.
        self._texts: Recent[tuple[str, str, str], str] = Recent(clock, LARGE_NS)
        self._looks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<SqlCalls {len(self._looks)} looks>"

    def start(self, statement: Statement, meta: RequestMeta) -> AsyncCall:
        """Start the statement. Raises InvalidArgument, TooLarge; other errors come out of the iteration."""
        check(statement)

        def query() -> AsyncCall:
            return self._service.call(statement.warehouse, QUERY, request_batch(statement), meta)

        row = execution_row(statement, self._limits) if self._is_merged(statement, meta.caller) else None
        if row is None:
            return query()
        key = (statement.warehouse, statement.sql, meta.caller)
        execution = self._service.call(statement.warehouse, EXECUTE, row, meta)
        return _Execution(execution, query, lambda: self._texts.put(key, _SINGLE))

    async def tag_of(self, statement: Statement, meta: RequestMeta) -> str:
        """What stands for the statement's result as it is now, "" where nothing does. It is bound and not run. Raises
        what is wrong with it, and as `start`."""
        check(statement)
        call = self._service.call(statement.warehouse, DESCRIBE, request_batch(statement), meta)
        try:
            async for result in call:
                return str(result.batch().column("tag")[0].as_py())
        finally:
            call.cancel()
        return ""

    def start_tagged(self, statement: Statement, meta: RequestMeta, tag: str, changed: Callable[[], None]) -> AsyncCall:
        """Start the statement, whose result had this tag. Should it have another by now, it runs all the same, and
        `changed` is told before the first batch."""
        row = tagged_row(statement.sql, statement.parameters, tag)
        call = self._service.call(statement.warehouse, QUERY_TAGGED, row, meta)
        return _TaggedRun(call, lambda: self.start(statement, meta), changed)

    def close(self) -> None:
        """Look at nothing any more."""
        for look in self._looks:
            look.cancel()

    def _is_merged(self, statement: Statement, caller: str) -> bool:
        if not statement.parameters or len(statement.sql) > EXECUTED_SQL_CHARS_MAX:
            return False
        key = (statement.warehouse, statement.sql, caller)
        known = self._texts.get(key)
        if known is None:
            self._texts.put(key, _SEEN)
        elif known == _SEEN and len(self._looks) < LOOKS_MAX:
            self._texts.put(key, _SINGLE)
            look = beside(asyncio.get_running_loop(), self._look(statement, caller), "a look at a statement")
            self._looks.add(look)
            look.add_done_callback(self._looks.discard)
        return known == _MERGED

    async def _look(self, statement: Statement, caller: str) -> None:
        """Whether executions of the text are merged. What goes wrong here goes wrong for those who ask, too."""
        meta = RequestMeta(self._clock() + LOOK_NS, caller=caller)
        with contextlib.suppress(FlightserveError):
            shape = Statement(statement.warehouse, statement.sql, without_rows(statement.parameters))
            call = self._service.call(statement.warehouse, DESCRIBE, request_batch(shape), meta)
            try:
                async for result in call:
                    if result.batch().column("merged")[0].as_py():
                        self._texts.put((statement.warehouse, statement.sql, caller), _MERGED)
            finally:
                call.cancel()


class _Execution:
    """One execution by `execute`, or by `query` after all (`contracts.service.AsyncCall`)."""

    def __init__(self, execution: AsyncCall, query: Callable[[], AsyncCall], too_large: Callable[[], None]) -> None:
        self._call = execution
        self._query = query
        self._too_large = too_large
        self._executes = True

    def __aiter__(self) -> _Execution:
        return self

    async def __anext__(self) -> Result:
        if not self._executes:
            return await anext(self._call)
        try:
            return _Unnumbered(await anext(self._call))
        except TooLarge:
            self._executes = False
            self._too_large()
            self._call = self._query()
        return await anext(self._call)

    def when_there(self, told: Callable[[], None]) -> bool:
        """Nobody is told."""
        return False

    def only(self) -> Result | None:
        """One iterates."""
        return None

    def cancel(self) -> None:
        """Give up."""
        self._call.cancel()


class _TaggedRun:
    """One run by `query_tagged`, or by `query` after all (`contracts.service.AsyncCall`)."""

    def __init__(self, call: AsyncCall, query: Callable[[], AsyncCall], changed: Callable[[], None]) -> None:
        self._call = call
        self._query = query
        self._changed = changed
        self._is_tagged = True

    def __aiter__(self) -> _TaggedRun:
        return self

    async def __anext__(self) -> Result:
        is_first, self._is_tagged = self._is_tagged, False
        if not is_first:
            return await anext(self._call)
        try:
            return await anext(self._call)
        except Unavailable:
            self._changed()
            self._call = self._query()
        return await anext(self._call)

    def when_there(self, told: Callable[[], None]) -> bool:
        """Nobody is told."""
        return False

    def only(self) -> Result | None:
        """One iterates."""
        return None

    def cancel(self) -> None:
        """Give up."""
        self._call.cancel()


class _Unnumbered:
    """What `execute` answered to one execution, as `query` would have (`contracts.service.Result`)."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self.num_rows = result.num_rows

    def batch(self) -> pa.RecordBatch:
        return unnumbered(self._result.batch())

    def ipc_stream(self) -> pa.Buffer:
        return stream_of([self.batch()])
