"""Tells, while an engine copies its tables, which is read, how much of it that is, and how long it took.

A table that is quick is one line when it is there. One that takes long is told of after some seconds and then ever less
often; for terminals, which draw it, twice a second as well, below the level of the log's own lines.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Final

import duckdb

from flightserve import threads
from flightserve.sql.sources import Source
from flightserve.sql.sources.files import bytes_of
from flightserve.sql.sources.spelling import quoted_name

log = logging.getLogger("flightserve.sql.loading")

# Files so small are read before anybody looks.
BYTES_MIN: Final = 8 << 20
# As `control.logs.PROGRESS`.
_PROGRESS: Final = 15
LOOK_S: Final = 0.5
# When a line of the log says how far it is: first after so long, then at twice the time each, but not more seldom than
# once a minute.
FIRST_S: Final = 5.0
SELDOM_S: Final = 60.0
_END_S: Final = 5.0


@contextlib.contextmanager
def told(connection: duckdb.DuckDBPyConnection, source: Source) -> Iterator[None]:
    """Around the copying of one table into the engine."""
    total = bytes_of(source.files)
    began = time.monotonic()
    # Tables of DuckDB files are copied when the engine's settings are locked.
    follow = total >= BYTES_MIN and source.format != "duckdb"
    with _followed(connection, source, total, began) if follow else contextlib.nullcontext():
        yield
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {quoted_name(source.name)}").fetchall()
    took_s = time.monotonic() - began
    log.info(
        "table %s has %s rows%s, loaded in %.1f s", source.name, f"{rows:,}", _from(source, total), took_s,
        extra={"table": source.name, "rows": rows, "bytes": total, "files": len(source.files), "seconds": took_s},
    )  # fmt: skip


def _from(source: Source, total: int) -> str:
    if not source.files:
        return ""
    files = os.path.basename(source.files[0]) if len(source.files) == 1 else f"{len(source.files)} files"
    return f" of {files} ({size_of(total)})"


def size_of(count: int) -> str:
    """Bytes as people say them: 5.2 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


@contextlib.contextmanager
def _followed(connection: duckdb.DuckDBPyConnection, source: Source, total: int, began: float) -> Iterator[None]:
    """A thread beside the loading asks the engine how far it is."""
    # It counts for who asks to see a bar, which nobody is to see.
    for setting in ("enable_progress_bar = true", "enable_progress_bar_print = false", "progress_bar_time = 0"):
        connection.execute(f"SET {setting}")
    ended = threading.Event()
    thread = threads.start(
        "flightserve-loading", lambda: _follow(connection, source, total, began, ended), ended.is_set, again=True
    )
    try:
        yield
    finally:
        ended.set()
        thread.join(_END_S)
        connection.execute("SET enable_progress_bar = false")


def _follow(
    connection: duckdb.DuckDBPyConnection, source: Source, total: int, began: float, ended: threading.Event
) -> None:
    due_s = FIRST_S
    while not ended.wait(LOOK_S):
        share = max(0.0, min(1.0, connection.query_progress() / 100))
        took_s = time.monotonic() - began
        about = f"{share:.0%}{_from(source, total)}"
        extra = {"table": source.name, "share": round(share, 3), "bytes": total, "about": about}
        if took_s >= due_s:
            due_s += min(due_s, SELDOM_S)
            log.info("table %s: %s is loaded after %.0f s", source.name, about, took_s, extra=extra)
        else:
            log.log(_PROGRESS, "table %s: %s", source.name, about, extra=extra)
