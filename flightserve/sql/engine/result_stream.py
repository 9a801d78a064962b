"""One query's result: record batches as the engine makes them, bounded.

The engine buffers a fixed amount and stops when it is full, so that a result's size and a slow reader cost the same
small memory. Its batches are put together until they are worth sending (`result_batches`); what runs is watched over
(`query_watch`).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Protocol

import duckdb
import pyarrow as pa

from flightserve.clock import NEVER_NS
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, InvalidArgument, OutOfMemory
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.sql.engine.bound_queries import BoundQuery, QuerySessions, bound_key
from flightserve.sql.engine.columns import Refusals, project
from flightserve.sql.engine.errors import NO_MEMORY, translate
from flightserve.sql.engine.query_watch import QueryWatch
from flightserve.sql.engine.result_batches import (
    BATCH_BYTES_MAX,
    conform,
    gather,
    plain_schema,
    table_within,
    write_out_dictionaries,
)
from flightserve.sql.statements.explaining import ExplainForm, as_typed, told

# Rows the engine hands over at once: half as many cost a quarter more time, more delay the first.
READ_ROWS: Final = 16_384
OTHER_TYPES: Final = "the types of the result's columns depend on the parameters' values; cast the columns to one"


class Batches(Protocol):
    """One execution's result, as `ResultStream` has it."""

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def last(self) -> bool: ...

    def __iter__(self) -> Iterator[pa.RecordBatch]: ...

    def rename(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]: ...

    def read_all(self, bytes_max: int) -> pa.Table | None: ...


