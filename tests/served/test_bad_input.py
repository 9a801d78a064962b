"""Bad requests over the real system: each gets its code on each frontend (docs/explanation/promises.md).

What every single fault gets is tested frontend by frontend over one process (`tests/frontends`); here a few of each
kind go through all tiers, and the check after each test is that the system is where it was.
"""

from __future__ import annotations

import errno
import gzip
import json
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.proto import flightserve_pb2 as pb
from tests.frontends.flight.raw_messages import RawExchange, flight_data, messages
from tests.frontends.http.support import ARROW, JSON, Raw, post
from tests.frontends.rpc_support import BAD_STREAMS, GOOD, batch_of, stream_of
from tests.served.callers import Answer, Caller
from tests.served.serve import LIMITS

LIMIT = LIMITS.body_bytes_max
IDENTITY = "/v1/Probe/identity"
PATH = (b"Probe", b"identity")


def check(caller: Caller, answer: Answer, code: str, status: int = 0) -> None:
    """The answer has the code, the HTTP status where it is HTTP's, and no traceback or path."""
    assert answer.code == caller.sees(code), answer
    assert "Traceback" not in answer.message
    if status and answer.status:
        assert answer.status == status, answer


# ---- tickets, names, routes


def test_bad_tickets(callers: dict[str, Any]) -> None:
    for ticket in (b"", random.Random(1).randbytes(200), b"x" * 10_000):
        with pytest.raises(pa.ArrowInvalid, match="not a ticket"):
            callers["flight"].client.do_get(flight.Ticket(ticket)).read_all()


def test_unknown_names(caller: Caller) -> None:
    for deployment, method in (("Nope", "identity"), ("Probe", "nope"), ("Probe", "__init__"), ("probe", "identity")):
        check(caller, caller.call(method, GOOD, deployment), "NOT_FOUND", status=404)


# HTTP and Flight look at a name before they look for it.
NO_NAME = {"http": "INVALID_ARGUMENT", "flight": "INVALID_ARGUMENT", "grpc": "NOT_FOUND", "zmq": "NOT_FOUND"}


def test_names_that_are_none(caller: Caller) -> None:
    for name in ("../x", "%2e%2e", "a%00b" if caller.name == "http" else "a\0b", "x" * 3000, "x" * 10_000):
        for deployment, method in ((name, "identity"), ("Probe", name)):
            check(caller, caller.call(method, GOOD, deployment), NO_NAME[caller.name])


def test_an_unknown_route_rpc_or_action(callers: dict[str, Any]) -> None:
    for verb, path, status in (("POST", "/nope", 404), ("PUT", IDENTITY, 405), ("GET", "/v1/a/b/c", 404)):
        answer = httpx.request(verb, callers["http"].address + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, "UNIMPLEMENTED")
    with pytest.raises(grpc.RpcError) as caught:
        callers["grpc"].channel.unary_unary("/flightserve.v1.FlightServe/Nope")(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(NotImplementedError):
        list(callers["flight"].client.do_action("nope"))


# ---- sizes, framing, packing, types


def test_a_body_over_the_limit_by_one_byte(caller: Caller) -> None:
    if caller.name == "flight":
        batches = [pa.record_batch({"a": pa.array([b"x" * (LIMIT - 8 + more)], pa.binary())}) for more in (0, 1)]
        fits, over = (stream_of(batch) for batch in batches)
        code = "OK"
    else:
        # Trailing zeros: within the limit the stream is read, and they are found.
        fits, over = (GOOD + b"\0" * (LIMIT - len(GOOD) + more) for more in (0, 1))
        code = "INVALID_ARGUMENT"
    check(caller, caller.call("identity", fits), code, status=400)
    check(caller, caller.call("identity", over), "RESOURCE_EXHAUSTED", status=413)


FRAMINGS = [
    ("content-length: 90", b"{}", 408),
    ("content-length: 1", b"{}", 400),
    ("content-length: 2\r\ntransfer-encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", 400),
    ("transfer-encoding: chunked", b"zz\r\n{}", 400),
    ("content-length: -1", b"{}", 400),
    ("content-length: 9999999999", b"", 413),
]


def test_framing(callers: dict[str, Any]) -> None:
    line = f"POST {IDENTITY} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {JSON}\r\n"
    raws = [Raw(callers["http"].address).send(f"{line}{head}\r\n\r\n".encode() + body) for head, body, _ in FRAMINGS]
    for raw, (head, _, status) in zip(raws, FRAMINGS, strict=True):
        received = raw.until_closed().received
        # Where the length is too short, the call is answered and what follows it is no request.
        last = received[received.rindex(b"HTTP/1.1 ") :]
        assert int(last.split(b" ", 2)[1]) == status, (head, received)


def test_what_unpacks_beyond_the_limit(callers: dict[str, Any]) -> None:
    plain = b" " * (20 * LIMIT)
    bombs = {"gzip": gzip.compress(plain), "zstd": pa.compress(plain, "zstd", asbytes=True)}
    for kind in (JSON, ARROW):
        for encoding, bomb in bombs.items():
            headers = {"content-type": kind, "content-encoding": encoding}
            answer = httpx.post(callers["http"].address + IDENTITY, content=bomb, headers=headers)
            assert answer.status_code == 413, answer.text


def test_a_compressed_grpc_message(callers: dict[str, Any]) -> None:
    request = pb.CallRequest(deployment="Probe", method="identity", arrow_stream=b"\0" * (20 * LIMIT))
    with pytest.raises(grpc.RpcError) as caught:
        callers["grpc"].stub.Call(request, timeout=20, compression=grpc.Compression.Gzip)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_types_and_encodings(callers: dict[str, Any]) -> None:
    url = callers["http"].address + IDENTITY
    for headers, status in (({"content-type": "text/csv"}, 415), ({"content-encoding": "br"}, 415),
                            ({"accept": "text/html"}, 406)):  # fmt: skip
        answer = httpx.post(url, content=b"{}", headers={"content-type": JSON, **headers})
        assert answer.status_code == status, answer.text


# ---- Arrow that is none


def test_streams_that_are_none(caller: Caller) -> None:
    if caller.name == "flight":
        pytest.skip("its client sends no such stream; see the next test")
    for name, stream in BAD_STREAMS.items():
        if caller.name == "zmq" and len(stream) > LIMIT:
            continue  # libzmq itself ends the connection of who sends it
        answer = caller.call("identity", stream)
        assert answer.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), (name, answer)
        assert answer.status in (0, 400, 413), (name, answer)
        assert "internal" not in answer.message


