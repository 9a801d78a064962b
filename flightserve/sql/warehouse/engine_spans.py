"""The engine's span: what kind of statement ran over which tables, and how long. Of its text nothing is told: it may
hold values. `fingerprint` tells one statement from another by its shape, without the constants in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol, TypeVar

from flightserve.contracts.context import context
from flightserve.contracts.spans import OpenSpan
from flightserve.sql.engine import Engine
from flightserve.sql.statements.parser import ParsedStatement, Tree, walk
from flightserve.tracing.spans import Value

T = TypeVar("T")

SUMMARY_CHARACTERS_MAX: Final = 255
FINGERPRINT_BYTES: Final = 8
# What a statement's shape is made of, by the names that the engine's parser has for it: none holds a constant.
_SHAPE: Final = ("class", "type", "function_name", "column_names", "table_name", "type_name", "join_type")


class Runs(Protocol):
    """Who runs statements, over the tables of its engine; `system` is what traces call it."""

    @property
    def system(self) -> str: ...
    @property
    def engine(self) -> Engine: ...


def run_in_span(runner: Runs, statement: ParsedStatement, run: Callable[[], T]) -> T:
    """Run it, and tell of it where somebody traces that."""
    span = _begin(runner, statement)
    if span is None:
        return run()
    try:
        result = run()
    except BaseException as error:
        span.end(error)
        raise
    span.end()
    return result


def stream_in_span(runner: Runs, statement: ParsedStatement, batches: Iterator[T]) -> Iterator[T]:
    """The same of batches: from when the first is asked for until no more are."""
    span = _begin(runner, statement)
    return batches if span is None else _told(span, batches)


def _told(span: OpenSpan, batches: Iterator[T]) -> Iterator[T]:
    try:
        yield from batches
        span.end()
    except BaseException as error:
        # A stream whose end travels with its last batch is closed, and not asked for more.
        span.end(None if isinstance(error, GeneratorExit) else error)
        raise


def _begin(runner: Runs, statement: ParsedStatement) -> OpenSpan | None:
    spans = context().spans
    if spans is None:
        return None
    summary = summarize(statement, runner.engine.tables)
    about: dict[str, Value] = {
        "db.system.name": runner.system,
        "db.operation.name": summary.partition(" ")[0],
        "db.query.summary": summary,
        "flightserve.query.fingerprint": fingerprint(statement.tree),
    }
    return spans.begin(summary, about)


def summarize(statement: ParsedStatement, tables: Collection[str]) -> str:
    """SELECT or EXPLAIN and the tables that are read, those that there are: other names are the caller's words."""
    by_name = {table.lower(): table for table in tables}
    read = (str(node.get("table_name", "")).lower() for node in walk(statement.tree))
    names = sorted({by_name[name] for name in read if name in by_name})
    return " ".join(["EXPLAIN" if statement.explain else "SELECT", *names])[:SUMMARY_CHARACTERS_MAX]


def fingerprint(tree: Tree) -> str:
    """Of a statement's shape; the same whatever the constants in it are."""
    digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
    for node in walk(tree):
        digest.update(repr([(key, node[key]) for key in _SHAPE if key in node]).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
