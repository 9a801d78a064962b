"""Results that are given again without asking the engine: what may be kept, under which key, and where it lies.

A key is the statement (its tree, so that spelling does not count; its parameters' types, so that 1, 1.0 and true are
three), the versions of the tables that it reads, and the values of its parameters, told apart bit by bit. What is kept
under it is where the rows lie in this process's shared memory, where they were written for their first reader: keeping
them costs a lease, and so does each answer with them (`fabric.memory.stored`). An entry that goes while its rows are
still being read goes when they have been.

Executions of a query by name are kept one by one, each a range of rows in the region of the micro-batch they were
answered in; such a region goes as a whole. Of streams a result is kept whole, where it is not too large and was taken
to its end. Statements that may give something else the next time are not kept (`scope_of`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from flightserve.core.memory.recency import Recency
from flightserve.core.memory.regions import size_class
from flightserve.fabric.memory.batches import SchemaCache, read_batch
from flightserve.fabric.memory.segments import SegmentPool
from flightserve.fabric.memory.stored import Answered, Fresh, Stored, own_buffer
from flightserve.sql.statements.merging import NotMergeable, normal, refuse_undefined
from flightserve.sql.statements.parser import ParsedStatement, Parser, cte_names, walk
from flightserve.sql.statements.steadiness import follows_the_clock
from flightserve.wire.frames import Region

# One result of a stream may have this share of the cache, a micro-batch of executions this one.
STREAM_SHARE: Final = 8
EXECUTIONS_SHARE: Final = 2
# What a key costs beside its values: the books, in Python.
KEY_BYTES: Final = 512


class Scope(NamedTuple):
    """A statement over its tables as they are: all of a key but the values. `tables` are (name, version)."""

    statement: str
    tables: tuple[tuple[str, str], ...]


Key = tuple[Scope, Any]


class Place(NamedTuple):
    """One execution's rows in a region: the first, how many, and the number that their `rid` says."""

    first: int
    rows: int
    rid: int


def scope_of(
    statement: ParsedStatement, types: Sequence[str], parser: Parser, versions: Mapping[str, str]
) -> Scope | None:
    """The statement's scope; None where its result may differ from one time to the next."""
    if statement.explain:
        return None
    try:
        refuse_undefined(statement.tree, parser)
    except NotMergeable:
        return None
    by_name = {name.lower(): (name, version) for name, version in versions.items()}
    ctes = {name.lower() for name in cte_names(statement.tree)}
    tables = set()
    for node in walk(statement.tree):
        if node.get("type") == "BASE_TABLE":
            name = str(node["qualified_name"]["path"][-1]).lower()
            if name in by_name:
                tables.add(by_name[name])
            elif name not in ctes:
                return None
        elif follows_the_clock(node, parser.unsteady):
            return None
    text = json.dumps([normal(statement.tree), list(types), statement.parameters], sort_keys=True)
    return Scope(hashlib.blake2b(text.encode(), digest_size=20).hexdigest(), tuple(sorted(tables)))


def values_of(columns: Sequence[pa.Array], rows: int) -> list[Any]:
    """Each row's values as something that is equal only for equal rows, bit by bit."""
    return list(zip(*map(_exact, columns), strict=True)) if columns else [()] * rows


def _exact(column: pa.Array) -> list[Any]:
    kind = column.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return [_bytes([column.slice(row, 1)]) for row in range(len(column))]
    if pa.types.is_float16(kind):
        return [column.slice(row, 1).fill_null(0).to_numpy().tobytes() for row in range(len(column))]
    if pa.types.is_floating(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind)):
        # As whole numbers: 0.0 and -0.0 are not the same.
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    values: list[Any] = column.to_pylist()
    return values


def _bytes(columns: Sequence[pa.Array]) -> bytes:
    names = [str(n) for n in range(len(columns))]
    return bytes(pa.RecordBatch.from_arrays(list(columns), names=names).serialize())


def rows_digest(columns: Sequence[pa.Array]) -> bytes:
    """What stands for all rows of a statement's parameters."""
    return hashlib.blake2b(_bytes(columns), digest_size=20).digest() if columns else b""


class Looked(NamedTuple):
    """What a look for a micro-batch found: `answered` are requests that the cache answers, `rest` the places of the
    others; `known` are rows of these, by their number in the micro-batch, that need not run."""

    answered: list[Answered]
    rest: list[int]
    known: dict[int, pa.RecordBatch]


