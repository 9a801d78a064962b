"""Ends the opening of a table whose files grow while they are read, when they have grown too much.

The engine reads a text to its end, wherever that is by then: while somebody writes as fast as it reads, it would go on
until the disk is full. Files of the other kinds say how long they are.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

import duckdb

from flightserve import threads
from flightserve.sql.sources import Source
from flightserve.sql.sources.files import TEXTS, bytes_of
from flightserve.sql.sources.problems import SourceError

LOOK_S: Final = 0.5
# Files may become twice as large, and so many bytes larger.
GROWTH_BYTES_MAX: Final = 256 << 20
_END_S: Final = 5.0


@contextlib.contextmanager
def bounded(connection: duckdb.DuckDBPyConnection, source: Source) -> Iterator[None]:
    """Around what reads the table's files. Raises SourceError where they grew too much meanwhile."""
    if source.format not in TEXTS:
        yield
        return
    limit = 2 * bytes_of(source.files) + GROWTH_BYTES_MAX
    ended, grown = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            if grown.is_set() or bytes_of(source.files) > limit:
                grown.set()
                # Again and again: what is read has several statements, and one that has not begun does not hear it.
                connection.interrupt()

    thread = threads.start("flightserve-growth", look, ended.is_set, again=True)
    try:
        yield
    except duckdb.InterruptException as error:
        if not grown.is_set():
            raise
        why = f"grew to more than {limit} bytes while it was read; serve a copy, or what is written no more"
        file = source.files[0] if len(source.files) == 1 else ""
        raise SourceError(source.problem(why if file else f"its files {why}", file)) from error
    finally:
        ended.set()
        thread.join(_END_S)