def bad_messages() -> dict[str, list[bytes]]:
    """Flight messages written by hand."""
    rows = pa.record_batch({"s": ["one", "two"]})
    (schema, _), (header, body) = messages(rows)
    coded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), ["x", "y"])
    (coded_schema, _), dictionary, (coded_header, coded_body) = messages(pa.record_batch({"d": coded}))
    start = flight_data(schema, path=PATH)
    return {
        "truncated": [start, flight_data(header, body[:8])],
        "random": [start, flight_data(random.Random(3).randbytes(200), body)],
        "offsets": [start, flight_data(header, body.replace(b"\x03\0\0\0", b"\xff\xff\xff\x7f", 1))],
        "negative length": [start, flight_data(header, body.replace(b"\x03\0\0\0", b"\xff\xff\xff\xff", 1))],
        "not UTF-8": [start, flight_data(header, body.replace(b"onetwo", b"\xff\xfe\xfdtwo"))],
        "batch before schema": [flight_data(path=PATH), flight_data(header, body)],
        "another schema": [start, *[flight_data(*message) for message in messages(pa.record_batch({"n": [1]}))]],
        "missing dictionary": [flight_data(coded_schema, path=PATH), flight_data(coded_header, coded_body)],
        "dictionary index": [
            flight_data(coded_schema, path=PATH),
            flight_data(*dictionary),
            flight_data(coded_header, coded_body.replace(b"\x01\0\0\0", b"\x63\0\0\0", 1)),
        ],
    }


def test_flight_messages_that_are_none(callers: dict[str, Any]) -> None:
    for name, sent in bad_messages().items():
        with RawExchange(callers["flight"].address) as exchange:
            code, details, _ = exchange.outcome(sent)
        assert code == grpc.StatusCode.INVALID_ARGUMENT, (name, details)
        assert "Traceback" not in details


def test_nesting_and_columns(caller: Caller) -> None:
    deep: pa.DataType = pa.int8()
    for _ in range(LIMITS.nesting_max + 2):
        deep = pa.list_(deep)
    wide = pa.RecordBatch.from_pydict({f"c{number}": pa.array([1], pa.int8()) for number in range(10_001)})
    # Flight counts the bytes of rows, the others those of the stream, whose schema is too large here.
    code = "INVALID_ARGUMENT" if caller.name == "flight" else "RESOURCE_EXHAUSTED"
    check(caller, caller.call("identity", stream_of(wide)), code)
    if caller.name != "flight":
        # Only the schema: pyarrow itself writes no rows that are nested so deep.
        stream = pa.schema([("a", deep)]).serialize().to_pybytes() + b"\xff\xff\xff\xff\0\0\0\0"
        check(caller, caller.call("identity", stream), "INVALID_ARGUMENT")


