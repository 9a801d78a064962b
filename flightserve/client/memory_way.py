"""The way by the data plane's memory, for code that blocks: rows are written once into shared memory, and answers are
mapped where the replica wrote them.

A thread of its own has the event loop that looks after the connections; calls are sent and received by the threads
that make them, over lanes (`caller.lane`), as Flight's are in a frontend.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa

from flightserve import threads
from flightserve.caller.lane import BlockingLane
from flightserve.client.finding import FoundApp
from flightserve.client.peer import READY_S, ClientPeer
from flightserve.client.retrying import Unreachable
from flightserve.client.way import Pipe
from flightserve.contracts.service import Reply
from flightserve.errors import Cancelled, FlightserveError
from flightserve.fabric.memory.batches import alike
from flightserve.loops import told
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

# Lanes that wait for the next call: as many threads as call at once find one.
LANES_IDLE_MAX: Final = 64
POLL_S: Final = 0.1
STOP_S: Final = 5.0


class MemoryWay:
    """See above (`way.Way`)."""

    kind = "memory"

    def __init__(self, app: FoundApp) -> None:
        """Connects. Raises Unreachable where that takes too long."""
        self._peer = ClientPeer(app)
        self._changed = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(told)
        self._closed = False
        self._closing = threading.Lock()
        self._lanes: collections.deque[BlockingLane] = collections.deque()
        self._keys = itertools.count(1)
        self._loop.call_soon(self._peer.start, self._loop, self._changed.set)
        self._thread = threads.start(
            "flightserve-client", self._loop.run_forever, lambda: self._closed, lambda why: self._peer.end()
        )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise

    def _wait_ready(self) -> None:
        until = self._loop.time() + READY_S
        while not self._peer.is_ready:
            left_s = until - self._loop.time()
            if left_s <= 0 or self._peer.lost:
                raise Unreachable(f"app {self._peer.app.app_id}: {self._peer.refusal}")
            # Routers greet without a word to us.
            self._changed.wait(min(left_s, 0.01))
            self._changed.clear()

    def __repr__(self) -> str:
        return f"<MemoryWay to app {self._peer.app.app_id}>"

    @property
    def lost(self) -> bool:
        return self._peer.lost

    def deployments(self, age_ns: int = 0) -> Sequence[DeploymentSpec]:
        return self._peer.deployments()

    def known(self, deployment: str) -> DeploymentSpec:
        return self._peer.known(deployment)

    def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        return self._peer.find(deployment, method)

    # ---- calls

    def call(
        self,
        deployment: DeploymentSpec,
        method: MethodSpec,
        batch: pa.RecordBatch,
        meta: RequestMeta,
        opened: Callable[[Pipe], object] | None = None,
    ) -> pa.RecordBatch:
        self._peer.check()
        self._peer.check_size(batch)
        try:
            lane = self._lanes.pop()
        except IndexError:
            lane = self._peer.client.open_lane()
        try:
            lane.submit(next(self._keys), deployment.name, method.name, batch, meta)
            answer = self._receive(lane, method)
        except BaseException:
            # Replies to this call may still come.
            lane.close()
            raise
        if len(self._lanes) < LANES_IDLE_MAX and not self._closed:
            self._lanes.append(lane)
        else:
            lane.close()
        return answer

    def _receive(self, lane: BlockingLane, method: MethodSpec) -> pa.RecordBatch:
        reply = lane.receive()
        assert reply is not None
        if reply.last and reply.result is not None:
            return self._peer.rows_of(reply.result)
        parts: list[pa.RecordBatch] = []
        while True:
            assert reply is not None
            if reply.error is not None:
                raise reply.error
            if reply.result is not None:
                parts.append(self._peer.rows_of(reply.result))
            if reply.last:
                return joined_batch(parts, method)
            reply = lane.receive()

    def open(self, deployment: DeploymentSpec, method: MethodSpec, meta: RequestMeta, lone: bool = True) -> MemoryPipe:
        self._peer.check()
        return MemoryPipe(self._peer, deployment, method)

    # ---- life

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        while self._lanes:
            self._lanes.pop().close()
        self._loop.call_soon_threadsafe(self._peer.end)
        self._peer.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_S)
            if not self._thread.is_alive():
                self._loop.close()


class MemoryPipe:
    """Requests on a lane of their own (`way.Pipe`)."""

    def __init__(self, peer: ClientPeer, deployment: DeploymentSpec, method: MethodSpec) -> None:
        self._peer = peer
        self._target = (deployment.name, method.name)
        self._method = method
        self._lane = peer.client.open_lane()
        self._keys = itertools.count(1)
        # Of what was sent and is not answered, in order, and the replies that came before their turn.
        self._order: collections.deque[int] = collections.deque()
        self._held: dict[int, collections.deque[Reply]] = {}
        self._changed = threading.Condition()
        self._finished = False
        self._closed = False

    def send(self, batch: pa.RecordBatch, meta: RequestMeta) -> None:
        key = next(self._keys)
        with self._changed:
            if self._closed:
                return
            self._order.append(key)
            self._changed.notify_all()
        try:
            self._peer.check_size(batch)
            self._lane.submit(key, *self._target, batch, meta)
        except FlightserveError as error:
            self._lane.deliver(key, None, error, True)

    def finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def receive(self) -> pa.RecordBatch | None:
        parts: list[pa.RecordBatch] = []
        while True:
            reply = self._next()
            if reply is None:
                return None
            if reply.last:
                self._order.popleft()
            if reply.error is not None:
                raise reply.error
            if reply.result is not None:
                parts.append(self._peer.rows_of(reply.result))
            if parts and self._method.streaming:
                return parts.pop()
            if reply.last and not self._method.streaming:
                return joined_batch(parts, self._method)

    def _next(self) -> Reply | None:
        """The next reply to the oldest request; None where no more is to come. Raises Cancelled."""
        while True:
            with self._changed:
                while not self._order and not self._finished and not self._closed:
                    self._changed.wait()
                if self._closed:
                    raise Cancelled("the call was given up")
                if not self._order:
                    return None
                held = self._held.get(self._order[0])
            if held:
                return held.popleft()
            reply = self._lane.receive(POLL_S)
            if reply is None:
                continue
            if reply.key == self._order[0]:
                return reply
            self._held.setdefault(reply.key, collections.deque()).append(reply)

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._lane.close()


def joined_batch(parts: list[pa.RecordBatch], method: MethodSpec) -> pa.RecordBatch:
    """The slices of one answer as one batch. Raises MethodFailed where they have other columns than each other."""
    if not parts:
        raise FlightserveError(f"{method.name} gave no reply")
    parts = alike(parts, method)
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)
