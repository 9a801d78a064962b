"""Many requests of one stream: a thread takes them from the user's iterator and sends them, while the user reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pyarrow as pa

from flightserve import threads
from flightserve.client.way import Pipe
from flightserve.types import RequestMeta


class Fed:
    """Iterate over the replies, in order; `close` gives the rest up. What the iterator raises is raised when all that
    was sent before is answered."""

    def __init__(
        self, pipe: Pipe, batches: Iterator[pa.RecordBatch], meta: Callable[[], RequestMeta], window: int
    ) -> None:
        """So many requests are sent at most before the oldest of them is answered."""
        self._pipe = pipe
        self._batches = batches
        self._meta = meta
        self._places = threading.Semaphore(window)
        self._closed = False
        self._error: BaseException | None = None
        threads.start("flightserve-client-feed", self._feed, lambda: True)

    def _feed(self) -> None:
        try:
            while self._take_place():
                batch = next(self._batches, None)
                if batch is None or self._closed:
                    break
                self._pipe.send(batch, self._meta())
                del batch
        except BaseException as error:  # of the user's iterator: raised where the user reads
            self._error = error
        finally:
            self._pipe.finish()

    def _take_place(self) -> bool:
        self._places.acquire()
        return not self._closed

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        if self._closed:
            raise StopIteration
        try:
            reply = self._pipe.receive()
        except BaseException:
            self.close()
            raise
        if reply is not None:
            self._places.release()
            return reply
        self.close()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._pipe.close()
            self._places.release()

    def __del__(self) -> None:
        self.close()
