"""SQL as every frontend sees it: which warehouse a statement is for, what it returns, and its batches.

A warehouse is a deployment like any other, whose replicas answer the methods of `contracts.warehouse` through the same
routers as all. So this module knows the `Service` protocol and no engine.

What a statement returns is remembered for a short time, because clients ask three times for each execution
(prepare, GetFlightInfo, DoGet). Blocking; for threads of the Flight frontend. Those on an event loop have `calls`.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import pyarrow as pa

from flightserve.clock import NS_PER_S, Clock, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.refreshing import Refresh, RefreshOutcome
from flightserve.contracts.service import Service
from flightserve.contracts.warehouse import (
    DESCRIBE,
    EXECUTE,
    KIND,
    QUERY,
    SQL_BYTES_MAX,
    TABLES,
    Description,
    TableInfo,
    execution_batch,
    read_description,
    read_table,
    request_row,
    unnumbered,
)
from flightserve.core.cache import TTLCache
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    NotFound,
    TooLarge,
    Unimplemented,
)
from flightserve.fabric.memory.decode import decode_stream
from flightserve.types import DeploymentSpec, RequestMeta, add_tables

K = TypeVar("K")
V = TypeVar("V")

# A client's three calls for one execution come within milliseconds; files that change are noticed after this.
REMEMBERED_NS: Final = 2 * NS_PER_S
REMEMBERED_MAX: Final = 1024
# Of descriptions, all together. `SELECT *, *, ...` of a few kB has a schema of MBs.
REMEMBERED_BYTES_MAX: Final = 16 << 20
# Texts whose result was too large for `execute` are not sent there for so long: each try is a run for nothing.
LARGE_NS: Final = 60 * NS_PER_S
# Schemas are kept by those that pass them on, and here the text is part of one.
EXECUTED_SQL_CHARS_MAX: Final = 1 << 14
POLL_S: Final = 0.1
SHORT_CHARS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for one warehouse. `parameters` is an Arrow IPC stream with one row for each execution, or empty."""

    warehouse: str
    sql: str
    parameters: bytes = b""


