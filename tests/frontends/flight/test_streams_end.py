"""What a stream that failed leaves behind."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pyarrow as pa
import pytest

from flightserve.clock import NEVER_NS
from flightserve.config import EdgeLimits
from flightserve.contracts.service import Reply
from flightserve.errors import MethodFailed
from flightserve.frontends.flight.sinks import NoSink
from flightserve.frontends.flight.streams import RequestStream, Target
from flightserve.types import MethodSpec, RequestMeta

ROWS = pa.record_batch({"a": [1]})


class Chunk:
    data = ROWS
    app_metadata = None


class Rows:
    """A result whose lease ends with it."""

    num_rows = 1

    def batch(self) -> pa.RecordBatch:
        return ROWS


class OutOfOrder:
    """A lane on which the second of two requests fails, before the first one is answered."""

    def __init__(self, result: Rows) -> None:
        self._both = threading.Event()
        self._replies = [Reply(2, None, MethodFailed("of the second"), True), Reply(1, result, None, True)]

    def submit(self, key: int, *_: Any, **__: Any) -> None:
        if key == 2:
            self._both.set()

    def hurry(self) -> None:
        pass

    def receive(self, timeout_s: float) -> Reply | None:
        assert self._both.wait(20)
        return self._replies.pop(0) if self._replies else None

    def close(self) -> None:
        pass


class Reader:
    def __init__(self) -> None:
        self._chunks = [Chunk(), Chunk()]

    def read_chunk(self) -> Chunk:
        if not self._chunks:
            raise StopIteration
        return self._chunks.pop()


def test_rows_do_not_wait_for_a_collection_of_garbage() -> None:
    result = Rows()
    seen = weakref.ref(result)
    target = Target("D", MethodSpec("m"), NEVER_NS, RequestMeta())
    nothing: Any = lambda *_: False  # noqa: E731
    lane: Any = OutOfOrder(result)
    stream = RequestStream(Reader(), NoSink(), lane, target, EdgeLimits(), nothing, nothing, nothing, nothing)
    stream._ahead.allowed = 2
    gc.disable()
    try:
        del result
        with pytest.raises(MethodFailed, match="of the second") as caught:
            stream.run()
        del caught, stream, lane
        assert seen() is None
    finally:
        gc.enable()
