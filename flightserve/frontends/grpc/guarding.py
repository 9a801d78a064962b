"""Who calls: found when an RPC begins, before any of its messages is read.

Every handler but health's is guarded, so that none can forget to ask; and so is what has no handler, which answers
strangers as everything does. A guarded handler finds what it needs in its RPC's head (`head_of`). Where nobody has to
say who he is, nothing is guarded.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import grpc

from flightserve.clock import NEVER_NS, NS_PER_S, monotonic_ns
from flightserve.contracts.access import Access
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.core.tracing import TRACESTATE
from flightserve.errors import FlightserveError, Unauthenticated, Unimplemented
from flightserve.frontends.grpc.ending import abort

AUTHORIZATION: Final = "authorization"
CALL: Final = "Call"
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_SUBJECT: Final = "x509_subject"


class RpcHead(NamedTuple):
    """What an RPC, `rpc`, began with: its metadata, its gRPC deadline (absolute ns; `NEVER_NS` for none), and who
    calls."""

    metadata: dict[str, Any]
    deadline_ns: int
    principal: Principal = ANYBODY
    caller: str = ""
    rpc: str = CALL


_HEAD: ContextVar[RpcHead] = ContextVar("head")


def head_of(context: Any) -> RpcHead:
    """Of the RPC whose handler runs; read once."""
    return _HEAD.get(None) or read_head(context)


def read_head(context: Any) -> RpcHead:
    """Of an RPC of which it was not asked who calls."""
    return RpcHead(_by_name(context.invocation_metadata()), _deadline_ns(context))


def _by_name(said: Sequence[tuple[str, str | bytes]]) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(said)
    if TRACESTATE in metadata:
        # The one that may come in parts.
        metadata[TRACESTATE] = ",".join([_text(value) for name, value in said if name == TRACESTATE])
    return metadata


def _deadline_ns(context: Any) -> int:
    remaining_s = context.time_remaining()
    return NEVER_NS if remaining_s is None else monotonic_ns() + int(remaining_s * NS_PER_S)


class Guard:
    """Of one server whose callers have to say who they are."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def handlers(self, service: str, handlers: Mapping[str, Any]) -> grpc.GenericRpcHandler:
        """A service's handlers, guarded."""
        return grpc.method_handlers_generic_handler(
            service, {name: self._guarded(handler) for name, handler in handlers.items()}
        )

    def others(self) -> grpc.GenericRpcHandler:
        """For RPCs that no service has; the last one."""
        return _Others(self._guarded(grpc.stream_stream_rpc_method_handler(_unknown)))

    def _guarded(self, handler: Any) -> Any:
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        return handler._replace(**{kind: self._around(getattr(handler, kind))})

    def _around(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._enter(context)
                async for reply in behaviour(request, context):
                    yield reply

            return stream

        async def handle(request: Any, context: Any) -> Any:
            await self._enter(context)
            return await behaviour(request, context)

        return handle

    async def _enter(self, context: Any) -> None:
        # It is made anew each time it is asked for.
        metadata = context.invocation_metadata()
        try:
            said = self._said(context, metadata)
            principal = self._access.known(*said) or await self._access.recognised(*said)
        except FlightserveError as error:
            await abort(context, error)
            raise
        # Each RPC has a task of its own, and this is its context's.
        _HEAD.set(RpcHead(_by_name(metadata), _deadline_ns(context), principal, principal.caller))

    async def recognised(self, context: Any) -> Principal:
        """Who calls. Raises Unauthenticated, Unavailable."""
        return await self._access.recognised(*self._said(context, context.invocation_metadata()))

    @staticmethod
    def _said(context: Any, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[str | None, str]:
        """The authorization, and the subject of a certificate, which counts where there is none."""
        said = [value for name, value in metadata if name == AUTHORIZATION]
        if len(said) > 1:
            raise Unauthenticated("the call has more than one authorization")
        return (_text(said[0]), "") if said else (None, _subject(context))


class _Others(grpc.GenericRpcHandler):
    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: Any) -> Any:
        """Whatever is asked for."""
        return self._handler


async def _unknown(_: Any, context: Any) -> None:
    await abort(context, Unimplemented("no service here has such a method; see reflection"))


def _text(said: Any) -> str:
    """gRPC gives bytes that are no UTF-8 as they are."""
    return said.decode("latin-1") if isinstance(said, bytes) else str(said)


def _subject(context: Any) -> str:
    found = context.auth_context().get(_SUBJECT)
    return found[0].decode("utf-8", "replace") if found else ""
