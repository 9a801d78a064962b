"""Running one query: record batches as the engine makes them, bounded, and interrupted when nobody wants them.

The engine buffers a fixed amount and stops when it is full, so that a result's size and a slow reader cost the same
small memory. Its batches are put together until they are worth sending (the first goes at once, the next are larger
by and by), and cut where they are too large for clients. Dictionaries are written out: a dictionary goes with every
batch, or is a message of its own size.

`QueryWatch` interrupts. A query that does not end all the same is its process's to end (`replica.service` does, as for
any method that goes on after everybody gave it up).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import duckdb
import pyarrow as pa

from flightserve import threads
from flightserve.clock import NEVER_NS, NS_PER_S, Clock, monotonic_ns
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    InvalidArgument,
    OutOfMemory,
    ReplicaFailed,
)
from flightserve.sql.engine import Engine
from flightserve.sql.engine.columns import Refusals, projected
from flightserve.sql.engine.errors import NO_MEMORY, translate
from flightserve.sql.engine.memory import MemoryWatch
from flightserve.sql.engine.standing import Standing, standing_key

# Rows the engine hands over at once: half as many cost a quarter more time, more delay the first.
READ_ROWS: Final = 16_384
# Batches are put together up to the first, cut above the second. Flight clients refuse messages of 16 MiB.
GATHER_BYTES: Final = 2 << 20
BATCH_BYTES_MAX: Final = 8 << 20
WATCH_NS: Final = NS_PER_S // 20
OTHER_TYPES: Final = "the types of the result's columns depend on the parameters' values; cast the columns to one"


class WatchedQuery:
    """One running query as `QueryWatch` sees it. `why` is set when it was interrupted; `inside` while it is in the
    engine, `visited` when it was since somebody last looked."""

    __slots__ = ("cancelled", "deadline_ns", "inside", "session", "visited", "why")

    def __init__(self, session: duckdb.DuckDBPyConnection, deadline_ns: int, cancelled: Callable[[], bool]) -> None:
        self.session = session
        self.deadline_ns = deadline_ns
        self.cancelled = cancelled
        self.inside = self.visited = False
        self.why: type[FlightserveError] | None = None

    def __enter__(self) -> None:
        self.inside = self.visited = True

    def __exit__(self, *_: object) -> None:
        self.inside = False


class QueryWatch:
    """Interrupts queries at their deadline, or within `WATCH_NS` after they were given up or took too much memory
    (`memory`, where somebody watches over that); one thread, which is asleep while nothing runs. It is not woken for
    each query: it looks again `WATCH_NS` after it saw any. A deadline before that wakes it, and any query while much
    memory is in use."""

    def __init__(self, clock: Clock = monotonic_ns) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # The oldest first.
        self._running: dict[WatchedQuery, None] = {}
        self.memory: MemoryWatch[WatchedQuery] | None = None
        self._stopping = False
        # When the thread looks next, and whether only a query makes it look; whether one has begun since it looked.
        self._next_ns = 0
        self._asleep = True
        self._begun = False
        self._thread: threading.Thread | None = None

    def begin(
        self, session: duckdb.DuckDBPyConnection, deadline_ns: int, cancelled: Callable[[], bool]
    ) -> WatchedQuery:
        """Watch over the session's query until `end`."""
        watched = WatchedQuery(session, deadline_ns, cancelled)
        with self._lock:
            if self._thread is None:
                # Where it cannot start, the next query tries again.
                self._thread = threads.start("sql-watch", self._run, lambda: self._stopping, self._lost)
            self._running[watched] = None
            self._begun = True
            tight = self.memory is not None and self.memory.tight
            if self._asleep or tight or deadline_ns < self._next_ns:
                self._changed.notify()
        return watched

    def end(self, watched: WatchedQuery) -> None:
        """The query has ended. Idempotent."""
        with self._lock:
            self._running.pop(watched, None)

    def relieve(self) -> None:
        """A query failed for want of memory, and its session is closed: let others have what it had."""
        with self._lock:
            if self.memory is not None:
                self.memory.relieve()

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        """Look until it is stopped; short of memory, again."""
        with self._lock:
            while not self._stopping:
                try:
                    wait_s = self._look_at_all(self._clock())
                except MemoryError:
                    wait_s = WATCH_NS / NS_PER_S
                self._changed.wait(wait_s)

    def _lost(self, why: str) -> None:
        """Without the thread no query would ever be interrupted: that costs the replica."""
        if self.memory is not None:
            self.memory.broken(ReplicaFailed(f"queries are not watched any more: {why}"))

    def _look_at_all(self, now_ns: int) -> float | None:
        """Seconds until the next look; None: when there is something to see."""
        # Also after the last query, so that what it gave back may be taken by others.
        self._look_at_memory(now_ns)
        for watched in self._running:
            self._look(watched, now_ns)
        self._asleep = not self._running and not self._begun
        self._begun = False
        if self._asleep:
            return None
        first_ns = min((w.deadline_ns for w in self._running if w.why is None), default=NEVER_NS)
        wait_ns = max(1_000_000, min(WATCH_NS, first_ns - now_ns))
        self._next_ns = now_ns + wait_ns
        return wait_ns / NS_PER_S

    def _look_at_memory(self, now_ns: int) -> None:
        if self.memory is None:
            return
        active = [watched for watched in self._running if watched.inside or watched.visited]
        for watched in active:
            watched.visited = False
        worst = self.memory.look(self._running, active, now_ns)
        if worst is not None and worst.why is None:
            worst.why = OutOfMemory

    def _look(self, watched: WatchedQuery, now_ns: int) -> None:
        """Interrupt again each time: an interrupt that comes between two steps of the engine is lost."""
        if watched.why is None:
            if now_ns >= watched.deadline_ns:
                watched.why = DeadlineExceeded
            elif watched.cancelled():
                watched.why = Cancelled
        if watched.why is not None:
            watched.session.interrupt()