class KnowsDeployments(Protocol):
    """Whatever knows what is deployed: a `Service`, and more."""

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What is deployed now."""
        ...


def warehouses(service: KnowsDeployments) -> list[DeploymentSpec]:
    """All warehouses that are deployed, by name."""
    return [spec for spec in service.deployments() if spec.kind == KIND]


def choose(service: KnowsDeployments, name: str | None) -> DeploymentSpec:
    """The warehouse of that name, or the only one. Raises NotFound, InvalidArgument where one must be
    named, Unimplemented where there is none."""
    known = warehouses(service)
    if name:
        for spec in known:
            if spec.name == name:
                return spec
    elif len(known) == 1:
        return known[0]
    if not known:
        raise Unimplemented("no warehouse is deployed here; fs.sql.Warehouse or `flightserve sql` make one")
    names = ", ".join(spec.name for spec in known)
    if name:
        raise NotFound(f"no warehouse {name[:128]!r}; there are: {names}")
    raise InvalidArgument(f"there are several warehouses ({names}); name one")


def check(statement: Statement) -> None:
    """Refuse texts that no engine has to see. Raises InvalidArgument, TooLarge."""
    if not statement.sql.strip():
        raise InvalidArgument("the query is empty")
    if "\0" in statement.sql:
        raise InvalidArgument("the query has a NUL character")
    size = len(statement.sql)
    # Encoded only where it may matter: a character has at most four bytes.
    if size > SQL_BYTES_MAX // 4 and (size := len(statement.sql.encode("utf-8", "replace"))) > SQL_BYTES_MAX:
        raise TooLarge(f"the query has {size} bytes; at most {SQL_BYTES_MAX} are taken")


def request_batch(statement: Statement) -> pa.RecordBatch:
    """The one row that `query` and `describe` take. Raises as `check`."""
    check(statement)
    short = len(statement.sql) + len(statement.parameters) <= SHORT_CHARS_MAX
    make = _short_request if short else request_row
    return make(statement.sql, statement.parameters)


# Clients ask the same again and again.
_short_request = functools.lru_cache(REMEMBERED_MAX)(request_row)


def execution_row(statement: Statement, limits: EdgeLimits) -> pa.RecordBatch | None:
    """The row that `execute` takes; None for what is not for it: no row of parameters, or many, a long text."""
    if not statement.parameters or len(statement.sql) > EXECUTED_SQL_CHARS_MAX:
        return None
    rows = decode_stream(pa.py_buffer(statement.parameters), limits)
    return execution_batch(statement.sql, rows) if rows.num_rows == 1 else None


class Answer:
    """The batches of one request, read by a thread. Iterate; `close` gives the rest up. `cancel` may come from any
    thread, and ends the iteration with Cancelled.

    With `execution`, the row for `execute`, it goes there; where that says that the result is too large for it,
    `too_large` is told and the statement runs by `method` after all.
    """

    def __init__(
        self,
        service: Service,
        method: str,
        statement: Statement,
        meta: RequestMeta,
        gone: Callable[[], bool] = lambda: False,
        execution: pa.RecordBatch | None = None,
        too_large: Callable[[], None] = lambda: None,
    ) -> None:
        self._statement, self._method, self.meta = statement, method, meta
        self._execution = execution
        self._too_large = too_large
        self._gone = gone
        self._early = False
        self._early_tables: list[str] | None = None
        self._cancelled = False
        # Nothing more comes.
        self.finished = False
        self._lane = service.open_lane()
        self._submit()

    def _submit(self) -> None:
        method, batch = self._method, self._execution
        try:
            if batch is None:
                batch = request_batch(self._statement)
            else:
                method = EXECUTE
            self._lane.submit(0, self._statement.warehouse, method, batch, self.meta)
        except BaseException:
            self.close()
            raise

    def adopt(self, meta: RequestMeta, gone: Callable[[], bool]) -> None:
        """It was begun before anybody asked for it; now somebody does. If that early run fails, it runs again."""
        self._early_tables = self.meta.tables
        self._early, self.meta, self._gone = True, meta, gone

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        while not self.finished:
            reply = self._lane.receive(self._patience_s())
            if self._cancelled or self._gone():
                self.close()
                raise Cancelled("the query was cancelled")
            if reply is None:
                continue
            if reply.error is not None and self._runs_again(reply.error):
                self._submit()
                continue
            if reply.last:
                self.close()
            if reply.error is not None:
                raise reply.error
            self._early = False
            if reply.result is not None:
                batch = reply.result.batch()
                return batch if self._execution is None else unnumbered(batch)
        raise StopIteration

    def _patience_s(self) -> float:
        """How long to wait for a reply, at most. The router sees to the deadline, but for that of whoever adopted an
        early run, which it was not told."""
        if not self._early:
            return POLL_S
        left_s = (self.meta.deadline_ns - monotonic_ns()) / NS_PER_S
        if left_s <= 0:
            self.close()
            raise DeadlineExceeded("the deadline passed before the first rows")
        return min(POLL_S, left_s)

    def _runs_again(self, error: FlightserveError) -> bool:
        if self._execution is not None and isinstance(error, TooLarge):
            self._execution = None
            self._too_large()
            return True
        early, self._early = self._early, False
        return early

    def cancel(self) -> None:
        """End the query."""
        self._cancelled = True
        self._lane.cancel(0)

    def tell_tables(self) -> None:
        """What an early run of it was told of its tables is for who adopted it."""
        if self._early_tables is not None and self.meta.tables is not None:
            add_tables(self.meta.tables, self._early_tables)

    def close(self) -> None:
        """Give up what is still to come; idempotent."""
        if not self.finished:
            self.finished = True
            self._lane.close()


class Gateway:
    """Statements of blocking clients: describes, lists tables, opens answers. Any thread."""

    def __init__(
        self, service: Service, limits: EdgeLimits, clock: Clock = monotonic_ns, refresh: Refresh | None = None
    ) -> None:
        self.service = service
        self.limits = limits
        self._refresh = refresh
        # By who asks as well (`RequestMeta.caller`): others may see other tables.
        self._descriptions: Recent[tuple[Statement, str], Description] = Recent(clock)
        self._tables: Recent[tuple[str, str], tuple[TableInfo, ...]] = Recent(clock)
        self._large: Recent[tuple[str, str], bool] = Recent(clock, LARGE_NS)

    def describe(self, statement: Statement, meta: RequestMeta) -> Description:
        """The statement's schemas; of its parameters only the types count. Raises what the engine says of it."""
        shape = Statement(statement.warehouse, statement.sql, without_rows(statement.parameters))
        known = self._descriptions.get((shape, meta.caller))
        if known is None:
            try:
                row = self._one(DESCRIBE, shape, meta)
            except (InvalidArgument, NotFound, Unimplemented):
                if shape.parameters == statement.parameters:
                    raise
                # Some need values to be planned, a format or the name of a part.
                return read_description(self._one(DESCRIBE, statement, meta))
            known = read_description(row)
            nbytes = sum(map(len, (shape.sql, shape.parameters, known.result, known.parameters)))
            self._descriptions.put((shape, meta.caller), known, nbytes)
        return known

    def tables(self, warehouse: str, meta: RequestMeta) -> tuple[TableInfo, ...]:
        """The warehouse's tables that the caller may query, by name."""
        known = self._tables.get((warehouse, meta.caller))
        if known is None:
            answer = Answer(self.service, TABLES, Statement(warehouse, "tables"), meta)
            with contextlib.closing(answer):
                rows = [row for batch in answer for row in batch.to_pylist()]
            known = tuple(sorted(map(read_table, rows), key=lambda table: table.name))
            self._tables.put((warehouse, meta.caller), known)
        return known

    def open(self, statement: Statement, meta: RequestMeta, gone: Callable[[], bool], merged: bool = False) -> Answer:
        """Run the statement. `gone` is asked now and then whether the client is. One whose executions are `merged` runs
        together with others of its text, unless its results turned out to be large."""
        key = (statement.warehouse, statement.sql)
        row = execution_row(statement, self.limits) if merged and not self._large.get(key) else None
        return Answer(self.service, QUERY, statement, meta, gone, row, lambda: self._large.put(key, True))

    def refresh(self, spec: DeploymentSpec, meta: RequestMeta) -> list[dict[str, Any]]:
        """Have every replica look at its tables' files: what each answered. Raises Unavailable where nobody can be
        asked, and DeadlineExceeded where some have not answered in time."""
        if self._refresh is None:
            raise Unimplemented("nothing here can tell the replicas to look at their files")
        said = self._refresh(spec.name, meta.deadline_ns)
        self._descriptions.clear()
        self._tables.clear()
        late = [each.replica for each in said if each.outcome == RefreshOutcome.LATE]
        if late:
            raise DeadlineExceeded(
                f"{len(said) - len(late)} of the {len(said)} replicas of {spec.name} have looked at their files; "
                f"{', '.join(late)} did not answer in time, and may look all the same"
            )
        return [msgspec.structs.asdict(each) for each in said]

    def _one(self, method: str, statement: Statement, meta: RequestMeta) -> dict[str, Any]:
        answer = Answer(self.service, method, statement, meta)
        with contextlib.closing(answer):
            rows = [row for batch in answer for row in batch.to_pylist()]
        if len(rows) != 1:
            raise FlightserveError(f"{method} of the warehouse answered {len(rows)} rows where one was expected")
        only: dict[str, Any] = rows[0]
        return only


