"""Flight, from a client's side: the public contract of DoExchange, DoPut, the catalogue and the metadata."""

from __future__ import annotations

import datetime
import decimal
import json
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.clock import NS_PER_MS, monotonic_ns
from flightserve.config import EdgeLimits
from tests.frontends.flight.fakes import (
    INPUT,
    Exchange,
    FakeService,
    good_request_works,
    options,
    path,
    rows,
    served,
)
from tests.support import eventually


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[FakeService, str]]:
    with served() as (service, _, address):
        yield service, address
        eventually(lambda: service.lanes_open == 0, what="every lane is given back")


@pytest.fixture
def service(both: tuple[FakeService, str]) -> FakeService:
    return both[0]


@pytest.fixture
def client(both: tuple[FakeService, str]) -> Iterator[Any]:
    with flight.connect(both[1]) as client:
        yield client


# ---- DoExchange


def test_each_batch_is_a_request_and_its_reply_carries_its_metadata(client: Any) -> None:
    with Exchange(client, "echo") as exchange:
        for i in range(5):
            exchange.send(rows(i, i + 1), f"m{i}".encode())
            chunk = exchange.reader.read_chunk()
            assert chunk.data.equals(rows(i, i + 1))
            assert chunk.app_metadata.to_pybytes() == f"m{i}".encode()


def test_without_metadata_the_reply_has_none(client: Any) -> None:
    with Exchange(client, "echo") as exchange:
        exchange.send(rows(1))
        assert exchange.reader.read_chunk().app_metadata is None


def test_a_stream_sent_ahead_is_answered_in_order_though_requests_finish_out_of_order(
    client: Any, service: FakeService
) -> None:
    service.running_max = 0
    count = 300
    with Exchange(client, "reversed") as exchange:

        def send() -> None:
            for i in range(count):
                exchange.send(rows(i), str(i).encode())
            exchange.writer.done_writing()

        sender = threading.Thread(target=send)
        sender.start()
        got = [(chunk.data["a"][0].as_py(), int(chunk.app_metadata.to_pybytes())) for chunk in exchange.reader]
        sender.join()
    assert got == [(i, i) for i in range(count)]
    assert 2 <= service.running_max <= EdgeLimits().stream_window


def test_a_sliced_request_gets_one_reply(client: Any) -> None:
    with Exchange(client, "sliced") as exchange:
        exchange.send(rows(1, 2, 3), b"one")
        exchange.writer.done_writing()
        chunks = list(exchange.reader)
    assert [(c.data, c.app_metadata.to_pybytes()) for c in chunks] == [(rows(1, 2, 3), b"one")]


def test_a_streaming_method_gives_many_replies_all_with_the_metadata(client: Any) -> None:
    with Exchange(client, "stream") as exchange:
        exchange.send(rows(1, 2), b"x")
        exchange.send(rows(3), b"y")
        exchange.writer.done_writing()
        got = [(chunk.data["a"][0].as_py(), chunk.app_metadata.to_pybytes()) for chunk in exchange.reader]
    assert got == [(1, b"x"), (2, b"x"), (3, b"y")]


def test_a_stream_without_batches_ends_cleanly(client: Any, both: tuple[FakeService, str]) -> None:
    with Exchange(client, "echo") as exchange:
        exchange.writer.done_writing()
        assert list(exchange.reader) == []
    with Exchange(client, "typed") as exchange:
        exchange.writer.begin(INPUT)
        exchange.writer.done_writing()
        assert exchange.reader.schema == INPUT
        assert list(exchange.reader) == []
    good_request_works(both[1])


def test_a_reply_schema_that_changes_is_an_internal_error(client: Any, both: tuple[FakeService, str]) -> None:
    with Exchange(client, "changing") as exchange:
        exchange.send(rows(1))
        assert exchange.reader.read_chunk().data.equals(rows(1))
        with pytest.raises(flight.FlightInternalError, match=r"Fake\.changing answered with another schema"):
            exchange.reader.read_chunk()
    good_request_works(both[1])


# ---- DoPut


def test_put_runs_every_batch_and_ends_when_all_have_run(client: Any, service: FakeService) -> None:
    ran = len(service.metas)
    writer, _ = client.do_put(path("typed"), INPUT, options())
    for i in range(10):
        writer.write_batch(rows(i))
    writer.close()
    assert len(service.metas) == ran + 10


def test_a_put_that_fails_says_so(client: Any, both: tuple[FakeService, str]) -> None:
    writer, _ = client.do_put(path("fails"), INPUT, options())
    writer.write_batch(rows(-1))
    with pytest.raises(flight.FlightInternalError, match="below zero"):
        writer.close()
    good_request_works(both[1])


