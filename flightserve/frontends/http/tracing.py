"""What a trace says of an HTTP call."""

from __future__ import annotations

from typing import Final

from flightserve.frontends.edge import NO_META, meta_of_refused
from flightserve.frontends.http import sql as http_sql
from flightserve.frontends.http.events import ByUrl
from flightserve.frontends.http.exchange import UNKNOWN, Exchange
from flightserve.frontends.kserve.http_calls import InferExchange
from flightserve.tracing.spans import CallSpans, HttpAsked

INFER_ROUTE: Final = "/v2/models/{model}/infer"
_GOOD: Final = 200


def tell_ended(spans: CallSpans, exchange: Exchange, code: int) -> None:
    """A call has ended."""
    meta = exchange.meta
    if meta is NO_META:
        meta = meta_of_refused(exchange.header)
    if meta.traceparent:
        spans.http(meta, exchange.known, code, exchange.arrived_ns, _asked(exchange))


def _asked(exchange: Exchange) -> HttpAsked:
    status = exchange.say_error(exchange.error)[0] if exchange.error is not None else _GOOD
    if exchange.head_only:
        return HttpAsked("HEAD", _route(exchange), status)
    by_url = isinstance(exchange.route, (ByUrl, http_sql.QueryByUrl))
    return HttpAsked("GET" if by_url else "POST", _route(exchange), status)


def _route(exchange: Exchange) -> str:
    """The path as a pattern: of what there is not, a caller's text would be in it."""
    if isinstance(exchange, InferExchange):
        return INFER_ROUTE
    if isinstance(exchange.route, http_sql.QueryRoute):
        return http_sql.PATH.decode()
    return "/v1/{deployment}/{method}" if exchange.known is UNKNOWN else "/v1/{}/{}".format(*exchange.known)