def without_rows(parameters: bytes) -> bytes:
    """The stream's schema as a stream of its own."""
    if not parameters:
        return parameters
    try:
        schema = pa.ipc.open_stream(parameters).schema
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument("the parameters are no Arrow IPC stream") from error
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return bytes(sink.getvalue())


class Recent(Generic[K, V]):
    """Values for a short time, at most so many, and so many bytes where sizes are told; the oldest goes first."""

    def __init__(self, clock: Clock, lifetime_ns: int = REMEMBERED_NS) -> None:
        self._clock = clock
        self._lifetime_ns = lifetime_ns
        self._lock = threading.Lock()
        self._values: TTLCache[K, V] = TTLCache(REMEMBERED_MAX, REMEMBERED_BYTES_MAX)

    def __repr__(self) -> str:
        return f"<Recent {len(self._values)} values, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """Of all values whose sizes were told."""
        return self._values.weight

    def get(self, key: K) -> V | None:
        with self._lock:
            return self._values.get(key, self._clock())

    def clear(self) -> None:
        with self._lock:
            self._values.clear()

    def put(self, key: K, value: V, nbytes: int = 0) -> None:
        with self._lock:
            now_ns = self._clock()
            self._values.put(key, value, now_ns + self._lifetime_ns, now_ns, nbytes)
