"""Daft in this process alone, where there is no Ray: tests, `LocalService`."""

from __future__ import annotations

import queue
import threading
from typing import Any, Final

import pyarrow as pa

from flightserve import threads
from flightserve.sql.daft.library import daft

# Results that wait for their reader.
WAITING_MAX: Final = 1
LOOK_S: Final = 0.05


class LocalQuery:
    """One query. Daft gives its rows on a thread of their own, which cannot be interrupted: given up, it ends with the
    next rows."""

    def __init__(self, rows: Any) -> None:
        daft()
        from daft.runners.native_runner import NativeRunner

        self._results = NativeRunner().run_iter(rows._builder)
        self._queue: queue.Queue[pa.Table | BaseException | None] = queue.Queue(WAITING_MAX)
        self._given_up = threading.Event()
        threads.start("sql-daft", self._run, lambda: True)

    def __repr__(self) -> str:
        return f"<LocalQuery{', given up' * self._given_up.is_set()}>"

    def next(self, timeout_s: float) -> pa.Table | None:
        """The next rows; None at the end. Raises TimeoutError where there are none yet, and what went wrong."""
        try:
            found = self._queue.get(timeout=timeout_s)
        except queue.Empty as error:
            raise TimeoutError from error
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Give up what is left of it."""
        self._given_up.set()

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for result in self._results:
                if not self._put(result.partition().to_arrow()):
                    break
        except Exception as error:
            last = error
        finally:
            self._results.close()
            self._put(last)

    def _put(self, found: pa.Table | BaseException | None) -> bool:
        """False where nobody waits any more."""
        while not self._given_up.is_set():
            try:
                self._queue.put(found, timeout=LOOK_S)
                return True
            except queue.Full:
                continue
        return False
