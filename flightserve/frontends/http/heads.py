"""Heads of calls that came before, word for word.

A client says the same head with each of its calls, but for the length of the body, and clients of one library say the
same as each other. What a head asks, and whether it may, follows from its bytes and from how the frontend was started;
so it is parsed and judged once. A call that begins as one before, and came with its body in one piece, goes past the
parser (`EdgeProtocol.data_received`): from its bytes to its values 6.7 us instead of 10.3. What may change meanwhile is
looked up anew for each call: the method, its options, the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from flightserve.core.access.rights import Principal

if TYPE_CHECKING:
    from flightserve.frontends.http.exchange import CallRoute
    from flightserve.frontends.kserve.http_calls import InferRoute

HEADS_MAX: Final = 1024
HEAD_BYTES_MAX: Final = 2048
# Whoever sends one of these says something else each time, or waits for an answer before the body.
_NOT_AGAIN: Final = frozenset((b"x-request-id", b"traceparent", b"expect", b"upgrade", b"transfer-encoding"))


class KnownSender:
    """Who was found to send a head, by what it says alone, and whether he may call what it names: good until `until_ns`
    (monotonic), when it is asked again. That he still is who he was, `Access.begin` says of each call: of `what`, where
    that is no query, and of `nbytes`."""

    __slots__ = ("caller", "may_call", "nbytes", "principal", "until_ns", "what")

    def __init__(self) -> None:
        self.principal: Principal | None = None
        self.caller = ""
        self.may_call = False
        self.what = ""
        self.nbytes = 0
        self.until_ns = 0


class KnownHead(NamedTuple):
    """A head that was judged, and the length that it declares. `cors` are lines that answers to it need. `sender` is
    there where it says who sends it."""

    url: bytes
    route: CallRoute | InferRoute
    headers: dict[bytes, bytes]
    cors: bytes
    length: int
    sender: KnownSender | None = None


class KnownHeads:
    """Of one frontend. Used on the event loop only."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, data: bytes) -> KnownHead | None:
        """What is known of a request that begins with this piece, where it is the whole request and nothing else."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        return known if known is not None and len(data) == end + known.length else None

    def learn(
        self, data: bytes, url: bytes, route: CallRoute | InferRoute, headers: Mapping[bytes, bytes], cors: bytes
    ) -> None:
        """A POST that began with this piece was taken whole, and its connection goes on. It is remembered where the
        piece held nothing else, and where its head surely ends where `find` looks: bare line feeds are no line ends
        there."""
        end = data.find(b"\r\n\r\n") + 4
        length = int(headers.get(b"content-length", 0))
        if not 0 < length == len(data) - end or end > HEAD_BYTES_MAX or not _NOT_AGAIN.isdisjoint(headers):
            return
        head = data[:end]
        if not head.startswith(b"POST ") or head.count(b"\n") != head.count(b"\r\n"):
            return
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        self._known[head] = KnownHead(
            url, route, dict(headers), cors, length, KnownSender() if b"authorization" in headers else None
        )
