"""One client for each protocol: sends the requests of an arrival, and tells each answer as it comes.

A client is made for one frontend and keeps its connections. `exchange` returns when all requests of the arrival have
their answer, and raises when it cannot: `Failed` where the server ended a stream with an error, `Disconnected`
where the connection broke and the server's word is not known. Cancelling it goes away from the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc
import httpx
import pyarrow as pa
import zmq
from grpc import aio
from pyarrow import flight

from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from flightserve.wire.status import TABLE, Code
from tests.chaos import rows
from tests.chaos.history import CUT
from tests.chaos.schedule import Arrival

ARROW: Final = "application/vnd.apache.arrow.stream"
JSON: Final = "application/json"
FLIGHT_THREADS: Final = 96
CODES_OF_FLIGHT: Final = {
    status.flight: code.name for code, status in TABLE.items() if code is not Code.RESOURCE_EXHAUSTED
}
# What gRPC's core says where no server did.
# What grpc.aio says of a call that had begun on a connection which was gone before its first operation.
NO_STATUS: Final = "Internal error from Core"
CHANNEL_BROKE: Final = re.compile(
    r"Socket closed|failed to connect|[Cc]onnection re(set|fused)|GOAWAY|Broken pipe|Endpoint clos|End of TCP stream"
    r"|recvmsg|sendmsg|Stream removed|Transport closed|Connection attempt"
)
RECONNECT: Final = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not the pause before an attempt, but how long one may take.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Disconnected(Exception):
    """The connection ended; what became of the requests is not known."""


class Failed(Exception):
    """The server ended the stream with this error."""

    def __init__(self, code: str, message: str, own: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.own = own


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request. `echo` is the id that the server says it answers; `own` as in `Outcome`."""

    code: str
    message: str = ""
    table: pa.Table | None = None
    echo: str = ""
    own: bool = False


# Called with the index of a request in its arrival. From any thread.
Tell = Callable[[int, Answer], None]