class ResultCache:
    """Results in the regions of `pool`, all together within `bytes_max`. Any thread."""

    def __init__(self, pool: SegmentPool, bytes_max: int) -> None:
        self._pool = pool
        self._books: Recency[Key, Place | None] = Recency(bytes_max)
        self._regions: dict[int, list[tuple[Region, int]]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._schemas = SchemaCache()
        self._hits = self._misses = self._evictions = 0

    def __repr__(self) -> str:
        return f"<ResultCache {self._books}>"

    def statistics(self) -> dict[str, float]:
        """Executions answered and not answered, items that went for others, and what there is."""
        with self._lock:
            return {
                "cache_hits": float(self._hits),
                "cache_misses": float(self._misses),
                "cache_evictions": float(self._evictions),
                "cache_bytes": float(self._books.nbytes),
                "cache_entries": float(self._books.keys),
            }

    def clear(self) -> None:
        """Let go of everything."""
        self.retain(lambda scope: False)

    def retain(self, wanted: Callable[[Scope], bool]) -> None:
        """Let go of what is of other scopes."""
        with self._lock:
            self._let_go(self._books.retain(lambda key: wanted(key[0])))

    def _let_go(self, items: Iterable[int]) -> None:
        for item in items:
            for region, _ in self._regions.pop(item, ()):
                self._pool.free(region.segment, region.offset)

    def _add(self, regions: list[tuple[Region, int]], values: Mapping[Key, Place | None]) -> None:
        """Take over the leases on these regions."""
        nbytes = sum(size_class(region.length) for region, _ in regions) + sum(map(_weight, values))
        with self._lock:
            item = next(self._ids)
            self._regions[item] = regions
            gone = self._books.add(item, nbytes, values)
            self._evictions += len(gone)
            self._let_go(gone)

    # ---- executions of queries by name

    def look(self, keys: Sequence[Key], rows: Sequence[int]) -> Looked:
        """What is known of requests with so many rows each; `keys` are the rows'."""
        answered: dict[int, list[tuple[int, list[Place]]]] = {}
        rest: list[int] = []
        known: dict[int, pa.RecordBatch] = {}
        with self._lock:
            found = [self._books.find(key) for key in keys]
            start = 0
            for part, count in enumerate(rows):
                entries = [(entry[0], entry[1]) for entry in found[start : start + count] if entry and entry[1]]
                if len(entries) == count and _in_one_piece(entries):
                    answered.setdefault(entries[0][0], []).append((part, [place for _, place in entries]))
                else:
                    rest.append(part)
                    known |= self._rows(found, range(start, start + count))
                start += count
            misses = sum(rows[part] for part in rest) - len(known)
            self._misses += misses
            self._hits += len(keys) - misses
            return Looked([self._answer(item, parts) for item, parts in answered.items()], rest, known)

    def _answer(self, item: int, parts: list[tuple[int, list[Place]]]) -> Answered:
        ((region, _),) = self._regions[item]
        counts = [sum(place.rows for place in places) for _, places in parts]
        offsets = [places[0].first for _, places in parts]
        return Answered([part for part, _ in parts], Stored(self._pool, region, counts, offsets))

    def _rows(self, found: Sequence[tuple[int, Place | None] | None], rows: range) -> dict[int, pa.RecordBatch]:
        """Rows of a request of which some are known, each as a slice of where it lies."""
        batches: dict[int, pa.RecordBatch] = {}
        out = {}
        for row in rows:
            entry = found[row]
            item, place = entry or (0, None)
            if place is None:
                continue
            if item not in batches:
                ((region, _),) = self._regions[item]
                batches[item] = read_batch(*own_buffer(self._pool, region), self._schemas)
            out[row] = batches[item].slice(place.first, place.rows)
        return out

    def keeper(self, values: Mapping[Key, Place | None]) -> Callable[[Region], None]:
        """What is told where these executions' rows were written, and keeps them."""

        def written(region: Region) -> None:
            if size_class(region.length) <= self._books.bytes_max // EXECUTIONS_SHARE:
                self._pool.keep(region.segment, region.offset)
                self._add([(region, 0)], values)

        return written

    # ---- streams

    def stream(self, key: Key) -> list[Stored] | None:
        """All batches of a result."""
        with self._lock:
            found = self._books.find(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            return [Stored(self._pool, region, [rows]) for region, rows in self._regions[found[0]]]

    def record(self, key: Key) -> Recording:
        """Keep a result while it is streamed."""
        return Recording(self, self._pool, key, self._books.bytes_max // STREAM_SHARE)


class Recording:
    """A stream's batches, kept until the last is written (`end`) or the stream ends otherwise (`drop`)."""

    def __init__(self, cache: ResultCache, pool: SegmentPool, key: Key, bytes_max: int) -> None:
        self._cache = cache
        self._pool = pool
        self._key = key
        self._bytes_left = bytes_max - _weight(key)
        self._regions: list[tuple[Region, int]] = []
        self._over = False

    def fresh(self, batch: pa.RecordBatch, last: bool = False) -> Fresh:
        """The batch, to be yielded. `last`: nothing is asked for behind it."""
        rows = batch.num_rows

        def written(region: Region) -> None:
            self._bytes_left -= size_class(region.length)
            if self._bytes_left < 0:
                self.drop()
            if not self._over:
                self._pool.keep(region.segment, region.offset)
                self._regions.append((region, rows))
            if last:
                self.end()

        return Fresh(batch, written)

    def end(self) -> None:
        """All of the result is there."""
        if not self._over:
            self._over = True
            self._cache._add(self._regions, {self._key: None})

    def drop(self) -> None:
        """It is not kept after all. Nothing happens to one that has ended."""
        if not self._over:
            self._over = True
            for region, _ in self._regions:
                self._pool.free(region.segment, region.offset)


def _in_one_piece(entries: Sequence[tuple[int, Place]]) -> bool:
    """True where one request's rows lie as its answer: in one item, one behind the other and numbered from 0."""
    if not entries:
        return False
    item, end = entries[0][0], entries[0][1].first
    for number, (where, place) in enumerate(entries):
        if where != item or place.rid != number or place.first != end:
            return False
        end += place.rows
    return True


def _weight(key: Key) -> int:
    values = key[1]
    return KEY_BYTES + sum(len(value) for value in values if isinstance(value, str | bytes)) if values else KEY_BYTES
