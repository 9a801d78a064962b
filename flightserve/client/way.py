"""What a way to an app can do: one over Flight, one over shared memory. The client does the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import pyarrow as pa

from flightserve.clock import NS_PER_S
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

# Requests of one stream that are sent before the first of them is answered, at most.
WINDOW: Final = 16
# For how long what is deployed is taken for what it was, where it takes a call to know; a name that is not there is
# asked for again after the shorter.
CATALOGUE_NS: Final = 30 * NS_PER_S
CATALOGUE_NS_MIN: Final = NS_PER_S


class Pipe(Protocol):
    """Requests for one method, sent by one thread, and their replies, received by another or the same: one reply for
    each, in order. A streaming method takes one request, and replies are its parts."""

    def send(self, batch: pa.RecordBatch, meta: RequestMeta) -> None:
        """One request. Blocks while its way takes nothing. What is wrong with it may be told by `receive`."""
        ...

    def finish(self) -> None:
        """Nothing more is sent."""
        ...

    def receive(self) -> pa.RecordBatch | None:
        """The next reply, None after the last. Raises the FlightserveError of the oldest request that failed."""
        ...

    def close(self) -> None:
        """Give up what is not answered. Idempotent; any thread: who is in `receive` gets Cancelled."""
        ...


class Way(Protocol):
    """Any thread."""

    # "memory" or "flight".
    kind: str

    @property
    def lost(self) -> bool:
        """Nothing goes this way any more; there may be another."""
        ...

    def deployments(self, age_ns: int = CATALOGUE_NS) -> Sequence[DeploymentSpec]:
        """What is deployed, as it was so long ago at most. Raises Unreachable."""
        ...

    def known(self, deployment: str) -> DeploymentSpec:
        """A deployment by its name. Raises NoSuchName."""
        ...

    def find(self, deployment: str, method: str) -> tuple[DeploymentSpec, MethodSpec]:
        """A method, as it is now or was a moment ago. Raises NoSuchName, and Unavailable while nothing is known."""
        ...

    def call(
        self,
        deployment: DeploymentSpec,
        method: MethodSpec,
        batch: pa.RecordBatch,
        meta: RequestMeta,
        opened: Callable[[Pipe], object] | None = None,
    ) -> pa.RecordBatch:
        """One request of a method that does not stream, to its end. `opened` is given what may give it up, where the
        way has such a thing."""
        ...

    def open(self, deployment: DeploymentSpec, method: MethodSpec, meta: RequestMeta, lone: bool = True) -> Pipe:
        """A pipe to the method. `meta` is of its first request; `lone`: there are no more, or all end together."""
        ...

    def close(self) -> None:
        """Idempotent. Calls that run end with Unavailable or Cancelled."""
        ...
