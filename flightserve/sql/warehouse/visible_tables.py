"""Which of a warehouse's tables callers see: by their rights, a runner that knows no others.

Those who see all have the engine's own; others one for each set of tables, made when it is first needed. Nothing is
kept for those who see none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Final

from flightserve.core.access.rights import Rights
from flightserve.core.cache import LRUCache
from flightserve.errors import PermissionDenied
from flightserve.sql.warehouse.queries import Runner

# Sets of tables, each of which has a database of empty ones.
SETS_MAX: Final = 32
# Rights whose set is remembered.
RIGHTS_MAX: Final = 1024


class VisibleTables:
    """The runners over one state of the tables. Any thread."""

    def __init__(
        self, tables: Collection[str], whole: Runner, narrow: Callable[[frozenset[str]], Runner], name: str = ""
    ) -> None:
        """`narrow` makes the runner that knows these tables; `name` is the warehouse's, for errors."""
        self._tables = frozenset(tables)
        self._whole = whole
        self._narrow = narrow
        self._name = name
        self._lock = threading.Lock()
        self._seen: LRUCache[Rights, frozenset[str]] = LRUCache(RIGHTS_MAX)
        self._runners: LRUCache[frozenset[str], Runner] = LRUCache(SETS_MAX)

    def __repr__(self) -> str:
        return f"<VisibleTables of {len(self._tables)} tables, {len(self._runners)} sets of them>"

    def tables(self, rights: Rights) -> frozenset[str]:
        """Those that may be queried."""
        if rights.all_tables:
            return self._tables
        with self._lock:
            seen = self._seen.get(rights)
            if seen is None:
                seen = frozenset(filter(rights.may_query, self._tables))
                self._seen.put(rights, seen)
            return seen

    def runner(self, rights: Rights) -> Runner:
        """Who runs statements for these rights. Raises PermissionDenied for those who may query nothing."""
        seen = self.tables(rights)
        if len(seen) == len(self._tables):
            return self._whole
        if not seen:
            raise PermissionDenied(f"no table of {self._name or 'this warehouse'} may be queried by you")
        with self._lock:
            runner = self._runners.get(seen)
            if runner is None:
                runner = self._narrow(seen)
                self._runners.put(seen, runner)
            return runner