class Execution:
    """One query on a session of its own. `schema` is known at once; iterate for the batches; `close` gives up.

    `text` is an allowed statement's, `values` its parameters by name; or `rows`, a name and the rows that the text
    finds under it. With `rows`, or with `stands` and without `values`, the query stands ready for the next time
    (`sql.engine.standing`). Raises the FlightserveError of whatever goes wrong, when it is made and while it is
    iterated.

    `last` is true where the batch that was just given is known to be the last. With `looks_ahead`, a batch shorter than
    what the engine was asked for is given when the next read has said whether there is more: most often it is the
    whole result, and then nothing has to be sent behind it.
    """

    def __init__(
        self,
        engine: Engine,
        watch: QueryWatch,
        text: str,
        values: Mapping[str, Any] | None = None,
        *,
        deadline_ns: int = NEVER_NS,
        cancelled: Callable[[], bool] = lambda: False,
        rows: tuple[str, pa.RecordBatch] | None = None,
        stands: bool = False,
        looks_ahead: bool = False,
    ) -> None:
        self._engine = engine
        self._watch = watch
        self._ended = False
        self._looks_ahead = looks_ahead
        self.last = False
        self._stands = stands or rows is not None
        self._standing = engine.take_standing(standing_key(text, rows)) if self._stands else None
        self._session = self._standing.session if self._standing is not None else engine.take()
        self._watched = watch.begin(self._session, deadline_ns, cancelled)
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
        if not self._stands:
            return projected(self._session.sql(text, params=dict(values) if values else None))
        if self._standing is None:
            self._standing = Standing(self._session, text, rows)
        return self._standing.relation(rows)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            ahead = self._ahead()
            if len(ahead) == 1 and self._ended and ahead[0].nbytes <= BATCH_BYTES_MAX:
                # As most results: all there is.
                self.last = True
                yield ahead.pop()
                return
            batches = gathered(itertools.chain(ahead, self._read()), self.schema)
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

    def renamed(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The batches with that schema's names; its types are theirs. Statements whose parameters were written out
        have other names for columns without one."""
        for batch in self:
            try:
                named = conformed(batch, schema)
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
        return batch if self._plain is None else undictionaried(batch, self._plain)

    def read_all(self, bytes_max: int) -> pa.Table | None:
        """Everything, or None when it is more than `bytes_max`; the query is given up then."""
        batches, nbytes = [], 0
        with contextlib.closing(self):
            for batch in self._read():
                batches.append(batch)
                nbytes += batch.nbytes
                if nbytes > bytes_max:
                    return None
        return pa.Table.from_batches(batches, self.schema)

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
        if self._standing is None:
            self._engine.give_back(self._session)
        else:
            self._standing.rest()
            self._engine.keep(self._standing)

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


# ---- batches


Rows = TypeVar("Rows", pa.RecordBatch, pa.Table)


def conformed(rows: Rows, schema: pa.Schema) -> Rows:
    """The rows with that schema's names and types. Raises ValueError where columns are others."""
    if not conforms(rows.schema, schema):
        raise ValueError("the columns are others")
    # Arrow casts what differs, and refuses what would lose by it.
    return type(rows).from_arrays(rows.columns, schema=schema)


def conforms(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether rows of one schema may be cast to the other: a number of one width to another, nulls to anything. Arrow
    casts structs too, and makes nulls of fields that it does not find."""
    pairs = list(zip(found.types, wanted.types, strict=False))
    nested = any(a != b and (a.num_fields or b.num_fields) and not pa.types.is_null(a) for a, b in pairs)
    return len(found) == len(wanted) and not nested


def gathered(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows in batches worth sending: the first at once, later ones of `GATHER_BYTES` and more, none above
    `BATCH_BYTES_MAX` but for single rows that are. Without rows there is one batch of none."""
    waiting: list[pa.RecordBatch] = []
    nbytes, enough, sent = 0, 1, False
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        nbytes += batch.nbytes
        if nbytes >= enough:
            yield from cut(joined(waiting))
            waiting, nbytes, sent = [], 0, True
            enough = min(GATHER_BYTES, max(enough * 8, 1 << 16))
    if waiting:
        yield from cut(joined(waiting))
    elif not sent:
        yield pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The batches as one."""
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of at most `BATCH_BYTES_MAX`, or of one row."""
    nbytes, rows = batch.nbytes, batch.num_rows
    if nbytes <= BATCH_BYTES_MAX or rows <= 1:
        yield batch
        return
    # Halves, because the mean says nothing of where the large rows lie.
    half = rows // 2
    yield from cut(batch.slice(0, half))
    yield from cut(batch.slice(half))


# Of `pa.dictionary`; what `pa.types.is_dictionary` asks.
_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.utf8()).id


def plain_schema(schema: pa.Schema) -> pa.Schema | None:
    """The schema with dictionaries written out, None where it has none."""
    kinds = schema.types
    if not any(kind.num_fields or kind.id == _DICTIONARY for kind in kinds):
        return None
    plain = [_plain_type(kind) for kind in kinds]
    return None if plain == kinds else pa.schema([f.with_type(kind) for f, kind in zip(schema, plain, strict=True)])


def undictionaried(batch: pa.RecordBatch, plain: pa.Schema) -> pa.RecordBatch:
    """The batch in its plain schema."""
    pairs = zip(batch.columns, plain, strict=True)
    return pa.RecordBatch.from_arrays(
        [column if column.type == field.type else column.cast(field.type) for column, field in pairs], schema=plain
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(_plain_type(kind.field(i).type)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        key, item = _plain_type(kind.key_type), _plain_type(kind.item_type)
        # Of map() the keys have no type, and Arrow makes no such map itself.
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)), kind.list_size)
    return kind
