"""What reads strangers' bytes without a socket: each reader with bytes that it takes, and what it may raise.

Used by `tests/fuzz/test_parsers.py` for some hundreds of cases each, and by `make fuzz` for some seconds.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import httptools
import pyarrow as pa

from flightserve.clock import NS_PER_S
from flightserve.config import EdgeLimits
from flightserve.errors import FlightserveError, InvalidArgument, ProtocolError
from flightserve.frontends.edge import check_name, meta_of
from flightserve.frontends.flight.sessions import Sessions
from flightserve.frontends.flight.sql_messages import read_command
from flightserve.frontends.grpc.messages import read_call_request
from flightserve.frontends.http import bodies, file_names, origin_policy, ranges, sql, sql_urls
from flightserve.frontends.json.columns import build, parse
from flightserve.frontends.kserve import grpc_messages, http_bodies
from flightserve.frontends.kserve.tensors import column_of
from flightserve.frontends.sql.gateway import Statement
from flightserve.frontends.sql.tickets import Sealed, Tickets
from flightserve.frontends.zmq.messages import metadata_of, name_of, read_fields, split
from flightserve.proto import flightserve_pb2, kserve_pb2
from flightserve.types import DeploymentOptions, DeploymentSpec
from flightserve.wire import between, frames
from flightserve.wire.status import Code
from tests.frontends.rpc_support import GOOD
from tests.fuzz import commands, credentials, settings
from tests.fuzz.findings import check_code
from tests.fuzz.mutation import TEXTS, any_bytes, pieces

LIMITS: Final = EdgeLimits(body_bytes_max=1 << 20, json_bytes_max=1 << 18)
TOKENS: Final = tuple(text.encode() for text in TEXTS)
_SPEC: Final = DeploymentSpec("Probe", "1", DeploymentOptions(), ())


class Parser(NamedTuple):
    """`read` takes any bytes; it returns, or raises one of ours that says whose fault it is."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    # The data plane's own refusals have the code of a fault of ours: there is nobody else there.
    may_raise: tuple[type[Exception], ...] = ()


def check(parser: Parser, data: bytes) -> bool:
    """Whether the reader took the bytes. Raises AssertionError, or what the reader raised, where that is a fault."""
    try:
        parser.read(data)
    except parser.may_raise:
        return False
    except FlightserveError as error:
        check_code(Code(error.code).name, error.message)
        return False
    return True


def case(name: str, seed: int, number: int) -> bytes:
    """Bytes for that reader, which follow from these three."""
    return any_bytes(random.Random(f"{seed}/{name}/{number}"), PARSERS[name].seeds, TOKENS)


def told(name: str, seed: int, number: int) -> str:
    """How to make that case again by itself."""
    return f"{name}, seed {seed}, case {number}: make fuzz ARGS='--seed {seed} --only \"{name}\" --case {number}'"


# ---- the readers


def _fed(decoder: Any, data: bytes) -> int:
    """All at once, and in pieces: the same frames, or the same refusal."""
    dice = random.Random(len(data))
    whole = _frames(decoder(), [data])
    assert whole == _frames(decoder(), pieces(data, dice)), "another reading of the same bytes in pieces"
    if isinstance(whole, ProtocolError):
        raise whole
    return len(whole)


def _frames(decoder: Any, given: Sequence[bytes]) -> Any:
    found = []
    try:
        for piece in given:
            found += list(decoder.feed(piece))
    except ProtocolError as error:
        return _Same(str(error))
    return found


