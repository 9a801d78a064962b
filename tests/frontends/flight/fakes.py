"""A `Service` whose methods the tests steer: they can wait, fail, slice, stream and finish out of order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import flight

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.service import Reply
from flightserve.errors import (
    Cancelled,
    DeadlineExceeded,
    FlightserveError,
    MethodFailed,
    NotFound,
    ResourceExhausted,
    SchemaMismatch,
)
from flightserve.fabric.memory.decode import validate_batch
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec, RequestMeta

INPUT = pa.schema([("a", pa.int64())])
# Sockets of the client library are closed by gRPC's own threads, later than the client's `close`.
CALL_TIMEOUT_S = 20.0


class FakeResult:
    """Rows that lie nowhere in particular."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @property
    def num_rows(self) -> int:
        return self._batch.num_rows

    def batch(self) -> pa.RecordBatch:
        return self._batch

    def ipc_stream(self) -> Any:
        raise NotImplementedError


class FakeLane:
    """Runs each request on a thread of the service."""

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self.closed = threading.Event()

    def submit(
        self, key: int, deployment: str, method: str, payload: Any, meta: RequestMeta, patient: bool = False
    ) -> None:
        if self.closed.is_set():
            raise Cancelled("the stream is closed")
        _, spec = self._service.method(deployment, method)
        validate_batch(payload, EdgeLimits())
        if spec.input_schema is not None and not payload.schema.equals(INPUT):
            raise SchemaMismatch(f"{deployment}.{method} takes {INPUT}, got {payload.schema}")
        self._service.metas.append(meta)
        self._service.pool.submit(self._run, key, self._service.functions[method], payload, meta)

    def hurry(self) -> None:
        pass

    def _run(self, key: int, function: Callable[..., Iterator[pa.RecordBatch]], batch: Any, meta: RequestMeta) -> None:
        service = self._service
        with service.lock:
            service.running += 1
            service.running_max = max(service.running_max, service.running)
        try:
            results = list(function(batch, meta, self))
            outcome = [
                Reply(key, FakeResult(result), None, index == len(results)) for index, result in enumerate(results, 1)
            ] or [Reply(key, None, None, True)]
        except FlightserveError as error:
            outcome = [Reply(key, None, error, True)]
        with service.lock:
            service.running -= 1
        for reply in outcome:
            self._replies.put(reply)

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        end_ns = monotonic_ns() + int((timeout_s or 3600.0) * NS_PER_S)
        while not self.closed.is_set():
            try:
                return self._replies.get(timeout=max(0.0, min(0.02, (end_ns - monotonic_ns()) / NS_PER_S)))
            except queue.Empty:
                if monotonic_ns() >= end_ns:
                    return None
        raise Cancelled("the stream is closed")

    def cancel(self, key: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self._service.lanes_open -= 1


class FakeService:
    """One deployment, `Fake`, whose methods are this class's `on_` functions."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(max_workers=8)
        self.metas: list[RequestMeta] = []
        self.metrics = Metrics()
        self.lanes_open = 0
        self.running = 0
        self.running_max = 0
        self.is_ready = True
        self._turn = 0
        serialized = INPUT.serialize().to_pybytes()
        self.functions = {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("on_")}
        specs = {name: MethodSpec(name) for name in self.functions}
        specs["typed"] = MethodSpec("typed", input_schema=serialized, output_schema=serialized)
        specs["takes"] = MethodSpec("takes", input_schema=serialized)
        specs["stream"] = MethodSpec("stream", row_aligned=False, streaming=True)
        specs["changing"] = MethodSpec("changing", row_aligned=False, streaming=True)
        self.spec = DeploymentSpec("Fake", "1", DeploymentOptions(), tuple(specs.values()))

    def on_echo(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        yield batch

    on_typed = on_takes = on_echo

    def on_stream(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    def on_sliced(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        yield batch.slice(0, 1)
        yield batch.slice(1)

    def on_changing(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        yield batch
        yield pa.record_batch({"other": ["x"]})

    def on_reversed(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        """Odd requests wait a little, so that even ones finish before them."""
        if batch["a"][0].as_py() % 2:
            threading.Event().wait(0.005)
        yield batch

    def on_waits(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        """Runs until the gate opens, the caller is gone or the deadline passes."""
        while not self.gate.wait(0.01):
            if lane.closed.is_set():
                raise Cancelled("the caller gave up")
            if monotonic_ns() > meta.deadline_ns:
                raise DeadlineExceeded("the deadline passed while the method ran")
        yield batch

    def on_fails(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        if batch.num_rows and batch["a"][0].as_py() < 0:
            raise MethodFailed("Fake.fails raised ValueError: below zero")
        yield batch

    def on_slow_fails(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        """As `fails`, and long enough for a stream to be read ahead meanwhile."""
        threading.Event().wait(0.005)
        yield from self.on_fails(batch, meta, lane)

    def on_full(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        raise ResourceExhausted("the queue of Fake is full; retry later")
        yield batch

    def on_bug(self, batch: Any, meta: RequestMeta, lane: FakeLane) -> Iterator[pa.RecordBatch]:
        raise FlightserveError("our bug")
        yield batch

    def deployments(self) -> list[DeploymentSpec]:
        return [self.spec]

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        spec = self.spec.method(method) if deployment == "Fake" else None
        if spec is None:
            raise NotFound(f"no method {deployment}.{method}; there is Fake")
        return self.spec, spec

    def ready(self) -> bool:
        return self.is_ready

    def open_lane(self) -> FakeLane:
        self.lanes_open += 1
        return FakeLane(self)

    def close(self) -> None:
        self.gate.set()
        self.pool.shutdown()


@contextmanager
def served(limits: EdgeLimits | None = None) -> Iterator[tuple[FakeService, FlightFrontend, str]]:
    """A fake service behind a real Flight frontend: (service, frontend, address)."""
    service = FakeService()
    frontend = FlightFrontend(service, "127.0.0.1", 0, limits or EdgeLimits(), service.metrics)  # type: ignore[arg-type]
    address = frontend.start()
    try:
        yield service, frontend, address
    finally:
        frontend.stop()
        service.close()


def path(method: str) -> Any:
    return flight.FlightDescriptor.for_path("Fake", method)


def options(**headers: str) -> Any:
    """Call options with `x_timeout_ms="5"` as the header `x-timeout-ms: 5`, and a timeout against hanging."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return flight.FlightCallOptions(headers=pairs, timeout=CALL_TIMEOUT_S)


class Exchange:
    """One DoExchange from the client's side, closed quietly at the end whatever became of it."""

    def __init__(self, client: Any, method: str, descriptor: Any = None, **headers: str) -> None:
        self.writer, self.reader = client.do_exchange(descriptor or path(method), options(**headers))
        self._begun = False

    def send(self, batch: pa.RecordBatch, metadata: bytes | None = None) -> None:
        if not self._begun:
            self.writer.begin(batch.schema)
            self._begun = True
        if metadata is None:
            self.writer.write_batch(batch)
        else:
            self.writer.write_with_metadata(batch, metadata)

    def call(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Send one batch and wait for its reply."""
        self.send(batch)
        return self.reader.read_chunk().data

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.writer.done_writing()
            self.writer.close()
        except (pa.ArrowException, OSError):
            self._begun = False


def rows(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"a": pa.array(values, pa.int64())})


def good_request_works(address: str) -> None:
    """A new client gets the answer to a good request."""
    with flight.connect(address) as client, Exchange(client, "echo") as exchange:
        assert exchange.call(rows(1, 2, 3)).equals(rows(1, 2, 3))
