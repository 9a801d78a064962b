"""Who calls: found by a call's head, before anything is said of what it asks for.

What a caller shows was mostly seen before, and then he is known at once. Where it was not, a hash has to be made, which
takes a tenth of a second: meanwhile his connection is not read, and of his body only what had come by then is held.
Whoever is refused is not read to the end either, unless little is left of what he sends; his connection goes on then.

Everything beside calls asks in `pages`, for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.core.access.rights import Principal
from flightserve.errors import FlightserveError, PermissionDenied, ResourceExhausted, TooLarge, Unauthenticated
from flightserve.frontends.edge import as_error, echoable_request_id
from flightserve.frontends.http.exchange import Exchange
from flightserve.frontends.http.exchange_states import ANSWERED
from flightserve.frontends.http.heads import KnownSender
from flightserve.frontends.visits import as_query
from flightserve.types import DeploymentSpec

if TYPE_CHECKING:
    from flightserve.frontends.http.calls import HttpCalls
    from flightserve.frontends.http.protocol import EdgeProtocol

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
AUTHORIZATION: Final = "authorization"
# Of a body whose request is refused by its head: more of it is not read.
REFUSED_BODY_BYTES_MAX: Final = 64 << 10
# So long it is not asked again who sends the same head.
ASKED_NS: Final = NS_PER_S
# What a caller hears about himself; then nobody tells him what else is wrong with his request.
REFUSALS: Final = (Unauthenticated, PermissionDenied, ResourceExhausted)


def check_said_once(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises Unauthenticated where a head says twice who calls: others on the way may have read the other one."""
    if sum(name == b"authorization" for name, _ in headers) > 1:
        raise Unauthenticated("the request has more than one Authorization header")


def enter(calls: HttpCalls, exchange: Exchange, sender: KnownSender | None) -> bool:
    """Whether it is known who calls. Otherwise that is being found out, and `HttpCalls.open` is called again, or he was
    refused. What is found is noted in `sender`, for those that say the same."""
    protocol = exchange.protocol
    authorization, subject = exchange.header(AUTHORIZATION), protocol.subject
    try:
        principal = calls.access.known(authorization, subject)
    except FlightserveError as error:
        refuse(exchange, error)
        return False
    exchange.principal = principal
    if principal is not None:
        exchange.caller = principal.caller
        if sender is not None:
            _note(sender, principal, exchange)
        return True
    protocol.unknown += 1
    protocol.flow.pause_reading()
    exchange.call = calls.later(_recognise(calls, exchange, authorization, subject))
    return False


def _note(sender: KnownSender, principal: Principal, exchange: Exchange) -> None:
    # What he may call is asked again as well: what it calls onwards may be other methods by now.
    sender.principal, sender.caller, sender.may_call, sender.what = principal, exchange.caller, False, ""
    sender.until_ns = exchange.arrived_ns + ASKED_NS


async def _recognise(calls: HttpCalls, exchange: Exchange, authorization: str | None, subject: str) -> None:
    """Find out who calls, and go on. Cancelled when he goes away."""
    protocol = exchange.protocol
    try:
        principal = await calls.access.recognised(authorization, subject)
    except asyncio.CancelledError:
        protocol.unknown -= 1
        raise
    except Exception as error:
        refuse(exchange, as_error(error, exchange.request_id))
    else:
        exchange.principal, exchange.caller = principal, principal.caller
        calls.open(protocol, exchange.route, exchange.headers, exchange)
    exchange.call = None
    protocol.unknown -= 1
    _go_on(protocol, exchange)


def _go_on(protocol: EdgeProtocol, exchange: Exchange) -> None:
    """It is known who calls, or that he may not (`exchange.error`)."""
    if exchange.state >= ANSWERED or protocol.discarding:
        return
    if exchange.error is None and exchange.size > exchange.size_max:
        exchange.error = TooLarge(f"the body has more than {exchange.size_max} bytes")
    if exchange is protocol.active and not exchange.is_read:
        if exchange.error is None and continues(exchange.headers):
            protocol.transport.write(CONTINUE)
        elif exchange.error is not None and (
            continues(exchange.headers) or exchange.size > exchange.size_max or is_hopeless(exchange)
        ):
            protocol.refuse(exchange.error)
            return
    # Others that were read may wait for their turn, or for their senders to be known.
    if protocol.flow.read_paused and not protocol.unknown and not protocol.waiting:
        protocol.flow.resume_reading()
    if exchange.is_read:
        protocol.start_waiting(exchange)


def is_hopeless(exchange: Exchange) -> bool:
    """Whether it was refused by its head, and more of its body is to come than is read of such."""
    error = exchange.error
    if not isinstance(error, REFUSALS) or isinstance(error, TooLarge):
        return False
    return int(exchange.headers.get(b"content-length", b"0")) > exchange.size_max


def continues(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client waits for a word before it sends the body."""
    return headers.get(b"expect", b"").lower() == b"100-continue"


def refuse(exchange: Exchange, error: FlightserveError) -> None:
    """He is told so once his body has been read; what is more than a little of it is not."""
    exchange.error = error
    exchange.request_id = exchange.request_id or echoable_request_id(exchange.header("x-request-id"))
    exchange.size_max = REFUSED_BODY_BYTES_MAX
    exchange.pieces.clear()


def begin(calls: HttpCalls, exchange: Exchange, what: str, deployment: DeploymentSpec, nbytes: int) -> None:
    """He begins a call, or a query (`sql`), of so many bytes. Raises ResourceExhausted, PermissionDenied,
    Unauthenticated."""
    principal = of(exchange)
    meta = exchange.meta = as_query(exchange.meta, principal, deployment, monotonic_ns())
    exchange.visit = calls.access.begin(principal, what, meta.request_id, meta.priority, nbytes, meta.tables)


def begin_call(calls: HttpCalls, exchange: Exchange, deployment: DeploymentSpec, sender: KnownSender | None) -> None:
    """`begin`, by a call's head. Where that does not say how many bytes follow, they come first (`HttpCalls.start`)."""
    if sender is not None and sender.what:
        meta = exchange.meta
        exchange.visit = calls.access.begin(of(exchange), sender.what, meta.request_id, meta.priority, sender.nbytes)
        return
    headers, (name, method) = exchange.headers, exchange.known
    if b"transfer-encoding" in headers:
        exchange.uncounted = deployment
        return
    what, nbytes = f"{name}.{method}", int(headers.get(b"content-length", b"0"))
    begin(calls, exchange, what, deployment, nbytes)
    if sender is not None:
        # A query has a list of its tables each time. What is none goes past all that, with the next call of this head.
        sender.what, sender.nbytes = what if exchange.meta.tables is None else "", nbytes


def of(exchange: Exchange) -> Principal:
    """Who makes it, once that is known."""
    principal = exchange.principal
    assert principal is not None
    return principal
