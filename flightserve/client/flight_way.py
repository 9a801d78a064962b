"""The way over Arrow Flight, from anywhere: a call is a DoExchange, a stream of requests one DoExchange for all.

pyarrow's client blocks in C++, so what shall end early is cancelled from another thread or by its deadline. A client
says its deadline twice: to the app (`x-timeout-ms`), whose answer says where the time went, and to gRPC a little later,
in case the app says nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import pyarrow as pa
from pyarrow import flight

from flightserve.client.catalogue import find_deployment, find_method
from flightserve.client.flight_errors import FLIGHT_ERRORS, as_flightserve
from flightserve.client.retrying import Unreachable
from flightserve.client.way import CATALOGUE_NS, CATALOGUE_NS_MIN, Pipe
from flightserve.clock import NEVER_NS, NS_PER_MS, NS_PER_S, monotonic_ns
from flightserve.errors import Cancelled, DeadlineExceeded, FlightserveError, InvalidArgument
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

DEPLOYMENTS: Final = "flightserve.Deployments"
# How much later than the app gRPC ends a call.
GRACE_S: Final = 2.0
DISCOVERY_S: Final = 10.0
MAIN_READS_MAX: Final = 2


# Of which this process is a fork, if it is none of these itself.
_used_by: set[int] = set()


def _note_process() -> None:
    """gRPC does not go on in a process that was forked from one that used it: a call there never ends."""
    if _used_by and os.getpid() not in _used_by:
        raise RuntimeError(
            "this process was forked from one that called over Flight, and gRPC does not go on here; start it by "
            'multiprocessing.get_context("spawn"), or connect in the children alone'
        )
    _used_by.add(os.getpid())


class FlightWay:
    """See above (`way.Way`)."""

    kind = "flight"

    def __init__(self, address: str, headers: Mapping[str, str], options: Mapping[str, Any]) -> None:
        """Raises InvalidArgument for what is no address, and RuntimeError in a child of a process that had such a way;
        connects later."""
        _note_process()
        self.address = address
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        try:
            self._client = flight.FlightClient(address, **options)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidArgument(f"{address!r} is no address of Flight: {str(error).partition(chr(10))[0]}") from error
        self._catalogue: tuple[DeploymentSpec, ...] = ()
        self._found: dict[tuple[str, str], tuple[DeploymentSpec, MethodSpec]] = {}
        self._looked_ns = -CATALOGUE_NS
        self._looking = threading.Lock()
        self._closed = False
        self._pipes: weakref.WeakSet[FlightPipe] = weakref.WeakSet()
        # A set that one thread goes through does not change by another.
        self._piping = threading.Lock()
        # Reads for the main thread, which Ctrl-C would not reach in C++.
        self._reader = ThreadPoolExecutor(MAIN_READS_MAX, "flightserve-client-read")

    def __repr__(self) -> str:
        return f"<FlightWay to {self.address}>"

    @property
    def lost(self) -> bool:
        return self._closed

    # ---- what is deployed

    def deployments(self, age_ns: int = CATALOGUE_NS) -> Sequence[DeploymentSpec]:
        if self._looked_ns + age_ns <= monotonic_ns():
            with self._looking:
                if self._looked_ns + age_ns <= monotonic_ns():
                    self._catalogue = self._ask()
                    self._found = {}
                    self._looked_ns = monotonic_ns()
        return self._catalogue

    def known(self, deployment: str) -> DeploymentSpec:
        found = next((spec for spec in self.deployments() if spec.name == deployment), None)
        return found or find_deployment(self.deployments(CATALOGUE_NS_MIN), deployment)

    def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        self.deployments()
        found = self._found.get((deployment, method))
        if found is None:
            spec = self.known(deployment)
            if spec.method(method) is None:
                spec = find_deployment(self.deployments(CATALOGUE_NS_MIN), deployment)
            found = self._found[deployment, method] = spec, find_method(spec, method)
        return found

    def _ask(self) -> tuple[DeploymentSpec, ...]:
        options = flight.FlightCallOptions(headers=self._headers, timeout=DISCOVERY_S)
        try:
            results = list(self._client.do_action(flight.Action(DEPLOYMENTS, b""), options))
            return msgspec.json.decode(results[0].body, type=tuple[DeploymentSpec, ...])
        except FLIGHT_ERRORS as error:
            ours = as_flightserve(error)
            # Nothing but a question was asked.
            raise Unreachable(ours.message) if isinstance(ours, DeadlineExceeded) else ours from error
        except (IndexError, msgspec.MsgspecError) as error:
            raise FlightserveError(f"what {self.address} says of its deployments cannot be read") from error

    # ---- calls

    def call(
        self,
        deployment: DeploymentSpec,
        method: MethodSpec,
        batch: pa.RecordBatch,
        meta: RequestMeta,
        opened: Callable[[Pipe], object] | None = None,
    ) -> pa.RecordBatch:
        pipe = self.open(deployment, method, meta)
        if opened is not None:
            opened(pipe)
        try:
            pipe.send(batch, meta)
            pipe.finish()
            answer = pipe.receive()
            if answer is None or pipe.receive() is not None:
                raise FlightserveError(f"{deployment.name}.{method.name} did not give one reply to one request")
            return answer
        finally:
            pipe.close()

    def open(self, deployment: DeploymentSpec, method: MethodSpec, meta: RequestMeta, lone: bool = True) -> FlightPipe:
        descriptor = flight.FlightDescriptor.for_path(deployment.name, method.name)
        pipe = FlightPipe(self._client, descriptor, self._options(meta, lone), self._reader)
        with self._piping:
            self._pipes.add(pipe)
        if self._closed:
            pipe.close()
        return pipe

    def _options(self, meta: RequestMeta, lone: bool) -> Any:
        headers = [*self._headers, (b"x-request-id", meta.request_id.encode())]
        if meta.priority:
            headers.append((b"x-priority", b"%d" % meta.priority))
        if meta.key:
            headers.append((b"x-request-key", meta.key.encode()))
        if meta.traceparent:
            headers.append((b"traceparent", meta.traceparent.encode()))
        if meta.tracestate:
            headers.append((b"tracestate", meta.tracestate.encode()))
        timeout_s = None
        if meta.deadline_ns != NEVER_NS:
            left_ns = meta.deadline_ns - monotonic_ns()
            if left_ns <= 0:
                raise DeadlineExceeded("the deadline passed before the request was sent")
            headers.append((b"x-timeout-ms", b"%d" % -(-left_ns // NS_PER_MS)))
            timeout_s = left_ns / NS_PER_S + GRACE_S if lone else None
        return flight.FlightCallOptions(headers=headers, timeout=timeout_s)

    def close(self) -> None:
        self._closed = True
        # pyarrow's own `close` waits for what runs.
        with self._piping:
            pipes = list(self._pipes)
        for pipe in pipes:
            pipe.close()
        with contextlib.suppress(*FLIGHT_ERRORS):
            self._client.close()
        self._reader.shutdown(wait=False)


class FlightPipe:
    """One DoExchange (`way.Pipe`). gRPC ends the process where two threads write to a call at once, read from it, or
    end it while another does either: each half has a lock. Who ends it cancels it first, so that nobody stays in."""

    def __init__(self, client: Any, descriptor: Any, options: Any, pool: ThreadPoolExecutor) -> None:
        """`pool` reads for the main thread."""
        self._pool = pool
        try:
            self._writer, self._reader = client.do_exchange(descriptor, options)
        except FLIGHT_ERRORS as error:
            raise as_flightserve(error) from error
        # Taken in this order.
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._schema: pa.Schema | None = None
        self._fault: FlightserveError | None = None
        self._given_up = False
        self._ended = False

    def send(self, batch: pa.RecordBatch, meta: RequestMeta) -> None:
        with self._writing:
            if self._fault is not None or self._given_up or self._ended:
                return
            if self._schema is not None and not batch.schema.equals(self._schema):
                self._fault = InvalidArgument(
                    f"a stream over Flight has one schema: {_short(self._schema)}; then came {_short(batch.schema)}"
                )
                return
            # Why it fails is for the reader to say.
            with contextlib.suppress(*FLIGHT_ERRORS):
                if self._schema is None:
                    self._schema = batch.schema
                    self._writer.begin(batch.schema)
                self._writer.write_batch(batch)

    def finish(self) -> None:
        with self._writing, contextlib.suppress(*FLIGHT_ERRORS):
            if not self._given_up and not self._ended:
                self._writer.done_writing()

    def receive(self) -> pa.RecordBatch | None:
        if threading.current_thread() is not threading.main_thread():
            return self._receive()
        if self._given_up:
            # With its way perhaps, and the pool.
            raise Cancelled("the call was given up")
        try:
            return self._pool.submit(self._receive).result()
        except KeyboardInterrupt:
            self.close()
            raise

    def _receive(self) -> pa.RecordBatch | None:
        with self._reading:
            if self._given_up or self._ended:
                raise Cancelled("the call was given up")
            try:
                try:
                    return self._reader.read_chunk().data
                except StopIteration:
                    self._end()
            except FLIGHT_ERRORS as error:
                if self._given_up:
                    raise Cancelled("the call was given up") from None
                raise as_flightserve(error) from error
        if self._fault is not None:
            raise self._fault
        return None

    def _end(self) -> None:
        """Raises what the call ended with. Within `_reading`."""
        with self._writing:
            if not self._ended:
                self._ended = True
                # The status comes with the end of the other half.
                self._writer.close()

    def close(self) -> None:
        if self._ended or self._given_up:
            return
        self._given_up = True
        with contextlib.suppress(*FLIGHT_ERRORS):
            self._reader.cancel()
        with self._reading, contextlib.suppress(*FLIGHT_ERRORS):
            self._end()


def _short(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)[:512]
