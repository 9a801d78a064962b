"""What the HTTP tests share: bodies, a raw client, and the server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa

from flightserve.config import EdgeLimits
from tests.frontends.rpc_support import served
from tests.support import eventually

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"
NDJSON = "application/x-ndjson"


def ipc(batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    """The batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def table_of(data: bytes) -> pa.Table:
    """The rows of an Arrow IPC stream."""
    return pa.ipc.open_stream(data).read_all()


@contextmanager
def http_served(limits: EdgeLimits | None = None) -> Iterator[tuple[Any, httpx.Client]]:
    """Probe and Narrow over HTTP: the host and a client of it."""
    with served(limits, http_port=0) as host, httpx.Client(base_url=host.addresses["http"], timeout=20) as client:
        yield host, client


def frontend_of(host: Any) -> Any:
    """The HttpFrontend that the host runs."""
    return host._running["http"]


def check_unharmed(server: tuple[Any, httpx.Client]) -> None:
    """The server is where it was: the next good request works, nothing is in flight, and no body is held."""
    host, client = server
    good = {"columns": {"a": [1]}}
    assert client.post("/v1/Probe/identity", json=good).json() == good
    frontend = frontend_of(host)
    eventually(
        lambda: frontend.statistics()["http_in_flight"] == 0 and frontend.statistics()["http_held_bytes"] == 0,
        what=repr(frontend),
    )


class Raw:
    """A socket and what it received. `head`, `status` and `json` are of the first answer."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), 20)
        self.received = b""

    def send(self, data: bytes) -> Raw:
        """Send; a server that has closed already is no error here."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.socket.settimeout(20)
        return self

    def until_closed(self) -> Raw:
        """Read until the server closes."""
        try:
            while data := self.socket.recv(1 << 16):
                self.received += data
        except ConnectionResetError:
            self.received += b""
        self.close()
        return self

    def read_answer(self) -> Raw:
        """Read one whole answer of known length."""
        self.received = b""
        while b"\r\n\r\n" not in self.received or len(self.body) < self.length:
            data = self.socket.recv(1 << 16)
            assert data, f"closed after {self.received!r}"
            self.received += data
        return self

    @property
    def head(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def length(self) -> int:
        return int(self.head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])

    @property
    def status(self) -> int:
        return int(self.received.split(b" ", 2)[1])

    @property
    def code(self) -> str:
        """The error's code."""
        return str(json.loads(self.body)["error"]["code"])

    def close(self) -> None:
        self.socket.close()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """The bytes of a POST with a JSON body."""
    lines = [
        f"POST {path} HTTP/1.1",
        "host: localhost",
        f"content-type: {JSON}",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
