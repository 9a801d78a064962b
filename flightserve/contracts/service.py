"""What a frontend may ask of the tiers behind it, as protocols.

`Service` is all a frontend knows: never a router, never a socket. The data plane implements it
(`caller.client`); `flightserve.testing.LocalService` implements it in one process, for tests of frontends and
for users' own unit tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import msgspec
import pyarrow as pa

from flightserve.errors import FlightserveError
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta
from flightserve.wire.frames import Region


@dataclass(frozen=True, slots=True)
class EncodedStream:
    """A client's own Arrow IPC stream, as the pieces it arrived in. Copied once, into shared memory, and
    validated there."""

    pieces: Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Passed:
    """A valid batch whose rows lie in a region that this process was given by a router, from `row` on; the region has
    `rows` in all. That router can be told where they lie; for another they are written again. `lease` keeps the region,
    which the batch may be a copy of."""

    batch: pa.RecordBatch
    region: Region
    row: int
    rows: int
    router_id: int
    lease: object


Payload: TypeAlias = pa.RecordBatch | EncodedStream | Passed


class Result(Protocol):
    """A piece of reply: rows that lie in shared memory until the last Arrow buffer over them dies."""

    @property
    def num_rows(self) -> int: ...
    def batch(self) -> pa.RecordBatch:
        """The rows, zero-copy."""
        ...

    def ipc_stream(self) -> memoryview | pa.Buffer:
        """The rows as one complete Arrow IPC stream: the region itself where this result is all of it."""
        ...


class AsyncCall(Protocol):
    """One request in flight, used from the event loop. Iterate to get its results in row order; a unary
    row-aligned request yields one or, when it was sliced over replicas, several."""

    def __aiter__(self) -> AsyncCall: ...
    async def __anext__(self) -> Result: ...
    def when_there(self, told: Callable[[], None]) -> bool:
        """Have `told()` called on the loop, once, as soon as iterating would not wait: a task for each request costs
        more than many of them take. False where nobody is told; then iterate. `told` does not raise."""
        ...

    def only(self) -> Result | None:
        """The whole reply, where it is there and is one result; it is iterated over then. None: iterate."""
        ...

    def cancel(self) -> None:
        """Give up: takes the request out of queues and tells a running method. Idempotent."""
        ...


class Reply(msgspec.Struct, frozen=True):
    """One event on a lane: `result` (with `last` false when more follow), or `error`. `key` is the sender's."""

    key: int
    result: Result | None
    error: FlightserveError | None
    last: bool


class Lane(Protocol):
    """A pipelined stream of requests for blocking threads: one thread submits while another receives.

    Replies arrive as requests finish, in any order across keys; all results of one key are in row order.
    """

    def submit(
        self,
        key: int,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
        patient: bool = False,
    ) -> None:
        """Send one request. `then` are the calls that follow, each as (deployment, method): what one of them gives is
        the next one's request, and the last one's is the reply. One that is `patient`, and small, waits for others to
        travel with: until one that is not, `hurry`, or a reply. Blocks while shared memory is full, until the
        request's deadline. Where the request cannot be sent, raises a FlightserveError (then no reply follows for the
        key) or delivers it as the key's reply."""
        ...

    def submit_parts(
        self,
        key: int,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        then: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send requests whose rows lie one after another in `batch`, which is valid: written once, one region. Each
        part is (rows, meta); their keys follow that of the first. Otherwise as `submit`. Several are for row-aligned
        methods only."""
        ...

    def hurry(self) -> None:
        """Send what waits."""
        ...

    def receive(self, timeout_s: float | None = None) -> Reply | None:
        """The next reply, or None when `timeout_s` passed."""
        ...

    def cancel(self, key: int) -> None: ...
    def close(self) -> None:
        """Cancel what is in flight and give the lane back."""
        ...


# Called on the event loop with (index into parts, result or error, last). A batch of row requests that ran
# together shares one result region: `result.batch()` of each is a slice of the same decoded batch.
PartCallback = Callable[[int, Result | None, FlightserveError | None, bool], None]


class Service(Protocol):
    """The tiers, as a frontend sees them. Methods are called on the frontend's event loop unless they say
    otherwise."""

    def deployments(self) -> Sequence[DeploymentSpec]:
        """What is deployed now, by name. Any thread."""
        ...

    def method(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """Look one up; raises NotFound that names what is known. Any thread."""
        ...

    def ready(self) -> bool:
        """True when every deployment has a replica that answers and nothing is draining. Any thread."""
        ...

    def call(
        self,
        deployment: str,
        method: str,
        payload: Payload,
        meta: RequestMeta,
        then: Sequence[tuple[str, str]] = (),
    ) -> AsyncCall:
        """Start one request. `then` are the calls that follow (`Lane.submit`). Errors come out of the iteration."""
        ...

    def call_parts(
        self,
        deployment: str,
        method: str,
        batch: pa.RecordBatch | Passed,
        parts: Sequence[tuple[int, RequestMeta]],
        done: PartCallback,
        then: Sequence[tuple[str, str]] = (),
    ) -> Callable[[int], None]:
        """Start len(parts) requests whose rows lie one after another in `batch`: written once, one region.
        Each part is (rows, meta). For row-aligned methods only. What it returns gives up the part of that
        index; `done` may still be told that it was cancelled."""
        ...

    def open_lane(self) -> Lane:
        """A lane for a blocking stream. Any thread."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Counts of this process's side of the data plane. Any thread."""
        ...