class ResultStream:
    """One query on a session of its own. `schema` is known at once; iterate for the batches; `close` gives up.

    `text` is an allowed statement's, `values` its parameters by name; or `rows`, a name and the rows that the text
    finds under it. With `rows`, or with `keeps_bound` and without `values`, the query stays bound for the next time
    (`sql.engine.bound_queries`). Raises the FlightserveError of whatever goes wrong, when it is made and while it is
    iterated.

    `last` is true where the batch that was just given is known to be the last. With `looks_ahead`, a batch shorter than
    what the engine was asked for is given when the next read has said whether there is more: most often it is the
    whole result, and then nothing has to be sent behind it.
    """

    def __init__(
        self,
        engine: QuerySessions,
        watch: QueryWatch,
        text: str,
        values: Mapping[str, Any] | None = None,
        *,
        deadline_ns: int = NEVER_NS,
        cancelled: Callable[[], bool] = lambda: False,
        rows: tuple[str, pa.RecordBatch] | None = None,
        keeps_bound: bool = False,
        looks_ahead: bool = False,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._ended = False
        self._looks_ahead = looks_ahead
        self.last = False
        self._keeps_bound = keeps_bound or rows is not None
        self._bound = engine.take_bound(bound_key(text, rows)) if self._keeps_bound else None
        self._session = self._bound.session if self._bound is not None else engine.take()
        try:
            self._watched = watch.begin(self._session, deadline_ns, cancelled)
        except BaseException:
            # Nobody can watch over it: a thread cannot be started now.
            engine.drop(self._session)
            raise
        try:
            with self._watched:
                self._reader = self._relation(text, values, rows).to_arrow_reader(READ_ROWS)
            self._plain = plain_schema(self._reader.schema)
            self._refusals = Refusals(self._reader.schema)
            self.schema: pa.Schema = self._plain or self._reader.schema
        except BaseException as error:
            raise self._failed(error) from error

    def _relation(
        self, text: str, values: Mapping[str, Any] | None, rows: tuple[str, pa.RecordBatch] | None
    ) -> duckdb.DuckDBPyRelation:
        if not self._keeps_bound:
            return project(self._session.sql(text, params=dict(values) if values else None))
        if self._bound is None:
            self._bound = BoundQuery(self._session, text, rows)
        return self._bound.relation(rows)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            ahead = self._ahead()
            if len(ahead) == 1 and self._ended and nbytes_of(ahead[0]) <= BATCH_BYTES_MAX:
                # As most results: all there is.
                self.last = True
                yield ahead.pop()
                return
            batches = gather(itertools.chain(ahead, self._read()), self.schema)
            del ahead
            for batch in batches:
                # Once the engine has ended, what is left is there already.
                waiting = collections.deque([batch, *(batches if self._ended else ())])
                del batch
                while waiting:
                    self.last = self._ended and len(waiting) == 1
                    yield waiting.popleft()
        finally:
            self.close()

    def rename(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The batches with that schema's names; its types are theirs. Statements whose parameters were written out
        have other names for columns without one."""
        for batch in self:
            try:
                named = conform(batch, schema)
            except (pa.ArrowException, ValueError) as error:
                raise InvalidArgument(OTHER_TYPES) from error
            yield named

    def _ahead(self) -> list[pa.RecordBatch]:
        """The next batch, and with `looks_ahead` the one behind a short one; none at the end."""
        batch = self._next()
        if batch is None:
            return []
        following = self._next() if self._looks_ahead and batch.num_rows < READ_ROWS else None
        return [batch] if following is None else [batch, following]

    def _read(self) -> Iterator[pa.RecordBatch]:
        while batches := self._ahead():
            yield from batches

    def _next(self) -> pa.RecordBatch | None:
        """The engine's next batch; None at the end."""
        if self._ended:
            return None
        try:
            with self._watched:
                batch = self._reader.read_next_batch()
            self._refusals.check(batch)
        except StopIteration:
            self._end_well()
            return None
        except BaseException as error:
            raise self._failed(error) from error
        if self._watched.why is not None:
            # Interrupted between two batches, where the engine does not notice.
            raise self._failed(Cancelled("interrupted"))
        return batch if self._plain is None else write_out_dictionaries(batch, self._plain)

    def read_all(self, bytes_max: int) -> pa.Table | None:
        """Everything, or None when it is more than `bytes_max`; the query is given up then."""
        with contextlib.closing(self):
            return table_within(self._read(), self.schema, bytes_max)

    def close(self) -> None:
        """Give up what is not yet read. Idempotent."""
        if not self._ended:
            self._session.interrupt()
            self._abandon()

    def _end_well(self) -> None:
        if self._watched.why is not None:
            # Everything was read, but an interrupt may still hang in the session.
            self._abandon()
            return
        self._ended = True
        self._watch.end(self._watched)
        self._reader.close()
        if self._bound is None:
            self._engine.give_back(self._session)
        else:
            self._bound.rest()
            self._engine.keep_bound(self._bound)

    def _abandon(self) -> None:
        """The session is not used again: what it was doing may still end in it."""
        self._ended = True
        self._watch.end(self._watched)
        reader = getattr(self, "_reader", None)
        if reader is not None:
            reader.close()
        self._engine.drop(self._session)

    def _failed(self, error: BaseException) -> BaseException:
        """The error for the caller; the session is closed."""
        why = self._watched.why
        self._abandon()
        failure: BaseException
        if why is DeadlineExceeded:
            failure = DeadlineExceeded("the deadline passed while the query ran")
        elif why is Cancelled:
            failure = Cancelled("nobody waits for the query any more")
        elif why is OutOfMemory:
            failure = OutOfMemory(NO_MEMORY)
        else:
            failure = translate(error) if isinstance(error, Exception) else error
        if isinstance(failure, OutOfMemory):
            self._watch.relieve()
        return failure


class ProfileStream(ResultStream):
    """What EXPLAIN ANALYZE gives, as far as strangers are told (`sql.statements.explaining`)."""

    form: ClassVar[ExplainForm] = "profile"

    def _next(self) -> pa.RecordBatch | None:
        batch = super()._next()
        if batch is None:
            return None
        texts = [told(text, self.form) for text in batch.column(1).to_pylist()]
        return pa.RecordBatch.from_arrays([batch.column(0), pa.array(texts, pa.string())], schema=batch.schema)

    def _failed(self, error: BaseException) -> BaseException:
        failure = super()._failed(error)
        if isinstance(failure, FlightserveError):
            return type(failure)(as_typed(failure.message))
        return failure


class JsonProfileStream(ProfileStream):
    """The same as JSON."""

    form = "profile as json"


# What reads the result of a statement that is explained so.
PROFILES: Final[Mapping[ExplainForm, type[ResultStream]]] = {
    "profile": ProfileStream,
    "profile as json": JsonProfileStream,
}