class Client:
    """A client of one frontend."""

    async def exchange(self, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        """Send all, and tell each answer. See the module's text."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of every connection."""
        raise NotImplementedError


def metadata_of(arrival: Arrival) -> dict[str, str]:
    """What every protocol sends along, but for the request's id."""
    fields = {} if arrival.native else {"x-timeout-ms": str(arrival.timeout_ms)}
    return fields | ({"x-priority": str(arrival.priority)} if arrival.priority else {})


def stream_of(batch: pa.RecordBatch) -> bytes:
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def table_of(stream: bytes | memoryview) -> pa.Table:
    """All rows of an Arrow IPC stream. Raises pa.ArrowException for one that is not whole."""
    return pa.ipc.open_stream(stream).read_all()


# ---- HTTP


class HttpClient(Client):
    """Arrow or JSON bodies over kept connections."""

    def __init__(self, address: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        self._client = httpx.AsyncClient(base_url=address, timeout=None, limits=limits, trust_env=False)

    async def exchange(self, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        """See `Client`."""
        as_json = arrival.route == "http-json"
        (batch,), (wanted,) = batches, arrival.wanted
        body = json.dumps({"columns": batch.to_pydict()}).encode() if as_json else stream_of(batch)
        form = JSON if as_json else ARROW
        headers = {"content-type": form, "accept": form, "x-request-id": str(wanted.id), **metadata_of(arrival)}
        url = f"/v1/{arrival.deployment}/{arrival.method.name}"
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                tell(0, await self._answer(response, as_json))
        except httpx.TransportError as error:
            raise Disconnected(f"{type(error).__name__}: {error}") from error

    @staticmethod
    async def _answer(response: httpx.Response, as_json: bool) -> Answer:
        try:
            body = await response.aread()
        except httpx.RemoteProtocolError as error:
            return Answer(CUT, f"the reply broke off: {error}")
        echo = response.headers.get("x-request-id", "")
        if response.status_code != 200:
            told = json.loads(body)["error"]
            return Answer(told["code"], told["message"], echo=echo)
        if not as_json:
            return Answer("OK", table=table_of(body), echo=echo)
        columns = json.loads(body)["columns"]
        return Answer("OK", table=pa.table(columns, schema=rows.SCHEMA), echo=echo)

    async def close(self) -> None:
        """See `Client`."""
        await self._client.aclose()


# ---- gRPC


class GrpcClient(Client):
    """`Call`, and `Stream` with a stream for each arrival."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address, RECONNECT)
        self._stub = pb_grpc.FlightServeStub(self._channel)

    async def exchange(self, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        """See `Client`."""
        requests = [
            pb.CallRequest(
                deployment=arrival.deployment, method=arrival.method.name,
                arrow_stream=stream_of(batch), request_id=str(wanted.id),
            )
            for wanted, batch in zip(arrival.wanted, batches, strict=True)
        ]  # fmt: skip
        try:
            if arrival.route == "grpc-call":
                tell(0, await self._call(arrival, requests[0]))
            else:
                await self._stream(arrival, requests, tell)
        except aio.AioRpcError as error:
            raise _grpc_failure(error) from error

    async def _call(self, arrival: Arrival, request: Any) -> Answer:
        timeout_s = arrival.timeout_ms / 1000 if arrival.native else None
        try:
            reply = await self._stub.Call(request, metadata=tuple(metadata_of(arrival).items()), timeout=timeout_s)
        except aio.AioRpcError as error:
            failure = _grpc_failure(error)
            if isinstance(failure, Failed):
                return Answer(failure.code, failure.message, own=failure.own)
            raise failure from error
        return Answer("OK", table=table_of(reply.arrow_stream), echo=reply.request_id)

    async def _stream(self, arrival: Arrival, requests: Sequence[Any], tell: Tell) -> None:
        stream = self._stub.Stream(metadata=tuple(metadata_of(arrival).items()))
        index, parts = 0, list[pa.Table]()
        # Where the stream has ended already, reading says why.
        with contextlib.suppress(asyncio.InvalidStateError):
            for request in requests:
                await stream.write(request)
            await stream.done_writing()
        async for reply in stream:
            if reply.status.code:
                tell(index, Answer(Code(reply.status.code).name, reply.status.message, echo=reply.request_id))
            else:
                parts.append(table_of(reply.arrow_stream))
                if reply.more:
                    continue
                tell(index, Answer("OK", table=pa.concat_tables(parts), echo=reply.request_id))
            parts.clear()
            index += 1
        if index < len(requests):
            raise Failed("SHORT", f"the stream ended after {index} of {len(requests)} replies")

    async def close(self) -> None:
        """See `Client`."""
        await self._channel.close()


def _grpc_failure(error: aio.AioRpcError) -> Exception:
    details = error.details() or ""
    # A frontend that answers says which request it means; gRPC's own library says nothing but its text.
    answered = any(key == "x-request-id" for key, _ in error.trailing_metadata() or ())
    broke = error.code() is grpc.StatusCode.UNAVAILABLE and CHANNEL_BROKE.search(details)
    if not answered and (broke or (error.code() is grpc.StatusCode.INTERNAL and details == NO_STATUS)):
        return Disconnected(details)
    return Failed(error.code().name, details, own=not answered)


# ---- Flight


class FlightClient(Client):
    """A DoExchange for each arrival, on a thread of its own: all batches are sent, then the replies are read."""

    def __init__(self, address: str) -> None:
        self._client = flight.connect(address, generic_options=RECONNECT)
        self._threads = ThreadPoolExecutor(FLIGHT_THREADS, thread_name_prefix="chaos-flight")

    async def exchange(self, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        """See `Client`."""
        exchange = _FlightExchange(self._client, arrival, batches, tell)
        running = asyncio.get_running_loop().run_in_executor(self._threads, exchange.run)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            exchange.cancel()
            await asyncio.wait([running])
            running.exception()
            raise

    async def close(self) -> None:
        """See `Client`."""
        self._threads.shutdown()
        self._client.close()


class _FlightExchange:
    """One stream from the client's side. `run` blocks; `cancel` from any thread ends it."""

    def __init__(self, client: Any, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        self._client = client
        self._arrival = arrival
        self._batches = batches
        self._tell = tell
        self._lock = threading.Lock()
        self._cancelled = False
        self._reader: Any = None

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._reader is not None:
                self._reader.cancel()

    def run(self) -> None:
        arrival = self._arrival
        headers = [(name.encode(), value.encode()) for name, value in metadata_of(arrival).items()]
        descriptor = flight.FlightDescriptor.for_path(arrival.deployment, arrival.method.name)
        options = flight.FlightCallOptions(headers=headers)
        writer = None
        try:
            with self._lock:
                if self._cancelled:
                    return
                writer, self._reader = self._client.do_exchange(descriptor, options)
            self._send(writer)
            self._read()
        except (pa.ArrowException, KeyError) as error:
            raise _flight_failure(error) from error
        finally:
            self._close(writer)

    def _close(self, writer: Any) -> None:
        try:
            if writer is not None:
                writer.close()
        except (pa.ArrowException, OSError, KeyError):
            self._reader = None  # the same error again

    def _send(self, writer: Any) -> None:
        try:
            writer.begin(rows.SCHEMA)
            for wanted, batch in zip(self._arrival.wanted, self._batches, strict=True):
                writer.write_with_metadata(batch, str(wanted.id).encode())
            writer.done_writing()
        except (pa.ArrowException, OSError):
            return  # the stream ended already; the reader says why

    def _read(self) -> None:
        """A request's reply is one batch, or with a streaming method as many as carry its id."""
        index, pieces, echo = 0, [], ""
        streams = self._arrival.method.streams

        def answered(own: bool = False) -> None:
            nonlocal index
            self._tell(index, Answer("OK", table=pa.Table.from_batches(pieces), echo=echo, own=own))
            pieces.clear()
            index += 1

        try:
            for chunk in self._reader:
                came = "" if chunk.app_metadata is None else chunk.app_metadata.to_pybytes().decode()
                if pieces and came != echo:
                    answered()
                pieces.append(chunk.data)
                echo = came
                if not streams:
                    answered()
        except (pa.ArrowException, KeyError) as error:
            whole = pieces and sum(map(len, pieces)) == self._arrival.wanted[index].rows
            if not whole or index == len(self._batches) - 1:
                raise
            # Was it the end of this request's stream that failed, or the next one's beginning? Nobody can tell.
            answered(own=True)
            failure = _flight_failure(error)
            raise (
                Failed(failure.code, failure.message, own=True) if isinstance(failure, Failed) else failure
            ) from error
        if pieces:
            answered()
        if index < len(self._batches):
            raise Failed("SHORT", f"the stream ended after {index} of {len(self._batches)} replies")


def _flight_failure(error: Exception) -> Exception:
    text = str(error)
    code = CODES_OF_FLIGHT.get(type(error).__name__, type(error).__name__)
    if CHANNEL_BROKE.search(text) and isinstance(error, flight.FlightUnavailableError | flight.FlightInternalError):
        return Disconnected(text)
    return Failed(code, text)


# ---- ZeroMQ


class ZmqClient(Client):
    """A DEALER for all requests; one of its own for a request that is to be given up, because ZeroMQ cannot cancel."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shared: _Dealer | None = None

    async def exchange(self, arrival: Arrival, batches: Sequence[pa.RecordBatch], tell: Tell) -> None:
        """See `Client`."""
        (wanted,), (batch,) = arrival.wanted, batches
        head = {"deployment": arrival.deployment, "method": arrival.method.name, "x-request-id": str(wanted.id)}
        own = _Dealer(self._context, self._address) if arrival.give_up_ms is not None else None
        try:
            dealer = own or self._dealer()
            await dealer.ask(head | metadata_of(arrival), stream_of(batch), lambda answer: tell(0, answer))
        finally:
            if own is not None:
                own.close()

    def _dealer(self) -> _Dealer:
        if self._shared is None or self._shared.closed:
            self._shared = _Dealer(self._context, self._address)
        return self._shared

    async def close(self) -> None:
        """See `Client`."""
        if self._shared is not None:
            self._shared.close()
        self._context.destroy(linger=0)


class _Dealer:
    """One DEALER socket and the requests that wait on it. When its connection breaks, all of them are told so, and
    the socket is closed: libzmq would connect again, but what was sent is lost."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._waiting: dict[str, asyncio.Future[None]] = {}
        # Kept, so that a second reply to a request is told as one.
        self._tell: dict[str, Callable[[Answer], None]] = {}
        self.closed = False
        self._socket.connect(address)
        for sock in (self._socket, self._monitor):
            self._loop.add_reader(sock.fileno(), self._look)

    async def ask(self, head: Mapping[str, str], body: bytes, tell: Callable[[Answer], None]) -> None:
        request_id = head["x-request-id"]
        done = self._waiting[request_id] = self._loop.create_future()
        self._tell[request_id] = tell
        try:
            self._socket.send_multipart([json.dumps(dict(head)).encode(), body], zmq.NOBLOCK)
            # The descriptor tells only once of what came meanwhile.
            self._loop.call_soon(self._look)
            await done
        finally:
            del self._waiting[request_id]

    def _look(self) -> None:
        if self.closed:
            return
        ended = self._monitor.poll(0)
        # What came before the end counts.
        while self._socket.poll(0):
            self._take(self._socket.recv_multipart())
        if ended:
            self.close()

    def _take(self, parts: Sequence[bytes]) -> None:
        told = json.loads(parts[0])
        echo = told["request_id"]
        if told["code"] == "OK":
            self._tell[echo](Answer("OK", table=table_of(parts[1]), echo=echo))
        else:
            self._tell[echo](Answer(told["code"], told["message"], echo=echo))
        done = self._waiting.get(echo)
        if done is not None and not done.done():
            done.set_result(None)

    def close(self) -> None:
        """Close the socket; what still waits is disconnected."""
        if self.closed:
            return
        self.closed = True
        for sock in (self._socket, self._monitor):
            self._loop.remove_reader(sock.fileno())
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        for done in self._waiting.values():
            if not done.done():
                done.set_exception(Disconnected("the ZeroMQ connection ended"))


CLIENTS: Final[dict[str, type[Client]]] = {
    "http": HttpClient,
    "grpc": GrpcClient,
    "flight": FlightClient,
    "zmq": ZmqClient,
}  # type: ignore[dict-item]
