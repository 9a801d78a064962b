"""The ZeroMQ frontend: one ROUTER socket, read and written from the event loop.

The socket's descriptor is watched directly (`loop.add_reader`); `zmq.asyncio` makes a future for every receive and
send, which at these rates costs more than the calls. The descriptor is edge-triggered: it says that something may
have changed and then nothing until the socket was drained, so every send is followed by another look, and reading
goes on until EAGAIN, in turns of `TURN_MESSAGES` so that other frontends on the loop get theirs.

Bounds. A peer has at most `PEER_IN_FLIGHT_MAX` requests in flight, all peers `limits.connections_max`; more are
answered RESOURCE_EXHAUSTED. Replies never wait for a peer that does not read: at the socket's high-water mark they
are dropped and counted. Large replies are handed to libzmq without a copy, hence hold their lease until they are
sent; a peer may hold `limits.body_bytes_max` of them, beyond that its replies are dropped too. Heartbeats end
connections that are not read from (ZMTP 1 peers have none; TCP's keepalive must do). A frame above the limit closes its
connection (libzmq's `MAXMSGSIZE`): there is no reply, because the message was never received. A ROUTER is not told when
a peer leaves, so a request whose client is gone runs until it is done or its deadline passes.

Each message says who asks, in its header (`authorization`): one socket may be several callers'. While that is found out
the message counts as a request in flight.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import socket
from collections.abc import Awaitable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import zmq

from flightserve import threads
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import EdgeLimits
from flightserve.contracts.access import OPEN, Access
from flightserve.contracts.service import EncodedStream, Result, Service
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.errors import OK, Cancelled, ConfigError, ResourceExhausted, Unavailable
from flightserve.frontends import edge
from flightserve.frontends.edge_watch import Ledger, Watched
from flightserve.frontends.replies import collect
from flightserve.frontends.seen import request_for
from flightserve.frontends.visits import as_query
from flightserve.frontends.zmq import messages as zmq_messages
from flightserve.frontends.zmq.begun import Awaited, CountedCall, LetIn, ZmqRequest
from flightserve.frontends.zmq.curve import CurveGate, CurveKeys, arm
from flightserve.frontends.zmq.unsent import UnsentReplies
from flightserve.loops import Every, beside, vital
from flightserve.metrics import Metrics
from flightserve.tracing.spans import RpcAsked

log = logging.getLogger(__name__)

TURN_MESSAGES: Final = 64
PEER_IN_FLIGHT_MAX: Final = 1024
QUEUED_MESSAGES_MAX: Final = 1000
READ_AHEAD_MESSAGES: Final = 64
LINGER_MS: Final = 1000
# How far a frame may be over the body limit and still get a typed reply.
OVERSIZE_BYTES: Final = 64 << 10
COPY_BELOW_BYTES: Final = 64 << 10
HEARTBEAT_MS: Final = 15_000
# How often it is looked who may connect.
LOOK_S: Final = 1.0
# As numbers and part by part: `send_multipart` and `recv_multipart` with the names take 9 us a request and reply, this
# takes 4.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_ASKED: Final = RpcAsked("zmq", "flightserve", "call")


class ZmqFrontend:
    """`[header JSON, Arrow IPC stream]` both ways on a ROUTER socket. Lives on the loop it is started on."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        limits: EdgeLimits,
        metrics: Metrics,
        access: Access = OPEN,
        keys: str | Path | None = None,
    ) -> None:
        """`keys` is the folder of those for CURVE; without one nothing is encrypted. Raises ConfigError where they
        cannot be read."""
        self._access = access
        self._keys = CurveKeys(str(keys)) if keys is not None else None
        if self._keys is not None:
            self._keys.read()
        self._gate: CurveGate | None = None
        self._service = service
        self._address = (host, port)
        self._limits = limits
        self._metrics = metrics
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._look_due = False
        self._draining = self._closing = False
        self._serving: set[asyncio.Task[None]] = set()
        # Those that are answered without a task, when what they wait for is there: by what is told of it.
        self._awaited: dict[int, Awaited] = {}
        self._awaited_last = 0
        self._in_flight: collections.Counter[bytes] = collections.Counter()
        self._unsent = UnsentReplies(limits.body_bytes_max)
        self._ledger = Ledger()
        self._bound = 0
        self.dropped = 0

    # ---- life

    async def start(self) -> str:
        """Listen: "tcp://host:port". Raises Unavailable where the address cannot be had."""
        host, port = self._address
        self._loop = asyncio.get_running_loop()
        # libzmq binds to numbers only.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        resolved = await self._loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        number = resolved[0][4][0]
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._configure(self._socket)
        if self._keys is not None:
            self._guard(self._context, self._socket, self._keys)
        try:
            self._socket.bind(f"tcp://[{number}]:{port}" if ":" in str(number) else f"tcp://{number}:{port}")
        except zmq.ZMQError as error:
            self._close()
            raise Unavailable(f"cannot listen on {host}:{port}: {error}") from error
        self._loop.add_reader(self._socket.fileno(), self._readable)
        self._loop.call_soon(self._readable)
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        self._bound = int(bound)
        return f"tcp://{f'[{host}]' if ':' in host else host}:{bound}"

    def _guard(self, context: zmq.Context[zmq.Socket[bytes]], sock: zmq.Socket[bytes], keys: CurveKeys) -> None:
        assert self._loop is not None
        arm(sock, keys)
        gate = self._gate = CurveGate(context, keys)
        self._asked = vital(self._loop, gate.run(), "ZeroMQ's gate", lambda: self._closing)
        self._looking = Every(self._loop, LOOK_S, self._look_at_keys, "looking at ZeroMQ's keys")

    def _look_at_keys(self) -> None:
        assert self._keys is not None
        assert self._gate is not None
        try:
            if self._keys.look():
                self._gate.admit()
                log.info("other clients may connect to ZeroMQ: %r", self._keys)
        except (ConfigError, OSError) as error:
            log.warning("who may connect to ZeroMQ stays as it was: %s", error)

    def _configure(self, sock: zmq.Socket[bytes]) -> None:
        limits = self._limits
        sock.setsockopt(zmq.MAXMSGSIZE, limits.body_bytes_max + OVERSIZE_BYTES)
        sock.setsockopt(zmq.RCVHWM, READ_AHEAD_MESSAGES)
        sock.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES_MAX)
        # A reply that cannot be sent is an error we count, instead of one nobody hears of.
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.HANDSHAKE_IVL, int(limits.header_timeout_s * 1000))
        sock.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(limits.stream_idle_timeout_s * 1000))
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.LINGER, LINGER_MS)
        sock.setsockopt(zmq.IPV6, 1 if ":" in self._address[0] else 0)
        # Of its own 100, a crowd that connects at once is refused most, and each of those tries again after a second.
        sock.setsockopt(zmq.BACKLOG, edge.BACKLOG)

    async def drain(self, timeout_s: float) -> bool:
        """Answer new requests UNAVAILABLE and finish those in flight; True when all ended in time."""
        self._draining = True
        self._serve_awaited()
        if self._serving:
            await asyncio.wait(self._serving, timeout=timeout_s)
        return not self._serving

    async def stop(self) -> None:
        """Give up what is in flight and close; queued replies have `LINGER_MS` to leave."""
        self._draining = self._closing = True
        if self._gate is not None:
            self._looking.cancel()
            self._asked.cancel()
        self._serve_awaited()
        # Each begins, and has something to end.
        await asyncio.sleep(0)
        for serving in list(self._serving):
            serving.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=LINGER_MS / 1000)
        if self._loop is not None and self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()
        if self._gate is not None:
            self._gate.stop()
        if self._context is not None:
            self._context.term()

    def statistics(self) -> dict[str, int]:
        """Requests in flight, peers that have any, replies that were dropped, bytes handed to libzmq unsent."""
        return {
            "in_flight": len(self._serving) + len(self._awaited),
            "peers": len(self._in_flight),
            "replies_dropped": self.dropped,
            "unsent_bytes": self._unsent.nbytes(),
        }

    def watched(self) -> Watched:
        """For the watch over what is held for strangers."""
        return Watched(self._bound, self._ledger)

    def __repr__(self) -> str:
        return f"<ZmqFrontend {self._address[0]}:{self._address[1]} {self.statistics()}>"

    # ---- reading

    def _look(self) -> None:
        if not self._look_due and self._loop is not None:
            self._look_due = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._look_due = False
        sock = self._socket
        if sock is None:
            return
        receive = sock.recv
        for _ in range(TURN_MESSAGES):
            try:
                parts = [receive(_NOBLOCK, copy=False)]
                while parts[-1].more:
                    parts.append(receive(_NOBLOCK, copy=False))
            except zmq.Again:
                return
            except zmq.ZMQError as error:
                # It is of no more use, and nothing would look at it again.
                threads.lost(f"the ZeroMQ socket: {error}")
                return
            try:
                self._take(parts)
            except Exception:
                log.exception("a ZeroMQ message could not be taken")
        self._look()

    def _take(self, parts: Sequence[zmq.Frame]) -> None:
        """Start one request, or answer what is wrong with it."""
        envelope, content = zmq_messages.split(parts)
        asked = ZmqRequest(envelope, monotonic_ns())
        peer = parts[0].bytes
        self._ledger.sample(sum(map(len, parts)), partial(_descriptor_of, parts[0]))
        try:
            later = self._begin(asked, peer, content)
        except Exception as error:
            asked.request_id = edge.echoable_request_id(asked.request_id)
            self._refuse(asked, error)
            return
        self._in_flight[peer] += 1
        if isinstance(later, LetIn):
            self._awaited_last = number = self._awaited_last + 1
            if later.call.when_there(partial(self._there, number)):
                self._awaited[number] = Awaited(asked, peer, later)
                return
        self._serve_beside(asked, peer, later)

    def _serve_beside(self, asked: ZmqRequest, peer: bytes, later: LetIn | Awaitable[LetIn]) -> None:
        assert self._loop is not None
        serving = beside(self._loop, self._serve(asked, peer, later), "answering a ZeroMQ request")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    def _serve_awaited(self) -> None:
        """From now on those in flight are tasks, which can be waited for and cancelled."""
        awaited, self._awaited = self._awaited, {}
        for each in awaited.values():
            self._serve_beside(*each)

    def _begin(self, asked: ZmqRequest, peer: bytes, content: Sequence[zmq.Frame]) -> LetIn | Awaitable[LetIn]:
        """The request, started; or what starts it, where it is still to be found out who asks."""
        fields = zmq_messages.read_fields([part.buffer for part in content], self._limits)
        get = zmq_messages.metadata_of(fields)
        asked.request_id = get("x-request-id")
        asked.fields = fields
        self._admit(peer)
        if not self._access.closed:
            return self._start(asked, content[1], ANYBODY, "")
        authorization = get("authorization")
        principal = self._access.known(authorization)
        if principal is None:
            return self._start_later(asked, content[1], authorization)
        return self._start(asked, content[1], principal, principal.caller)

    async def _start_later(self, asked: ZmqRequest, body: zmq.Frame, authorization: str | None) -> LetIn:
        principal = await self._access.recognised(authorization)
        return self._start(asked, body, principal, principal.caller)

    def _start(self, asked: ZmqRequest, body: zmq.Frame, principal: Principal, caller: str) -> LetIn:
        fields = asked.fields
        deployment = zmq_messages.name_of(fields, "deployment")
        method = zmq_messages.name_of(fields, "method")
        if self._access.closed:
            deployment_spec, spec = request_for(principal, self._service, deployment, method)
        else:
            deployment_spec, spec = self._service.method(deployment, method)
        asked.known = (deployment, method)
        get = zmq_messages.metadata_of(fields)
        meta = edge.meta_of(get, deployment_spec, self._limits, asked.started_ns, caller=caller)
        meta = asked.meta = as_query(meta, principal, deployment_spec, asked.started_ns)
        asked.request_id = meta.request_id
        what = f"{deployment}.{method}"
        visit = self._access.begin(principal, what, meta.request_id, meta.priority, len(body), meta.tables)
        try:
            # A view of libzmq's own message: copied once, into shared memory.
            call = self._service.call(deployment, method, EncodedStream((body.buffer,)), meta)
        except BaseException as error:
            visit.end(edge.as_error(error).code)
            raise
        return LetIn(CountedCall(call) if self._access.closed else call, spec, visit)

    def _admit(self, peer: bytes) -> None:
        if self._draining:
            raise Unavailable("the server is draining; try again")
        if self._in_flight[peer] >= PEER_IN_FLIGHT_MAX:
            raise ResourceExhausted(f"{PEER_IN_FLIGHT_MAX} requests of this socket are in flight; no more are taken")
        if len(self._serving) + len(self._awaited) >= self._limits.connections_max:
            raise ResourceExhausted("too many requests are in flight; try again later")

    # ---- answering

    def _there(self, number: int) -> None:
        """There is something of a request without a task: almost always the one result that is its reply."""
        awaited = self._awaited.pop(number, None)
        if awaited is None:
            return
        try:
            result = awaited.begun.call.only()
            if result is None:
                self._serve_beside(*awaited)
            else:
                self._answer(*awaited, result)
        except Exception:
            # Who tells goes on with others' replies.
            log.exception("a ZeroMQ request could not be answered")

    def _answer(self, asked: ZmqRequest, peer: bytes, begun: LetIn, result: Result) -> None:
        code = Cancelled.code
        try:
            stream = result.ipc_stream()
        except Exception as error:
            code = self._refuse(asked, error)
        else:
            code = OK
            self._reply(asked, stream, peer)
        finally:
            begun.end(code)
            self._left(peer)

    async def _serve(self, asked: ZmqRequest, peer: bytes, later: LetIn | Awaitable[LetIn]) -> None:
        begun: LetIn | None = None
        code = Cancelled.code
        try:
            begun = later if isinstance(later, LetIn) else await later
            stream = await collect(begun.call, begun.spec, self._limits.body_bytes_max)
        except asyncio.CancelledError:
            self._refuse(asked, Unavailable("the server stopped before the request was done"))
            raise
        except Exception as error:
            code = self._refuse(asked, error)
        else:
            code = OK
            self._reply(asked, stream, peer)
        finally:
            if begun is not None:
                begun.end(code)
            self._left(peer)

    def _left(self, peer: bytes) -> None:
        self._in_flight[peer] -= 1
        if not self._in_flight[peer]:
            del self._in_flight[peer]

    def _refuse(self, asked: ZmqRequest, caught: BaseException) -> int:
        """Answer with the error; its code."""
        request_id = asked.request_id or ""
        error = edge.as_error(caught, request_id)
        self._send([*asked.envelope, zmq_messages.error_header(error, request_id), b""])
        self._record(asked, error.code)
        return error.code

    def _reply(self, asked: ZmqRequest, stream: memoryview | pa.Buffer, peer: bytes) -> None:
        self._send_rows(asked, zmq_messages.ok_header(asked.request_id or ""), stream, peer)
        self._record(asked, OK)

    def _send_rows(self, asked: ZmqRequest, header: bytes, stream: memoryview | pa.Buffer, peer: bytes) -> None:
        if len(stream) < COPY_BELOW_BYTES:
            self._send([*asked.envelope, header, memoryview(stream)])
            return
        if not self._unsent.room(peer, len(stream)):
            self.dropped += 1
            return
        body = zmq.Frame(stream, copy=False, track=True)
        if self._send([*asked.envelope, header, body], copy=False):
            self._unsent.add(peer, len(stream), body.tracker)

    def _send(self, parts: Sequence[Any], copy: bool = True) -> bool:
        sock = self._socket
        if sock is None:
            return False
        # The descriptor tells of requests that came meanwhile only once.
        self._look()
        try:
            # The backend's own: what `zmq.Socket.send` does before is for sockets of other kinds.
            send = super(zmq.Socket, sock).send
            last = len(parts) - 1
            for place, part in enumerate(parts):
                send(part, _NOBLOCK if place == last else _MORE, copy=copy)
        except zmq.ZMQError as error:
            # EAGAIN: the peer does not read. EHOSTUNREACH: it left. Neither can be told anything.
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                log.warning("a ZeroMQ reply could not be sent: %s", error)
            self.dropped += 1
            return False
        return True

    def _record(self, asked: ZmqRequest, code: int) -> None:
        self._metrics.answered("zmq", *asked.known, code, (monotonic_ns() - asked.started_ns) / NS_PER_S)
        if self._metrics.spans is not None:
            self._metrics.spans.rpc(asked.traced_meta(), asked.known, code, asked.started_ns, _ASKED)


def _descriptor_of(part: zmq.Frame) -> int:
    """That of the connection by which it came; -1, which is nobody's, where the connection is gone."""
    try:
        return int(part.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1