# ---- metadata


def test_the_headers_become_the_requests_meta(client: Any, service: FakeService) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    before_ns = monotonic_ns()
    headers = {"x_timeout_ms": "5000", "x_priority": "7", "x_request_id": "abc", "traceparent": traceparent}
    with Exchange(client, "echo", **headers) as exchange:
        exchange.call(rows(1))
        first = service.metas[-1]
        exchange.call(rows(2))
        second = service.metas[-1]
    assert (first.priority, first.request_id, first.traceparent) == (7, "abc", traceparent)
    assert before_ns + 5000 * NS_PER_MS <= first.deadline_ns <= monotonic_ns() + 5000 * NS_PER_MS
    assert second.deadline_ns > first.deadline_ns, "the timeout counts from each batch's arrival"


class SeenHeaders(flight.ClientMiddlewareFactory):
    """Keeps the headers that the server sent."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[dict[str, list[str]]] = []

    def start_call(self, info: Any) -> Any:
        return _SeenHeaders(self.received)


class _SeenHeaders(flight.ClientMiddleware):
    def __init__(self, received: list[dict[str, list[str]]]) -> None:
        super().__init__()
        self._received = received

    def received_headers(self, headers: dict[str, list[str]]) -> None:
        self._received.append(headers)


def test_the_request_id_is_echoed_and_made_up_when_absent(both: tuple[FakeService, str]) -> None:
    seen = SeenHeaders()
    with flight.connect(both[1], middleware=[seen]) as client:
        client.get_flight_info(path("echo"), options(x_request_id="mine"))
        client.get_flight_info(path("echo"), options())
        with Exchange(client, "echo", x_request_id="streamed") as exchange:
            exchange.call(rows(1))
    ids = {value for headers in seen.received for value in headers.get("x-request-id", [])}
    assert {"mine", "streamed"} < ids
    assert len(ids) == 3


def test_an_id_is_told_once_and_is_the_requests_own(both: tuple[FakeService, str], service: FakeService) -> None:
    seen = SeenHeaders()
    with flight.connect(both[1], middleware=[seen]) as client:

        def told() -> list[str]:
            ids = [value for headers in seen.received for value in headers.get("x-request-id", [])]
            seen.received.clear()
            return ids

        with Exchange(client, "echo") as exchange:
            exchange.call(rows(1))
        assert told() == [service.metas[-1].request_id]
        writer, _ = client.do_put(path("typed"), INPUT, options())
        writer.write_batch(rows(1))
        writer.close()
        assert told() == [service.metas[-1].request_id]
        client.get_flight_info(path("echo"), options(x_request_id="mine"))
        assert told() == ["mine"]
        client.get_flight_info(path("echo"), options())
        assert len(told()) == 1
        with pytest.raises(KeyError):
            client.get_flight_info(path("nothing"), options(x_request_id="mine"))
        assert told() == ["mine"]
        client.get_schema(path("typed"), options(x_request_id="mine"))
        assert told() == ["mine"]
        list(client.list_flights(options=options(x_request_id="mine")))
        assert told() == ["mine"]
        list(client.do_action("healthz", options(x_request_id="mine")))
        assert told() == ["mine"]


def test_requests_are_counted_by_their_outcome() -> None:
    with served() as (service, _, address), flight.connect(address) as client:
        with Exchange(client, "fails") as exchange:
            exchange.call(rows(1))
            exchange.send(rows(-1))
            with pytest.raises(flight.FlightInternalError):
                exchange.reader.read_chunk()
        text = service.metrics.text().decode()
        for code in ("OK", "INTERNAL"):
            line = f'requests_total{{code="{code}",deployment="Fake",frontend="flight",method="fails"}} 1.0'
            assert line in text


# ---- the catalogue


def test_every_method_is_listed_with_its_options(client: Any, service: FakeService) -> None:
    infos = {tuple(info.descriptor.path): info for info in client.list_flights()}
    assert set(infos) == {(b"Fake", method.name.encode()) for method in service.spec.methods}
    about = json.loads(infos[b"Fake", b"stream"].app_metadata)
    assert about["streaming"] is True
    assert about["deployment"] == "Fake"


@pytest.mark.parametrize(
    ("method", "schema", "schema_of"),
    [("typed", INPUT, "output"), ("takes", INPUT, "input"), ("echo", pa.schema([]), "nothing")],
)
def test_the_schema_is_the_outputs_else_the_inputs_else_empty(
    client: Any, method: str, schema: pa.Schema, schema_of: str
) -> None:
    info = client.get_flight_info(path(method))
    assert info.schema == client.get_schema(path(method)).schema == schema
    assert json.loads(info.app_metadata)["schema_of"] == schema_of
    assert info.endpoints == []


def test_the_actions(client: Any, service: FakeService) -> None:
    assert {"healthz", "readyz"} <= {action.type for action in client.list_actions()}
    assert json.loads(next(client.do_action("healthz")).body.to_pybytes()) == {"ready": True}
    service.is_ready = False
    try:
        with pytest.raises(flight.FlightUnavailableError):
            list(client.do_action("readyz"))
    finally:
        service.is_ready = True
    assert list(client.do_action("readyz"))


# ---- Arrow types


class Celsius(pa.ExtensionType):
    """An extension type that the server does not know."""

    def __init__(self) -> None:
        super().__init__(pa.float32(), "tests.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Celsius:
        return cls()


def _union(mode: str) -> pa.Array:
    types = pa.array([0, 1, 0], pa.int8())
    if mode == "sparse":
        return pa.UnionArray.from_sparse(types, [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])])
    return pa.UnionArray.from_dense(types, pa.array([0, 0, 1], pa.int32()), [pa.array([1, 3]), pa.array(["b"])])


ARRAYS = {
    "null": pa.nulls(3),
    "ints with nulls": pa.array([1, None, -(2**63)], pa.int64()),
    "bool": pa.array([True, None, False]),
    "float16": pa.array([1.5, None, float("inf")], pa.float16()),
    "string": pa.array(["a", None, "grün"]),
    "large string": pa.array(["a", None, ""], pa.large_string()),
    "string view": pa.array(["short", None, "longer than twelve bytes"], pa.string_view()),
    "binary": pa.array([b"\0", None, b"xyz"]),
    "binary view": pa.array([b"\0" * 20, None, b""], pa.binary_view()),
    "fixed binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
    "large list": pa.array([["x"], None, []], pa.large_list(pa.string())),
    "fixed list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "list of dictionary": pa.array([["p", "q"], None, ["p"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    "decimal128": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-9.99")], pa.decimal128(10, 2)),
    "decimal256": pa.array([decimal.Decimal(10) ** 50, None, decimal.Decimal(0)], pa.decimal256(60, 0)),
    "date": pa.array([datetime.date(2013, 1, 1), None, datetime.date(1900, 1, 1)]),
    "time": pa.array([datetime.time(1, 2, 3), None, datetime.time(0)], pa.time64("ns")),
    "timestamp": pa.array([0, None, 2**62], pa.timestamp("ns", tz="America/New_York")),
    "duration": pa.array([1, None, -1], pa.duration("us")),
    "interval": pa.array([(1, 2, 3), None, (0, 0, 0)], pa.month_day_nano_interval()),
    "sparse union": _union("sparse"),
    "dense union": _union("dense"),
    "extension": pa.ExtensionArray.from_storage(Celsius(), pa.array([1.0, None, 2.0], pa.float32())),
    "run ends": pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", None])),
}


@pytest.fixture
def celsius() -> Iterator[None]:
    pa.register_extension_type(Celsius())
    yield
    pa.unregister_extension_type("tests.celsius")


def test_an_extension_type_that_nobody_registered_keeps_its_name(client: Any) -> None:
    with Exchange(client, "echo") as exchange:
        got = exchange.call(pa.record_batch({"c": ARRAYS["extension"]}))
    assert got.schema.field("c").type == pa.float32()
    assert got.schema.field("c").metadata[b"ARROW:extension:name"] == b"tests.celsius"


@pytest.mark.usefixtures("celsius")
@pytest.mark.parametrize("kind", ARRAYS)
def test_every_type_passes_unharmed(client: Any, kind: str) -> None:
    batch = pa.record_batch([ARRAYS[kind]], schema=pa.schema([pa.field("c", ARRAYS[kind].type, metadata={"k": "v"})]))
    with Exchange(client, "echo") as exchange:
        for sent in (batch, batch.slice(0, 0), batch.slice(1, 2)):
            got = exchange.call(sent)
            assert got.schema.equals(sent.schema, check_metadata=True)
            got.validate(full=True)
            assert got.to_pylist() == sent.to_pylist()


def test_dictionaries_may_change_from_batch_to_batch(client: Any) -> None:
    batches = [
        pa.record_batch({"c": pa.array(values).dictionary_encode()})
        for values in (["x", "y"], ["x", "y", "z"], ["q"], ["q"])
    ]
    with Exchange(client, "echo") as exchange:
        for sent in batches:
            assert exchange.call(sent).to_pylist() == sent.to_pylist()
