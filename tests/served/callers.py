"""One client for each protocol, with one interface: an Arrow IPC stream and metadata in, a code and rows out."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import pyarrow as pa
import zmq
from pyarrow import flight

from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from flightserve.wire.status import TABLE, Code
from tests.frontends.http.support import ARROW
from tests.served.entrance import Entrance

TIMEOUT_S: Final = 20.0
CODES_OF_FLIGHT: Final = {
    status.flight: code.name for code, status in TABLE.items() if code is not Code.RESOURCE_EXHAUSTED
}


@dataclass(frozen=True)
class Answer:
    """What came back. `code` is a name of the status table, `rows` the reply where there is one."""

    code: str
    message: str = ""
    rows: pa.Table | None = None
    status: int = 0


class Caller:
    """A client of one frontend. Use as a context manager."""

    name = ""

    def __init__(self, addresses: Mapping[str, str], entrance: Entrance | None = None) -> None:
        self.address = addresses[self.name]
        self.entrance = entrance

    def call(self, method: str, stream: bytes, deployment: str = "Probe", **metadata: str) -> Answer:
        """One request; metadata as `x_timeout_ms="5"`."""
        raise NotImplementedError

    def sees(self, code: str) -> str:
        """What this protocol makes of a code."""
        return code

    def close(self) -> None:
        """Let go of every connection."""

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _headers(self, metadata: Mapping[str, str]) -> dict[str, str]:
        shown = {"authorization": self.entrance.authorization} if self.entrance else {}
        return shown | {name.replace("_", "-"): value for name, value in metadata.items()}


def _table(stream: bytes) -> pa.Table:
    table = pa.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    return table


class HttpCaller(Caller):
    """A connection for each call, so that none is left idle."""

    name = "http"

    def call(self, method: str, stream: bytes, deployment: str = "Probe", **metadata: str) -> Answer:
        parts = urlsplit(self.address)
        host, port = parts.hostname or "", parts.port
        connection = (
            http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
            if self.entrance is None
            else http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self.entrance.context())
        )
        try:
            headers = {"content-type": ARROW, "accept": ARROW, "connection": "close", **self._headers(metadata)}
            connection.request("POST", f"/v1/{deployment}/{method}", stream, headers)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 200:
            return Answer("OK", rows=_table(body), status=200)
        error = json.loads(body)["error"]
        assert error["request_id"] == response.headers["x-request-id"]
        return Answer(error["code"], error["message"], status=response.status)


class GrpcCaller(Caller):
    name = "grpc"

    def __init__(self, addresses: Mapping[str, str], entrance: Entrance | None = None) -> None:
        super().__init__(addresses, entrance)
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = (
            grpc.insecure_channel(self.address, options)
            if entrance is None
            else grpc.secure_channel(self.address, grpc.ssl_channel_credentials(entrance.ca), options)
        )
        self.stub = pb_grpc.FlightServeStub(self.channel)

    def call(self, method: str, stream: bytes, deployment: str = "Probe", **metadata: str) -> Answer:
        request = pb.CallRequest(deployment=deployment, method=method, arrow_stream=stream)
        try:
            reply = self.stub.Call(request, timeout=TIMEOUT_S, metadata=tuple(self._headers(metadata).items()))
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details() or "")
        return Answer("OK", rows=_table(reply.arrow_stream))

    def close(self) -> None:
        self.channel.close()


class FlightCaller(Caller):
    """A DoExchange for each call. The stream must be one that pyarrow's own client can read and send."""

    name = "flight"

    def __init__(self, addresses: Mapping[str, str], entrance: Entrance | None = None) -> None:
        super().__init__(addresses, entrance)
        self.client = flight.connect(self.address, tls_root_certs=entrance.ca if entrance else None)

    def sees(self, code: str) -> str:
        """pyarrow's server cannot say RESOURCE_EXHAUSTED."""
        return "UNAVAILABLE" if code == "RESOURCE_EXHAUSTED" else code

    def call(self, method: str, stream: bytes, deployment: str = "Probe", **metadata: str) -> Answer:
        headers = [(name.encode(), value.encode()) for name, value in self._headers(metadata).items()]
        options = flight.FlightCallOptions(headers=headers, timeout=TIMEOUT_S)
        descriptor = flight.FlightDescriptor.for_path(deployment, method)
        sent = pa.ipc.open_stream(stream)
        writer, reader = self.client.do_exchange(descriptor, options)
        try:
            self._send(writer, sent)
            return Answer("OK", rows=reader.read_all())
        except (pa.ArrowException, KeyError) as error:
            return Answer(CODES_OF_FLIGHT[type(error).__name__], str(error))
        finally:
            self._close(writer)

    @staticmethod
    def _send(writer: Any, sent: pa.RecordBatchReader) -> None:
        try:
            writer.begin(sent.schema)
            for batch in sent:
                writer.write_batch(batch)
            writer.done_writing()
        except (pa.ArrowException, OSError):
            return  # refused already; the reader says why

    @staticmethod
    def _close(writer: Any) -> None:
        try:
            writer.close()
        except (pa.ArrowException, OSError, KeyError):
            return  # the same error again

    def close(self) -> None:
        self.client.close()


class ZmqCaller(Caller):
    name = "zmq"

    def __init__(self, addresses: Mapping[str, str], entrance: Entrance | None = None) -> None:
        super().__init__(addresses, entrance)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.connect()

    def connect(self, **options: int) -> zmq.Socket[bytes]:
        """Another DEALER; the caller closes it."""
        made = self._context.socket(zmq.DEALER)
        milliseconds = int(TIMEOUT_S * 1000)
        for name, value in {"LINGER": 0, "RCVTIMEO": milliseconds, "SNDTIMEO": milliseconds, **options}.items():
            made.setsockopt(getattr(zmq, name), value)
        if self.entrance is not None:
            keys = self.entrance.keys
            made.curve_serverkey, made.curve_publickey, made.curve_secretkey = keys.server, keys.public, keys.secret
        made.connect(self.address)
        return made

    def call(self, method: str, stream: bytes, deployment: str = "Probe", **metadata: str) -> Answer:
        head = {"deployment": deployment, "method": method, **self._headers(metadata)}
        return self.ask([json.dumps(head).encode(), stream])

    def ask(self, parts: list[bytes]) -> Answer:
        """Send a message as it is."""
        self.socket.send_multipart(parts)
        return self.answer(self.socket)

    @staticmethod
    def answer(sock: zmq.Socket[bytes]) -> Answer:
        """The next reply."""
        head, body = sock.recv_multipart()
        told = json.loads(head)
        if told["code"] == "OK":
            return Answer("OK", rows=_table(body))
        assert body == b""
        return Answer(told["code"], told["message"])

    def close(self) -> None:
        self.socket.close()
        self._context.term()


CALLERS: dict[str, type[Caller]] = {each.name: each for each in (HttpCaller, GrpcCaller, FlightCaller, ZmqCaller)}


@contextmanager
def all_callers(addresses: Mapping[str, str], entrance: Entrance | None = None) -> Iterator[dict[str, Any]]:
    """One of each, by name."""
    callers = {name: kind(addresses, entrance) for name, kind in CALLERS.items()}
    try:
        yield callers
    finally:
        for caller in callers.values():
            caller.close()