# ---- the wrong rows


def test_the_wrong_columns_or_types(caller: Caller) -> None:
    for columns in ({"b": [1]}, {"a": ["x"]}, {"a": [1], "b": [2]}):
        stream = stream_of(pa.RecordBatch.from_pydict(columns))
        check(caller, caller.call("typed", stream), "INVALID_ARGUMENT", status=422)


def test_no_rows_and_no_columns(caller: Caller) -> None:
    empty = caller.call("typed", stream_of(batch_of()))
    assert empty.code == "OK", empty
    assert empty.rows is not None
    assert empty.rows.num_rows == 0
    none = stream_of(pa.RecordBatch.from_arrays([], schema=pa.schema([])))
    check(caller, caller.call("identity", none), "INVALID_ARGUMENT", status=422)


BAD_JSON = {
    "100 k deep": b'{"columns":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "duplicate keys": b'{"columns":{"a":[1],"a":[2]}}',
    "NaN": b'{"columns":{"a":[NaN]}}',
    "100 k digits": b'{"columns":{"a":[' + b"7" * 100_000 + b"]}}",
    "unequal lengths": b'{"columns":{"a":[1,2],"b":[1]}}',
    "not UTF-8": b'{"columns":{"a":["\xff"]}}',
}


def test_json(callers: dict[str, Any]) -> None:
    for name, body in BAD_JSON.items():
        raw = Raw(callers["http"].address).send(post(IDENTITY, body, "connection: close")).until_closed()
        assert (raw.status, raw.code) == (400, "INVALID_ARGUMENT"), name


# ---- metadata


HEADS = [
    (f"POST {IDENTITY} HTTP/1.1\r\nx: " + "y" * 65_536 + "\r\n\r\n", 431),
    (f"POST {IDENTITY} HTTP/1.1\r\n" + "".join(f"h{n}: x\r\n" for n in range(1000)) + "\r\n", 431),
    ("GET /" + "u" * 65_536 + " HTTP/1.1\r\n\r\n", 414),
]


def test_heads(callers: dict[str, Any]) -> None:
    for head, status in HEADS:
        raw = Raw(callers["http"].address).send(head.encode()).until_closed()
        assert (raw.status, raw.code) == (status, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("name", ["grpc", "flight", "zmq"])
def test_large_metadata(callers: dict[str, Any], name: str) -> None:
    if name == "flight":
        with RawExchange(callers["flight"].address) as exchange:
            sent = [flight_data(messages(batch_of(1))[0][0], path=PATH)]
            code, _, _ = exchange.outcome(sent, metadata=[("x-big", "x" * 65_536)])
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    else:
        check(callers[name], callers[name].call("identity", GOOD, x_big="x" * 65_536), "RESOURCE_EXHAUSTED")


def test_timeouts_priorities_traceparents(caller: Caller) -> None:
    for value in ("soon", "-1", "1.5", ""):
        check(caller, caller.call("identity", GOOD, x_timeout_ms=value), "INVALID_ARGUMENT", status=400)
    check(caller, caller.call("identity", GOOD, x_priority="10"), "INVALID_ARGUMENT", status=400)
    for value in ("0", "1"):
        check(caller, caller.call("never", GOOD, x_timeout_ms=value), "DEADLINE_EXCEEDED", status=504)
    check(caller, caller.call("identity", GOOD, x_timeout_ms="9" * 400), "OK")

    # Ignored:
    for value in ("nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"):
        check(caller, caller.call("identity", GOOD, traceparent=value), "OK")


# ---- bytes that are another protocol, or none


# An empty frame of settings (RFC 9113, 6.5), with which a server begins.
H2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def test_random_bytes(caller: Caller) -> None:
    address = urlsplit(caller.address if "//" in caller.address else f"tcp://{caller.address}")
    noise = random.Random(5).randbytes(4096)
    for sent in (noise, b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
            received = until_ended(connection, sent)
        if caller.name == "http":
            # A client of gRPC or Flight is told in its own protocol: settings, and why the connection ends.
            assert received.startswith(H2_SETTINGS if sent.startswith(b"PRI") else b"HTTP/1.1 400 "), received


def until_ended(connection: socket.socket, sent: bytes) -> bytes:
    """What came back until the server ended the connection. Raises TimeoutError where it does not."""
    received = b""
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(1 << 16):
            received += data
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):  # it ended before we were done
            raise
    return received


def test_what_the_errors_hold_is_json(callers: dict[str, Any]) -> None:
    raw = Raw(callers["http"].address).send(post("/v1/%F0%28/x", b"{}", "connection: close")).until_closed()
    assert json.loads(raw.body)["error"]["code"] == "INVALID_ARGUMENT"
