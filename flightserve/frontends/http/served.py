"""What connections need of the frontend that they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flightserve.config import EdgeLimits
from flightserve.frontends.http.exchange import CallRoute, Exchange
from flightserve.frontends.http.heads import KnownHeads, KnownSender
from flightserve.frontends.http.origin_policy import OriginPolicy

if TYPE_CHECKING:
    from flightserve.frontends.http.protocol import EdgeProtocol
    from flightserve.frontends.kserve.http_calls import InferRoute


class Edge(Protocol):
    """What a connection needs of its frontend."""

    limits: EdgeLimits
    origin_policy: OriginPolicy
    heads: KnownHeads
    draining: bool
    standing_lines: bytes
    held_bytes: int
    held_bytes_max: int
    # Whether callers have to say who they are.
    closed: bool

    def route_of(self, url: bytes) -> CallRoute | InferRoute | None:
        """The call that this URL names, or None."""
        ...

    def query_of(self, url: bytes, method: bytes, headers: dict[bytes, bytes]) -> CallRoute | None:
        """The query that a request of another method than POST asks, or None. Raises PermissionDenied."""
        ...

    def open(
        self,
        protocol: EdgeProtocol,
        target: CallRoute | InferRoute,
        headers: dict[bytes, bytes],
        exchange: Exchange | None = None,
        sender: KnownSender | None = None,
    ) -> Exchange:
        """A call's head has arrived."""
        ...

    def start(self, exchange: Exchange) -> None:
        """A call has arrived whole and it is its turn."""
        ...
