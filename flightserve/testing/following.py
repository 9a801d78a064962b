"""Calls with others that follow, in one process: what one gives is the next one's request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pyarrow as pa

from flightserve.core.routing.chaining import told_of_stage
from flightserve.errors import FlightserveError, from_kind, kind_of
from flightserve.fabric.memory.batches import alike
from flightserve.testing.engine import Emit, LocalRequest, LocalResult
from flightserve.types import MethodSpec

# Starts a call, by deployment and method, with rows and whom to tell; whether it is the last.
Start = Callable[[str, str, pa.RecordBatch, Emit, bool], LocalRequest]


class Following:
    """A request of a pipeline: `emit` tells of the call that runs, and the last one's answer is the caller's."""

    def __init__(self, calls: Sequence[tuple[str, str, MethodSpec]], start: Start, emit: Emit) -> None:
        self._calls = calls
        self._start = start
        self._emit = emit
        # The number of the call that runs, from 1 on, what it gave so far, and its request.
        self._stage = 1
        self._batches: list[pa.RecordBatch] = []
        self._current: LocalRequest | None = None
        self._lock = threading.Lock()
        self._given_up: FlightserveError | None = None
        self.done = False

    def begin(self, request: LocalRequest) -> None:
        """The call that runs now is this request."""
        with self._lock:
            self._current, given_up = request, self._given_up
        if given_up is not None:
            request.fail(given_up)

    def emit(self, result: LocalResult | None, error: FlightserveError | None, last: bool) -> None:
        """An event of the call that runs; any thread."""
        if error is not None:
            self._end(error)
        elif self._stage == len(self._calls):
            self.done = last
            self._emit(result, None, last)
        else:
            if result is not None:
                self._batches.append(result.batch())
            if last:
                self._go_on()

    def _go_on(self) -> None:
        try:
            batches = alike(self._batches, self._calls[self._stage - 1][2])
            rows = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
            deployment, method, _ = self._calls[self._stage]
            self._batches, self._stage = [], self._stage + 1
            last = self._stage == len(self._calls)
            self.begin(self._start(deployment, method, rows, self.emit, last))
        except FlightserveError as error:
            self._end(error)

    def _end(self, error: FlightserveError) -> None:
        deployment, method, _ = self._calls[self._stage - 1]
        where = f"{deployment}.{method}"
        before = ".".join(self._calls[self._stage - 2][:2])
        message = error.message.removeprefix(where).removeprefix(": ").removeprefix(" ")
        kind, message = told_of_stage(kind_of(error), message, self._stage, where, before)
        self.done = True
        self._emit(None, from_kind(kind, message, error.retry_after_ms), True)

    def fail(self, error: FlightserveError) -> None:
        """End it with an error; the call that runs is told."""
        with self._lock:
            self._given_up, current = error, self._current
        if current is not None:
            current.fail(error)
