"""Bad inputs over HTTP (docs/explanation/promises.md). After each the server is where it was: nothing in flight, no
body held, and the next good request works."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument
from flightserve.frontends.http import bodies, http2
from tests.frontends.h2_support import ACK, CALL, PING, SETTINGS, frame, opened
from tests.frontends.http.support import ARROW, JSON, Raw, check_unharmed, frontend_of, http_served, ipc, post
from tests.served.resting import anonymous_bytes
from tests.support import eventually

LIMITS = EdgeLimits(
    body_bytes_max=100_000,
    json_bytes_max=50_000,
    # Good requests come in two pieces: a machine that stands still for a moment must not look like a slow client.
    header_timeout_s=2.0,
    body_idle_timeout_s=2.0,
)
IDENTITY = "/v1/Probe/identity"
TYPED = "/v1/Probe/typed"
GOOD = b'{"columns":{"a":[1]}}'
ROWS = pa.record_batch({"a": pa.array([1, 2], pa.int64()), "s": ["x", "yz"]})


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, httpx.Client]]:
    with http_served(LIMITS) as served:
        yield served


@pytest.fixture
def client(server: tuple[Any, httpx.Client]) -> httpx.Client:
    return server[1]


@pytest.fixture
def url(client: httpx.Client) -> str:
    return str(client.base_url)


@pytest.fixture(autouse=True)
def unharmed(server: tuple[Any, httpx.Client]) -> Iterator[None]:
    yield
    check_unharmed(server)


def check(answer: httpx.Response, status: int, code: str, says: str = "") -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert says in error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    assert os.sep + "flightserve" not in answer.text


# ---- names and routes


@pytest.mark.parametrize("line", ["GET http://localhost", "POST http://localhost?query=x"])
def test_a_target_without_a_path(url: str, line: str) -> None:
    raw = Raw(url).send(f"{line} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()).until_closed()
    assert (raw.status, raw.code) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("path", ["/v1/nope/identity", "/v1/Probe/nope"])
def test_unknown_names(client: httpx.Client, path: str) -> None:
    for answer in (client.post(path, content=GOOD), client.get(path)):
        check(answer, 404, "NOT_FOUND", "nope")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../x",
        "/v1/Probe/..",
        "/v1/%2e%2e/x",
        "/v1/a%2Fb/x",
        "/v1/Probe/a%00b",
        "/v1/Probe/%ff",
        "/v1/Probe/" + "x" * 10_000,
    ],
)
def test_what_can_be_no_name(url: str, path: str) -> None:
    raw = Raw(url).send(post(path, GOOD, "connection: close")).until_closed()
    assert raw.status == 400
    get = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    # The pages' router reads a path as UTF-8 and takes %2F for a slash: it finds no such page.
    assert Raw(url).send(get).until_closed().status == (404 if path in ("/v1/a%2Fb/x", "/v1/Probe/%ff") else 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nope", 404),
        ("GET", "/v1/a/b/c", 404),
        ("POST", "/v1/a/b/c", 404),
        ("POST", "/v1/Probe/", 404),
        ("GET", IDENTITY + "/", 404),
        ("POST", IDENTITY + "/", 404),
        ("PUT", IDENTITY, 405),
        ("DELETE", "/healthz", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_unknown_routes(client: httpx.Client, method: str, path: str, status: int) -> None:
    check(client.request(method, path), status, "UNIMPLEMENTED")


@pytest.mark.parametrize(
    ("path", "taken"),
    [(IDENTITY, {"GET", "HEAD", "POST"}), ("/healthz", {"GET", "HEAD"}), ("/v1/sql", {"GET", "HEAD", "POST"})],
)
def test_a_refused_method_is_told_which_are_taken(client: httpx.Client, path: str, taken: set[str]) -> None:
    assert set(client.put(path).headers["allow"].split(", ")) == taken


# ---- sizes and framing


@pytest.mark.parametrize(("kind", "limit"), [(ARROW, LIMITS.body_bytes_max), (JSON, LIMITS.json_bytes_max)])
def test_a_byte_over_the_limit(client: httpx.Client, kind: str, limit: int) -> None:
    headers = {"content-type": kind}
    for at_limit in (b" " * limit, iter([b" " * limit])):
        check(client.post(IDENTITY, content=at_limit, headers=headers), 400, "INVALID_ARGUMENT")
    for over in (b" " * (limit + 1), iter([b" " * limit, b" "])):
        check(client.post(IDENTITY, content=over, headers=headers), 413, "RESOURCE_EXHAUSTED")


def test_a_body_that_says_how_large_it_is_is_not_waited_for(url: str) -> None:
    for path in (IDENTITY, "/v1/sql"):
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10000000000\r\n\r\n".encode()
        raw = Raw(url).send(head).until_closed()
        assert (raw.status, raw.code) == (413, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("content-length: 30", GOOD, 408),
        ("content-length: 10", GOOD, 400),
        ("content-length: 21\r\ntransfer-encoding: chunked", GOOD, 400),
        ("transfer-encoding: chunked\r\ncontent-length: 21", b"15\r\n" + GOOD + b"\r\n0\r\n\r\n", 400),
        ("content-length: 21\r\ncontent-length: 22", GOOD, 400),
        ("content-length: -1", GOOD, 400),
        ("content-length: 2x", GOOD, 400),
        ("content-length: " + "9" * 40, GOOD, 400),
        ("transfer-encoding: chunked", b"zz\r\n" + GOOD, 400),
        ("transfer-encoding: chunked", b"-5\r\n" + GOOD, 400),
        ("transfer-encoding: chunked", b"f" * 40 + b"\r\n" + GOOD, 400),
        ("transfer-encoding: chunked", b"5\r\n" + GOOD, 400),
        ("transfer-encoding: gzip", GOOD, 400),
    ],
)
def test_framing(url: str, head: str, body: bytes, status: int) -> None:
    request = f"POST {IDENTITY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {JSON}\r\n{head}\r\n\r\n".encode() + body
    raw = Raw(url).send(request).until_closed()
    # Where the length is too short, the call is answered and what follows it is no request.
    last = raw.received[raw.received.rindex(b"HTTP/1.1 ") :]
    assert int(last.split(b" ", 2)[1]) == status
    assert b"connection: close" in last


@pytest.mark.parametrize(
    "data", [b"\x00\xff\x16\x03\x01", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n"]
)
def test_what_is_not_http(url: str, data: bytes) -> None:
    raw = Raw(url).send(data).until_closed()
    # HTTP/2's preface is waited out: its second half may still come.
    assert (raw.status, raw.code) in ((400, "INVALID_ARGUMENT"), (408, "DEADLINE_EXCEEDED"))


def test_clients_of_grpc_and_flight_are_told_whose_port_it_is(url: str) -> None:
    address = url.removeprefix("http://")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as told:
        channel.unary_unary("/flightserve.v1.FlightServe/ListDeployments")(b"", timeout=20)
    assert (told.value.code(), told.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, http2.TEXT)
    with flight.connect(f"grpc://{address}") as client, pytest.raises(pa.ArrowNotImplementedError, match=http2.TEXT):
        list(client.list_flights())


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x01", b"\xff" * 100_000, b"\x00\x00\x01\x04" + bytes(9)])
def test_whoever_begins_to_speak_http2_is_bounded(url: str, data: bytes) -> None:
    raw = Raw(url).send(http2.PREFACE + data).until_closed()
    assert raw.received.startswith(http2.Http2Refusal().greeting)


def test_frames_of_http2_may_come_in_any_pieces() -> None:
    sent = frame(SETTINGS, 0, 0, bytes(12)) + frame(PING, 0, 0, bytes(8)) + frame(SETTINGS, ACK, 0) + opened(CALL, 7)
    answer = http2.Http2Refusal().feed(sent)
    assert answer[5:9] == b"\0\0\0\x07"
    for size in range(1, 40):
        refusal = http2.Http2Refusal()
        pieces = [refusal.feed(sent[at : at + size]) for at in range(0, len(sent), size) if not refusal.over]
        assert b"".join(pieces) == answer


def test_http2_behind_a_call_that_runs_is_no_request(server: tuple[Any, httpx.Client], url: str) -> None:
    frontend = frontend_of(server[0])
    raw = Raw(url).send(post("/v1/Probe/never", GOOD))
    eventually(lambda: frontend.statistics()["http_in_flight"] == 1)
    raw.send(http2.PREFACE + opened(CALL, 1)).until_closed()
    assert (raw.status, raw.code) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_upgrades(url: str, upgrade: str) -> None:
    raw = Raw(url).send(post(IDENTITY, GOOD, "connection: upgrade", f"upgrade: {upgrade}")).until_closed()
    assert (raw.status, raw.code) == (400, "INVALID_ARGUMENT")
    page = f"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n".encode()
    assert Raw(url).send(page).until_closed().status == 200


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("kind", [JSON, ARROW])
def test_bombs(client: httpx.Client, encoding: str, kind: str) -> None:
    headers = {"content-type": kind, "content-encoding": encoding}
    plain = b" " * 20_000_000
    bomb = gzip.compress(plain) if encoding == "gzip" else pa.compress(plain, "zstd", asbytes=True)
    assert len(bomb) < LIMITS.json_bytes_max
    check(client.post(IDENTITY, content=bomb, headers=headers), 413, "RESOURCE_EXHAUSTED", "unpacks")
    small = gzip.compress(ipc(ROWS)) if encoding == "gzip" else pa.compress(ipc(ROWS), "zstd", asbytes=True)
    for broken in (small[: len(small) // 2], b"junk", b"", small + b"trailing"):
        check(client.post(IDENTITY, content=broken, headers=headers), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("how", ["gzip", "deflate", "zstd"])
def test_what_does_not_unpack_leaves_nothing_behind(how: str) -> None:
    plain = b"x" * 1000
    whole = {"gzip": gzip.compress, "deflate": zlib.compress}
    broken = (whole[how](plain) if how in whole else pa.compress(plain, "zstd", asbytes=True))[:-3]

    def unpack() -> None:
        for _ in range(2000):
            with pytest.raises(InvalidArgument):
                bodies.unpack([broken], how, 1 << 20)

    unpack()
    before = anonymous_bytes(os.getpid())
    unpack()
    assert anonymous_bytes(os.getpid()) - before < 2 << 20


# ---- types


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/csv"}, 415),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "application/vnd.apache.arrow.file"}, 415),
        ({"content-type": ""}, 415),
        ({"content-encoding": "br"}, 415),
        ({"accept": "text/html"}, 406),
        ({"accept": f"{JSON};q=0"}, 406),
        ({"accept": ";;;,,"}, 406),
    ],
)
def test_types(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    check(client.post(IDENTITY, content=GOOD, headers={"content-type": JSON, **headers}), status, "UNIMPLEMENTED")


# ---- Arrow


def bad_streams() -> list[bytes]:
    whole = ipc(ROWS)
    cut = [whole[:at] for at in (1, 4, 8, 9, 100, len(whole) // 2, len(whole) - 20)]
    noise = random.Random(7)
    schema_end = 8 + int.from_bytes(whole[4:8], "little")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ROWS.schema) as writer:
        writer.write_batch(ROWS)
    file_format = sink.getvalue().to_pybytes()
    return [*cut, b"", b"ARROW1\0\0" + whole, noise.randbytes(500), whole[schema_end:], b"\xff" * 64, file_format]


@pytest.mark.parametrize("number", range(len(bad_streams())))
def test_streams_that_are_none(client: httpx.Client, number: int) -> None:
    answer = client.post(IDENTITY, content=bad_streams()[number], headers={"content-type": ARROW})
    check(answer, 400, "INVALID_ARGUMENT")


def test_flipped_bits_are_refused_or_harmless(client: httpx.Client) -> None:
    whole = bytearray(ipc(ROWS))
    noise = random.Random(11)
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(noise.randint(1, 4)):
            broken[noise.randrange(len(broken))] ^= 1 << noise.randrange(8)
        answer = client.post(IDENTITY, content=bytes(broken), headers={"content-type": ARROW})
        assert answer.status_code in (200, 400, 413, 422), answer.text


def test_invalid_utf_8_and_offsets(client: httpx.Client) -> None:
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00"), pa.py_buffer(b"\xff\xfe")]
    )
    good = ipc(pa.record_batch({"s": ["abcdefgh"]}))
    # One string from 0 to 8, its offsets padded to 64 bytes.
    offsets = b"\x00\x00\x00\x00\x08\x00\x00\x00"
    assert offsets in good
    broken = good.replace(offsets, b"\x00\x00\x00\x00\xff\xff\xff\x7f")
    negative = good.replace(offsets, b"\xf0\xff\xff\xff\x08\x00\x00\x00")
    for data in (ipc(pa.record_batch({"s": not_utf8})), broken, negative):
        answer = client.post(IDENTITY, content=data, headers={"content-type": ARROW})
        assert answer.status_code == 400, answer.text


def test_a_buffer_that_claims_to_unpack_to_much(client: httpx.Client) -> None:
    packed = ipc(pa.record_batch({"a": [0] * 10_000}), pa.ipc.IpcWriteOptions(compression="zstd"))
    length = (80_000).to_bytes(8, "little")
    assert length in packed
    for claim in (2**40, 2**63 - 1):
        data = packed.replace(length, claim.to_bytes(8, "little"))
        answer = client.post(IDENTITY, content=data, headers={"content-type": ARROW})
        assert answer.status_code == 413, answer.text


def test_dictionaries(client: httpx.Client) -> None:
    indices = pa.array([0, 7], pa.int8())
    array = pa.DictionaryArray.from_arrays(indices, ["x", "y"], safe=False)
    answer = client.post(IDENTITY, content=ipc(pa.record_batch({"d": array})), headers={"content-type": ARROW})
    check(answer, 400, "INVALID_ARGUMENT")


def test_nesting_and_columns() -> None:
    kind: pa.DataType = pa.int8()
    for _ in range(20):
        kind = pa.list_(kind)
    deep = ipc(pa.record_batch({"a": pa.array([None], kind)}))
    columns = {f"c{number}": [] for number in range(4000)}
    few = EdgeLimits(columns_max=100, nesting_max=10)
    with http_served(few) as (_, other):
        check(other.post(IDENTITY, content=deep, headers={"content-type": ARROW}), 400, "INVALID_ARGUMENT")
        check(other.post(IDENTITY, json={"columns": columns}), 400, "INVALID_ARGUMENT", "100")
        wide = ipc(pa.RecordBatch.from_pydict({name: pa.array([], pa.int8()) for name in columns}))
        check(other.post(IDENTITY, content=wide, headers={"content-type": ARROW}), 400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("body", [{"b": [1]}, {"a": ["x"]}, {"a": [1.5]}, {"a": [1], "b": [1]}, {}])
def test_the_wrong_columns_or_types(client: httpx.Client, body: dict[str, Any]) -> None:
    check(client.post(TYPED, json={"columns": body}), 422, "INVALID_ARGUMENT")
    batch = pa.RecordBatch.from_pydict(body)
    check(client.post(TYPED, content=ipc(batch), headers={"content-type": ARROW}), 422, "INVALID_ARGUMENT")


def test_no_rows_and_no_columns(client: httpx.Client) -> None:
    assert client.post(TYPED, json={"columns": {"a": []}}).json() == {"columns": {"a": []}}
    assert client.post(TYPED, json={"rows": []}).json() == {"rows": []}
    check(client.post(IDENTITY, json={"rows": []}), 422, "INVALID_ARGUMENT")
    check(client.post(IDENTITY, json={"columns": {}}), 422, "INVALID_ARGUMENT")


# ---- JSON (each fault, with its text: tests/frontends/json/test_columns.py)


@pytest.mark.parametrize(
    "body",
    [
        b'{"columns":{"a":' + b"[" * 12_000 + b"]" * 12_000 + b"}}",
        b"[" * 49_000,
        b'{"columns":{"a":[1],"a":[2]}}',
        b'{"columns":{"a":[NaN]}}',
        b'{"columns":{"a":[' + b"7" * 49_000 + b"]}}",
        b'{"columns":{"a":[1,2],"b":[1]}}',
        b'{"columns":{"a":["\xff"]}}',
        b'{"columns":{"a":[1,"x"]}}',
        b"",
        b"null",
    ],
)
def test_json(client: httpx.Client, body: bytes) -> None:
    check(client.post(IDENTITY, content=body), 400, "INVALID_ARGUMENT")
    # The same from the path of large and packed bodies.
    check(
        client.post(IDENTITY, content=gzip.compress(body), headers={"content-encoding": "gzip"}),
        400,
        "INVALID_ARGUMENT",
    )


# ---- metadata, a full queue, methods that misbehave


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-timeout-ms": "0"}, 504, "DEADLINE_EXCEEDED"),
        ({"x-timeout-ms": "-5"}, 400, "INVALID_ARGUMENT"),
        ({"x-timeout-ms": "soon"}, 400, "INVALID_ARGUMENT"),
        ({"x-timeout-ms": ""}, 400, "INVALID_ARGUMENT"),
        ({"x-priority": "10"}, 400, "INVALID_ARGUMENT"),
        ({"x-request-id": "x" * 129}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_metadata(client: httpx.Client, headers: dict[str, str], status: int, code: str) -> None:
    check(client.post(IDENTITY, content=GOOD, headers=headers), status, code)


def test_absurd_and_tiny_timeouts(client: httpx.Client) -> None:
    assert client.post(IDENTITY, content=GOOD, headers={"x-timeout-ms": "9" * 400}).status_code == 200
    check(client.post("/v1/Probe/never", content=GOOD, headers={"x-timeout-ms": "1"}), 504, "DEADLINE_EXCEEDED")


def test_a_full_queue(url: str, server: tuple[Any, httpx.Client]) -> None:
    raws = [Raw(url) for _ in range(3)]
    statistics = server[0].service.statistics
    for number, raw in enumerate(raws):
        raw.send(post("/v1/Narrow/slowly", b'{"columns":{"a":[1000]}}'))
        if number == 0:
            # One runs before the next is sent, so that it is out of the queue.
            eventually(lambda: statistics()["Narrow"].get("micro_batches") == 1)
    shed = [raw for raw in (r.read_answer() for r in raws) if raw.status != 200]
    assert [(raw.status, raw.code) for raw in shed] == [(429, "RESOURCE_EXHAUSTED")]
    assert b"retry-after: 1" in shed[0].head.lower()
    for raw in raws:
        raw.close()


@pytest.mark.parametrize("value", ["junk", "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "x" * 5000])
def test_a_malformed_traceparent_is_ignored(client: httpx.Client, value: str) -> None:
    assert client.post(IDENTITY, content=GOOD, headers={"traceparent": value}).status_code == 200


@pytest.mark.parametrize(
    ("method", "status", "code", "says"),
    [
        ("boom", 500, "INTERNAL", "ValueError"),
        ("longer", 500, "INTERNAL", "longer"),
        ("nothing", 500, "INTERNAL", "nothing"),
        ("mistyped", 500, "INTERNAL", "mistyped"),
        ("gone", 503, "UNAVAILABLE", "died"),
        ("secret", 403, "PERMISSION_DENIED", "yours"),
    ],
)
@pytest.mark.parametrize("kind", [JSON, ARROW])
def test_methods_that_misbehave(
    client: httpx.Client, method: str, status: int, code: str, says: str, kind: str
) -> None:
    content = GOOD if kind == JSON else ipc(ROWS.select(["a"]))
    answer = client.post(f"/v1/Probe/{method}", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert says in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text


def test_random_bytes_never_harm(url: str) -> None:
    noise = random.Random(3)
    whole = post(IDENTITY, GOOD)
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(noise.randint(1, 5)):
            broken[noise.randrange(len(broken))] = noise.randrange(256)
        raw = Raw(url).send(bytes(broken))
        raw.socket.shutdown(socket.SHUT_WR)
        raw.until_closed()
        if raw.received:
            assert raw.status in (200, 400, 404, 405, 406, 408, 413, 415, 421, 422, 431, 501), raw.received


def test_the_error_s_text_is_json_whatever_the_caller_sent(client: httpx.Client) -> None:
    name = base64.b64encode(b"\xf0\x28").decode() + "%F0%28"
    answer = client.post(f"/v1/{name}/x", content=GOOD)
    assert answer.status_code == 400
    assert json.loads(answer.content)["error"]["code"] == "INVALID_ARGUMENT"
