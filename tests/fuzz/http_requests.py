"""HTTP requests of every shape that proxies and servers have read differently, and plain damage.

A `Shape` is a head whose body's end two readers may disagree on. Behind it comes a whole request, the stowaway: who
takes what is ambiguous for two requests lets a stranger speak through somebody else's connection (request smuggling;
RFC 9112, 11.2). So the stowaway must never be answered, and the connection must end.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.frontends.rpc_support import GOOD
from tests.fuzz.mutation import INTEGERS, TEXTS, mutated, spliced

STOWAWAY: Final = "stowaway"
ARROW: Final = "application/vnd.apache.arrow.stream"
_JSON: Final = json.dumps({"columns": {"a": [1, 2, 3]}}).encode()
_INFER: Final = json.dumps(
    {"inputs": [{"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]}], "outputs": [{"name": "a"}]}
).encode()
_QUERY: Final = json.dumps({"query": "SELECT id, name FROM people WHERE id > $1", "parameters": [1]}).encode()

Header = tuple[str, str]


class Request(NamedTuple):
    """A request in parts, to be changed one by one."""

    method: str
    target: str
    headers: tuple[Header, ...]
    body: bytes = b""
    version: str = "HTTP/1.1"

    def encode(self, end: str = "\r\n") -> bytes:
        lines = [f"{self.method} {self.target} {self.version}", *(f"{name}: {value}" for name, value in self.headers)]
        return (end.join(lines) + end * 2).encode("latin-1", "replace") + self.body


def _post(target: str, body: bytes, kind: str = "application/json", *more: Header) -> Request:
    length = ("content-length", str(len(body)))
    return Request("POST", target, (("host", "localhost"), ("content-type", kind), length, *more), body)


def _get(target: str, *more: Header) -> Request:
    return Request("GET", target, (("host", "localhost"), *more))


def _chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


SEEDS: Final = (
    _post("/v1/Probe/identity", _JSON),
    _post("/v1/Probe/typed", _JSON, "application/json", ("accept", "application/x-ndjson"), ("x-timeout-ms", "5000")),
    _post("/v1/Probe/identity", GOOD, ARROW, ("accept", ARROW), ("x-request-id", "r"), ("x-priority", "3")),
    _post("/v1/Probe/identity", gzip.compress(_JSON, mtime=0), "application/json", ("content-encoding", "gzip")),
    _post("/v1/Probe/pieces", _JSON, "application/json", ("accept", "text/event-stream")),
    _post("/v1/sql", _QUERY, "application/json", ("accept", "text/csv")),
    _post("/v1/sql?p=1&format=ndjson", b"SELECT id FROM people WHERE id > CAST($1 AS INT)", "text/plain"),
    _post("/v2/models/Probe%3Atyped/infer", _INFER),
    _post("/v2/models/lake/infer", _INFER, "application/json", ("inference-header-content-length", str(len(_INFER)))),
    Request(
        "POST", "/v1/Probe/identity",
        (("host", "localhost"), ("content-type", "application/json"), ("transfer-encoding", "chunked")),
        _chunked(_JSON, 7),
    ),
    _get("/v1/deployments"), _get("/v1/Probe/identity"), _get("/healthz"), _get("/readyz"), _get("/metrics"),
    _get("/openapi.json"), _get("/docs"), _get("/v2/health/ready"), _get("/v2/models/Probe"),
    _get("/v1/sql?query=SELECT+*+FROM+people&format=csv", ("range", "bytes=0-9")),
    _get("/v1/sql?query=SELECT+1&format=html", ("if-none-match", 'W/"x"')),
    _get("/v1/Probe/pieces?body=%7B%22columns%22%3A%7B%22a%22%3A%5B1%5D%7D%7D", ("accept", "text/event-stream")),
    Request("OPTIONS", "/v1/Probe/identity", (("host", "localhost"), ("access-control-request-method", "POST"))),
)  # fmt: skip

_LENGTHS: Final = (
    "0", "+5", "-1", "05", "5 5", "5,5", "5, 6", "0x5", "5\x0b", "5;", "", "5.0", "1e1", "٥", "18446744073709551616",
    "99999999999999999999999", "4294967301", "5\x00",
)  # fmt: skip
_CODINGS: Final = (
    "chunked", "Chunked", "xchunked", "chunked, identity", "identity, chunked", "chunked\x0b", "chunked;q=1",
    "gzip, chunked", "chunked, chunked", "identity", "chunke\x00d", '"chunked"', ",chunked", "chunked,",
    "\x00chunked", "cow",
)  # fmt: skip
_NAMES: Final = (
    "content-length", "transfer-encoding", "host", "connection", "expect", "upgrade", "te", "trailer", "content-type",
    "accept", "accept-encoding", "content-encoding", "range", "if-none-match", "origin", "sec-fetch-site",
    "authorization", "cookie", "x-timeout-ms", "x-priority", "x-request-id", "x-request-key", "traceparent",
    "x-warehouse", "last-event-id", "inference-header-content-length", "http2-settings", "x-http-method-override",
    "x-forwarded-for", "proxy-connection", "access-control-request-method", "keep-alive", "content length",
    "content-length\t", "content-length ", "x\x00y", "", ":", "é",
)  # fmt: skip
_VALUES: Final = (
    *_LENGTHS, *_CODINGS, *TEXTS, *map(str, INTEGERS), "close", "keep-alive", "100-continue", "h2c", "websocket",
    "bytes=0-0,2-3", "*", "*/*;q=nan", "text/html", "gzip", "zstd", "br", "null", "https://evil.example",
    "cross-site", "a, b", "Basic Og==", "Bearer x", "00-" + "1" * 32 + "-" + "1" * 16 + "-01",
)  # fmt: skip
_METHODS: Final = (
    "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "PRI", "X" * 200, "G\0T",
)  # fmt: skip
_VERSIONS: Final = (
    "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "http/1.1", "HTTP/1.10", "HTTP/11", "", "X",
)  # fmt: skip
_SIZES: Final = (
    "0x5", "+5", "-5", "5 ", " 5", "05", "0" * 40 + "5", "ffffffffffffffff", "10000000000000005", "g", "", "5;a=b",
    '5;a="\r\n"', "5;" + "x" * 5000, "5\t", "5\x0b", "5\n", "5\r", "5;\x00",
)  # fmt: skip


def any_request(dice: random.Random) -> bytes:
    """One of the seeds, changed."""
    request = dice.choice(SEEDS)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        request = _changed(request, dice)
    data = request.encode(dice.choice(("\r\n",) * 12 + ("\n", "\r")))
    how = dice.random()
    if how < 0.15:
        return mutated(data, dice)
    return spliced(data, dice, (b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n")) if how < 0.3 else data


def _changed(request: Request, dice: random.Random) -> Request:
    how = dice.randrange(11)
    headers = list(request.headers)
    if how <= 3:
        headers.insert(dice.randrange(len(headers) + 1), (dice.choice(_NAMES), dice.choice(_VALUES)))
    elif how == 4 and headers:
        headers.pop(dice.randrange(len(headers)))
    elif how == 5 and headers:
        at = dice.randrange(len(headers))
        headers[at] = (headers[at][0], dice.choice(_VALUES))
    elif how == 6:
        headers += [(f"h{number}", "x") for number in range(dice.choice((10, 199, 201, 2000)))]
    elif how == 7:
        return request._replace(method=dice.choice(_METHODS))
    elif how == 8:
        return request._replace(version=dice.choice(_VERSIONS))
    elif how == 9:
        return request._replace(target=_target(request.target, dice))
    else:
        return request._replace(body=mutated(request.body, dice))
    return request._replace(headers=tuple(headers))


def _target(target: str, dice: random.Random) -> str:
    odd = dice.choice(
        (
            *TEXTS,
            "%",
            "%zz",
            "%00",
            "%c0%ae",
            "%ff",
            "//",
            "/./",
            "/../",
            "a" * 20_000,
            "http://localhost",
            "http://x@y:z",
        )
    )
    at = dice.randrange(len(target) + 1)
    return dice.choice(
        (target[:at] + odd + target[at:], odd, odd + target, target + odd, "*", f"http://localhost{target}")
    )


# ---- smuggling


class Shape(NamedTuple):
    """Bytes of a request that two readers may end at different places, the stowaway behind it included."""

    name: str
    data: bytes


_STOWAWAY: Final = f"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-request-id: {STOWAWAY}\r\n\r\n".encode()


def shapes() -> Iterator[Shape]:
    """All of them."""
    for coding in _CODINGS:
        for length in (str(len(_STOWAWAY) + 5), "5", "0"):
            # One reader ends the body behind the chunk of size 0, the other one where the length says.
            yield _shape(f"{length=} {coding=}", ("content-length", length), ("transfer-encoding", coding))
    for coding in _CODINGS[1:]:
        if coding.lower() != "chunked":
            yield _shape(f"{coding=}", ("transfer-encoding", coding))
            yield _shape(f"chunked and {coding=}", ("transfer-encoding", "chunked"), ("transfer-encoding", coding))
    for length in _LENGTHS:
        if length not in ("0", "05"):  # these are lengths, and the stowaway a request of its own
            yield _shape(f"{length=}", ("content-length", length))
    yield _shape("two lengths", ("content-length", "5"), ("content-length", "0"))
    yield _shape(
        "two lengths, one behind spaces", ("content-length", "0"), ("content-length ", str(5 + len(_STOWAWAY)))
    )
    for name in (
        "transfer-encoding ",
        "transfer-encoding\t",
        " transfer-encoding",
        "transfer_encoding\x0b",
        "x: y\n transfer-encoding",
    ):
        yield _shape(f"{name=}", (name, "chunked"), ("content-length", "5"))
    for size in _SIZES:
        if not size.startswith(("5;a", "05", "00", "5;x")):
            body = f"{size}\r\nxxxxx\r\n0\r\n\r\n".encode("latin-1", "replace")
            yield _shape(f"chunk {size[:30]!r}", ("transfer-encoding", "chunked"), body=body)
    for name, body in _ENDS.items():
        yield _shape(name, ("transfer-encoding", "chunked"), body=body)
    yield Shape("HTTP/1.0 in chunks", _head("1.0", ("transfer-encoding", "chunked")) + b"0\r\n\r\n" + _STOWAWAY)
    yield Shape("a folded line", _head("1.1", ("x", "y\r\n content-length: 5")) + b"0\r\n\r\n" + _STOWAWAY)


_ENDS: Final = {
    "a chunk longer than said": b"2\r\nxxxxx\r\n0\r\n\r\n",
    "a chunk without its end": b"5\r\nxxxxx0\r\n\r\n",
    "chunks with bare line feeds": b"5\nxxxxx\n0\n\n",
    "a chunk that ends in CR": b"5\r\nxxxxx\r0\r\n\r\n",
}


def _head(version: str, *headers: Header) -> bytes:
    lines = [f"POST /v1/Probe/identity HTTP/{version}", "host: localhost", "content-type: application/json"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1", "replace")


def _shape(name: str, *headers: Header, body: bytes = b"0\r\n\r\n") -> Shape:
    return Shape(name, _head("1.1", *headers) + body + _STOWAWAY)