class _Same(ProtocolError):
    """Refusals are equal: how much was read by then depends on the pieces."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    __hash__ = ProtocolError.__hash__


def _json_call(data: bytes) -> None:
    for schema in (None, pa.schema([("a", pa.int64()), ("s", pa.utf8())])):
        body = parse(data, LIMITS, schema)
        batch = build([body], schema)
        batch.validate(full=True)


def _zmq(data: bytes) -> None:
    parts = data.split(b"|")
    message = split([b"peer", *parts])
    fields = read_fields(message.parts, LIMITS)
    name_of(fields, "deployment"), name_of(fields, "method")
    meta_of(metadata_of(fields), _SPEC, LIMITS, NS_PER_S)


def _metadata(data: bytes) -> None:
    text = data.decode("latin-1")
    for name in ("x-timeout-ms", "x-priority", "x-request-id", "x-request-key", "traceparent"):
        try:
            meta = meta_of({name: text}.get, _SPEC, LIMITS, NS_PER_S)
        except FlightserveError as error:
            check_code(Code(error.code).name, error.message)
        else:
            assert meta.deadline_ns > NS_PER_S
            assert "\n" not in meta.request_id + meta.traceparent
    check_name(data.decode("utf-8", "surrogateescape"), LIMITS)


def _range(data: bytes) -> None:
    wanted = ranges.read_range(data)
    if wanted is None:
        raise InvalidArgument("no range")
    placed = ranges.place(wanted, 100)
    assert placed is None or 0 <= placed[0] < placed[1] <= 100, placed


def _packed(how: str, data: bytes) -> None:
    assert sum(map(len, bodies.unpack([data], how, 1 << 16))) <= 1 << 16


def _file_name(data: bytes) -> None:
    line = file_names.disposition(bodies.CSV, data.decode("utf-8", "replace"))
    assert line.count(b"\r\n") == line.endswith(b"\r\n"), line


def _sql_body(data: bytes) -> None:
    asked = sql.parse(data, LIMITS)
    assert isinstance(asked.query, str)


def _url(data: bytes) -> None:
    url = b"/v1/sql?" + data
    try:
        httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError as error:
        raise InvalidArgument("the connection refuses it before") from error
    sql_urls.in_url(url, True)


def _origin(data: bytes) -> None:
    host, _, origin = data.partition(b"|")
    policy = origin_policy.OriginPolicy("127.0.0.1", (), ("https://app.example",))
    pairs = [(b"host", host), (b"origin", origin)]
    lines = policy.check(b"/v1/x/y", "1.1", False, pairs, dict(pairs))
    assert lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r"), lines


def _kserve_http(data: bytes) -> None:
    asked = http_bodies.read_body(data, len(data), "Probe", "")
    for tensor in asked.inputs:
        column_of(tensor, None).validate(full=True)


def _kserve_grpc(data: bytes) -> None:
    asked = grpc_messages.read_asked(*grpc_messages.read_infer_request(data))
    for tensor in asked.inputs:
        column_of(tensor, None).validate(full=True)


_TICKETS: Final = Tickets(b"k" * 32)
_SESSIONS: Final = Sessions(_TICKETS)


def _ticket(data: bytes) -> None:
    opened = _TICKETS.open(data, Sealed)  # type: ignore[type-abstract]
    assert data in _SEALED, f"a ticket that was never sealed was opened: {opened}"


def _authorization(data: bytes) -> None:
    text = data.decode("latin-1")
    _SESSIONS.of(text, None)
    _SESSIONS.of(None, text)


_SEALED: Final = [
    _TICKETS.seal(_TICKETS.query(Statement("lake", "SELECT 1", b""), "ada")),
    _TICKETS.seal(_TICKETS.command(b"SELECT 1", "ada")),
    _TICKETS.seal(_TICKETS.prepared(Statement("lake", "SELECT $1", b""), "")),
]
_CALL: Final = flightserve_pb2.CallRequest(deployment="Probe", method="identity", arrow_stream=GOOD, request_id="r")
_INFER_JSON: Final = json.dumps(
    {
        "id": "1",
        "parameters": {"x": 1},
        "inputs": [
            {"name": "a", "shape": [3], "datatype": "INT64", "data": [1, 2, 3]},
            {"name": "s", "shape": [2, 1], "datatype": "BYTES", "data": [["x"], ["y"]]},
            {"name": "f", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1e9]},
        ],
        "outputs": [{"name": "a", "parameters": {"binary_data": False}}],
    }
).encode()


def _infer_request() -> bytes:
    made = kserve_pb2.ModelInferRequest(model_name="Probe", id="1")
    for name, kind, shape in (("a", "INT64", [2]), ("s", "BYTES", [1])):
        made.inputs.add(name=name, datatype=kind, shape=shape)
    made.raw_input_contents.extend([bytes(16), b"\2\0\0\0ab"])
    return bytes(made.SerializeToString())


_SUBMIT: Final = frames.Submit(
    "Probe@1", "identity", frames.Region(1, 1, 0, 64, 5), [frames.Part(1, 0, 1, 1)], 1, [(1, 1, 64)]
)
_FRAMES: Final = (
    frames.encode([frames.Hello(1, 1, "frontend", True), _SUBMIT]),
    frames.encode([frames.Results(frames.Region(1, 1, 0, 64), [frames.Item(1, 0, 1, True)]), frames.Ping(1)]),
    frames.encode([frames.Done(1, None, 0, True, [1], 5, [frames.Share(frames.Region(1, 2, 3, 4), 1, [0])])]),
)
_BASIC: Final = b"Basic " + base64.b64encode(b"ada:secret")

PARSERS: Final[dict[str, Parser]] = {
    "frames": Parser(_FRAMES, lambda data: _fed(frames.FrameDecoder, data), (ProtocolError,)),
    "carried": Parser(
        [
            between.encode(
                between.Carried([_SUBMIT], [between.InlineRows(frames.Region(1, 1, 0, 4), b"rows")], [(1, 1)])
            )
        ],
        lambda data: _fed(between.CarriedDecoder, data),
        (ProtocolError,),
    ),
    "greetings": Parser(
        [between.encode(between.Challenge(1, "n", b"c" * 32))[4:], between.encode(between.Relay(1, 2))[4:]],
        between.decode_greeting,
        (ProtocolError,),
    ),
    "json": Parser(
        [
            b'{"columns":{"a":[1,2,null],"s":["x","y",null]}}',
            b'{"rows":[{"a":1,"s":"x"},{"a":-2,"s":"\\u00e9"}]}',
            b'{"columns":{"a":[7],"s":["x"]}}',
        ],
        _json_call,
    ),
    "zmq": Parser(
        [
            b'{"deployment":"Probe","method":"identity","x-timeout-ms":500,"x-request-id":"r"}|' + GOOD,
            b'|{"deployment":"Probe","method":"identity","traceparent":null}|',
        ],
        _zmq,
    ),
    "metadata": Parser(
        [b"500", b"9", b"request-1", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", b"Probe"], _metadata
    ),
    "content-type": Parser(
        [b"application/json; charset=utf-8", b"application/vnd.apache.arrow.stream"], bodies.form_in
    ),
    "accept": Parser(
        [b"text/html;q=0.5, application/json, */*;q=0.1", b"text/event-stream"],
        lambda data: bodies.form_out(data, b"application/json"),
    ),
    "content-encoding": Parser([b"gzip", b"zstd"], bodies.packing),
    "range": Parser([b"bytes=0-99", b"bytes=-5", b"bytes=7-"], _range),
    "gzip": Parser([pa.compress(b"x" * 500, "gzip", asbytes=True)], lambda data: _packed("gzip", data)),
    "zstd": Parser([pa.compress(b"x" * 500, "zstd", asbytes=True)], lambda data: _packed("zstd", data)),
    "file names": Parser([b"report", "Zo\u00eb \u20ac".encode(), b"a.csv"], _file_name),
    "sql body": Parser(
        [
            b'{"query":"SELECT 1","parameters":["UA",1],"shape":"rows","integers":"text","nan":"null"}',
            b'{"query":"SELECT $a","parameters":[{"a":1.5},{"a":null}],"warehouse":"lake"}',
        ],
        _sql_body,
    ),
    "sql url": Parser(
        [
            b"query=SELECT+1&format=csv&bom=1&filename=x",
            b"query=SELECT+%24a&p.a=1&integers=number",
            b"query=x&p=1&p=%C3%A9",
        ],
        _url,
    ),
    "origins": Parser(
        [b"localhost:80|https://app.example", b"[::1]:8080|http://[::1]:8080", b"127.0.0.1|http://127.0.0.1"], _origin
    ),
    "kserve json": Parser([_INFER_JSON], _kserve_http),
    "kserve": Parser([_infer_request()], _kserve_grpc),
    "call request": Parser([bytes(_CALL.SerializeToString())], read_call_request),
    "commands": Parser(commands.samples(), read_command),
    "credentials": Parser(credentials.HEADERS, credentials.read_header),
    "web tokens": Parser([credentials.TOKEN], credentials.read_token),
    "issuers' keys": Parser([credentials.KEYS], credentials.read_issuer),
    "auth file": Parser([credentials.FILE], credentials.read_file),
    "settings": Parser([settings.FILE], settings.read_a_file),
    "one setting": Parser(settings.SET, settings.read_one),
    "tickets": Parser(_SEALED, _ticket),
    "authorization": Parser([_BASIC, b"Bearer " + base64.b64encode(_SEALED[0], b"-_")], _authorization),
}
