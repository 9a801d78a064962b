"""Tags of results: a short text that stays the same as long as a statement's result does, for whoever has that already.

A tag is made of what the cache's key is made of (`result_cache.scope_of`): statement, parameters, the versions of the
tables that it reads. It outlives the process, so the data of tables that came as Arrow are in it, and the versions of
what makes the result. Where tables are read from their files by each query, the files count as they are now: looked at
before they are read, so that what is written meanwhile makes another tag the next time.
"""

from __future__ import annotations

import hashlib
import io
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa

from flightserve.errors import ConfigError
from flightserve.fabric.memory.sizes import nbytes_of
from flightserve.sql.sources import Source
from flightserve.sql.warehouse.queries import Prepared
from flightserve.sql.warehouse.refresh import Generation
from flightserve.sql.warehouse.result_cache import rows_digest

# Arrow data of more bytes would hold up whoever asks first; there are no tags for it.
HASHED_BYTES_MAX: Final = 256 << 20
TAG_BYTES: Final = 12


class Tags:
    """Makes the tags of one replica. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What stands for Arrow tables' data, by name, of the generations that are open.
        self._digests: weakref.WeakKeyDictionary[Generation, dict[str, str]] = weakref.WeakKeyDictionary()

    def tag_of(self, tables: Generation, prepared: Prepared, columns: Sequence[pa.Array], count: int) -> str:
        """The tag of the statement's result for these parameters, `count` rows of them; "" where it may differ from one
        time to the next."""
        scope = prepared.scope
        if scope is None:
            return ""
        engine = tables.engine
        names = {name for name, _ in scope.tables}
        sources = [source for source in engine.sources if source.name in names]
        if len(sources) < len(names):
            # A view of the init file's is of any of them.
            sources = list(engine.sources)
        stamps = [self._stamp(tables, source) for source in sources]
        if not all(stamps):
            return ""
        made_by = (duckdb.__version__, pa.__version__, engine.options.init, engine.options.csv)
        said = repr((scope.statement, sorted(names), sorted(stamps), count, rows_digest(columns), made_by))
        return hashlib.blake2b(said.encode(), digest_size=TAG_BYTES).hexdigest()

    def _stamp(self, tables: Generation, source: Source) -> str:
        """What stands for the table as a query reads it now; "" where that is not known."""
        name, data = source.name, source.arrow
        if isinstance(data, pa.Table):
            digest = self._digest(tables, name, data)
            return digest and f"{name} {digest}"
        if data is not None and not source.has_files:
            return ""
        try:
            # Some are read as they were when they were opened, others as they are now.
            now = source.fingerprint() if tables.engine.options.load == "view" else ""
        except ConfigError:
            return ""
        return f"{name} {tables.versions[name]} {now}"

    def _digest(self, tables: Generation, name: str, table: pa.Table) -> str:
        if nbytes_of(table) > HASHED_BYTES_MAX:
            return ""
        with self._lock:
            known = self._digests.setdefault(tables, {})
            if name not in known:
                known[name] = _digest(table)
            return known[name]


class _Hashed(io.RawIOBase):
    """A file that keeps but the hash of what is written."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=TAG_BYTES)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def _digest(table: pa.Table) -> str:
    file = _Hashed()
    with pa.PythonFile(file, mode="w") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return file.hash.hexdigest()
