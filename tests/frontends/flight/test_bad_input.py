"""What strangers send over Flight: each gets its code (docs/explanation/promises.md), and then the next good request
works."""

from __future__ import annotations

import gc
import random
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.config import EdgeLimits
from flightserve.errors import InvalidArgument
from flightserve.frontends.flight.errors import mapped
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
from tests.frontends.flight.raw_messages import RawExchange, flight_data, messages, patched, stream
from tests.support import eventually

LIMITS = EdgeLimits(body_bytes_max=1 << 20, streams_max=4, stream_idle_timeout_s=0.2)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[FakeService, str]]:
    with served(EdgeLimits(body_bytes_max=1 << 20)) as (service, _, address):
        yield service, address


@pytest.fixture
def service(shared: tuple[FakeService, str]) -> FakeService:
    return shared[0]


@pytest.fixture
def address(shared: tuple[FakeService, str]) -> Iterator[str]:
    """The shared server's; after the test nothing is left of it and a good request works."""
    service, address = shared
    yield address
    eventually(lambda: service.lanes_open == 0 and service.running == 0, what="lanes and requests end")
    good_request_works(address)


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with flight.connect(address) as client:
        yield client


def refused(client: Any, method: str, *batches: pa.RecordBatch, descriptor: Any = None, **headers: str) -> str:
    """Send the batches, expect the stream to end with the exception; returns its message."""
    with Exchange(client, method, descriptor, **headers) as exchange:
        try:
            for batch in batches:
                exchange.send(batch)
            exchange.writer.done_writing()
        except (pa.ArrowException, OSError):
            pass  # refused already; the reader says why
        exchange.reader.read_all()
    return ""


# ---- tickets, names, actions


@pytest.mark.parametrize("ticket", [b"", b"random \xff\x00", random.Random(1).randbytes(200), b"x" * 10_000])
def test_a_bad_ticket(client: Any, ticket: bytes) -> None:
    with pytest.raises(pa.ArrowInvalid, match="not a ticket of this server"):
        client.do_get(flight.Ticket(ticket), options()).read_all()


@pytest.mark.parametrize("names", [("Nope", "echo"), ("Fake", "nope")])
def test_an_unknown_method(client: Any, names: tuple[str, str]) -> None:
    descriptor = flight.FlightDescriptor.for_path(*names)
    with pytest.raises(KeyError, match="no method"):
        refused(client, "", rows(1), descriptor=descriptor)
    for call in (client.get_flight_info, client.get_schema):
        with pytest.raises(KeyError, match="no method"):
            call(descriptor, options())
    writer, _ = client.do_put(descriptor, INPUT, options())
    with pytest.raises(KeyError, match="no method"):
        writer.close()


@pytest.mark.parametrize(
    "names",
    [(b"../x", b"echo"), (b"Fake", b"%2e%2e"), (b"Fake", b"a\0b"), (b"x" * 10_000, b"echo"),
     (b"",), (b"Fake",), (b"Fake", b"echo", b"more"), (b"", b"")],
)  # fmt: skip
def test_bad_names(client: Any, names: tuple[bytes, ...]) -> None:
    with pytest.raises((pa.ArrowInvalid, KeyError)):
        refused(client, "", rows(1), descriptor=flight.FlightDescriptor.for_path(*names))
    with pytest.raises((pa.ArrowInvalid, KeyError)):
        client.get_flight_info(flight.FlightDescriptor.for_path(*names), options())


def test_names_that_are_not_utf_8_are_refused_by_pyarrow_itself(client: Any) -> None:
    with pytest.raises(pa.ArrowException):
        refused(client, "", rows(1), descriptor=flight.FlightDescriptor.for_path(b"Fake", b"\xff\xfe"))


def test_unknown_actions_and_commands(client: Any) -> None:
    for action in ("nope", "", "x" * 10_000):
        with pytest.raises(NotImplementedError, match="no action"):
            list(client.do_action(action, options()))
    command = flight.FlightDescriptor.for_command(b"SELECT 1")
    with pytest.raises(NotImplementedError, match="no warehouse is deployed"):
        client.get_flight_info(command, options())
    with pytest.raises(NotImplementedError, match="a command is SQL"):
        refused(client, "", rows(1), descriptor=command)


# ---- size


def test_a_batch_over_the_limit_by_a_byte(client: Any) -> None:
    fits = pa.record_batch({"a": pa.array([b"x" * ((1 << 20) - 8)], pa.binary())})
    over = pa.record_batch({"a": pa.array([b"x" * ((1 << 20) - 7)], pa.binary())})
    with Exchange(client, "echo") as exchange:
        assert exchange.call(fits).num_rows == 1
        exchange.send(over)
        with pytest.raises(flight.FlightUnavailableError, match="at most 1048576"):
            exchange.reader.read_chunk()


# ---- malformed Arrow


def raw(address: str, *sent: bytes, **more: Any) -> tuple[Any, str, int]:
    with RawExchange(address) as exchange:
        return exchange.outcome(sent, **more)


STRINGS = pa.record_batch({"s": ["one", "two"]})
NAMES = (b"Fake", b"echo")


def test_the_hand_written_messages_are_right(address: str) -> None:
    assert raw(address, *stream(STRINGS)) == (grpc.StatusCode.OK, "", 2)


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        pytest.param(pa.int64(), b"\x80aaa", "cannot be read", id="a name that is not UTF-8"),
        pytest.param(pa.struct([("aaaa", pa.int64())]), b"\xffaaa", "cannot be read", id="such a name inside"),
        pytest.param(pa.timestamp("s", "aaaa"), b"\x80aaa", "cannot be read", id="such a time zone"),
        pytest.param(pa.decimal128(38, 2000), b"aaaa", "a decimal with the scale 2000", id="a decimal out of bounds"),
    ],
)
def test_a_schema_that_http_refuses_is_refused(address: str, kind: pa.DataType, name: bytes, why: str) -> None:
    (schema, _), rows = messages(pa.RecordBatch.from_arrays([pa.array([], kind)], ["aaaa"]))
    code, details, _ = raw(address, flight_data(schema.replace(b"aaaa", name), path=NAMES), flight_data(*rows))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and why in details


def _with_body(body_of: Any) -> list[bytes]:
    (schema, _), (header, body) = messages(STRINGS)
    return [flight_data(schema, path=NAMES), flight_data(header, body_of(body))]


@pytest.mark.parametrize(
    "body_of",
    [
        pytest.param(lambda body: body.replace(b"\x03\0\0\0", b"\xff\xff\xff\x7f", 1), id="offset out of range"),
        pytest.param(lambda body: body.replace(b"\x03\0\0\0", b"\xff\xff\xff\xff", 1), id="negative length"),
        pytest.param(lambda body: body.replace(b"onetwo", b"\xff\xfe\xfdtwo"), id="not UTF-8"),
        pytest.param(lambda body: body[:8], id="truncated"),
        pytest.param(lambda body: b"", id="no body"),
    ],
)
def test_a_body_that_does_not_hold_what_it_claims(address: str, body_of: Any) -> None:
    code, details, _ = raw(address, *_with_body(body_of))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details
    assert "Traceback" not in details


@pytest.mark.parametrize("seed", range(20))
def test_random_headers(address: str, seed: int) -> None:
    rng = random.Random(seed)
    (schema, _), (header, body) = messages(STRINGS)
    broken = bytearray(header)
    for _ in range(4):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    code, details, _ = raw(address, flight_data(schema, path=NAMES), flight_data(bytes(broken), body))
    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK}, details


def test_a_huge_uncompressed_length(address: str) -> None:
    batch = pa.record_batch({"s": ["x" * 10_000]})
    (schema, _), (header, body) = messages(batch, compression="lz4")
    at = body.index(pa.Codec("lz4").compress(b"x" * 10_000, asbytes=True)[:4]) - 8
    huge = patched(body, at, 1 << 46, "<q")
    code, details, _ = raw(address, flight_data(schema, path=NAMES), flight_data(header, huge))
    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE}, details


def test_a_batch_before_the_schema(address: str) -> None:
    _, (header, body) = messages(STRINGS)
    code, details, _ = raw(address, flight_data(path=NAMES), flight_data(header, body))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details
    # In the very first message pyarrow refuses it before any handler is called.
    code, details, _ = raw(address, flight_data(header, body, path=NAMES))
    assert code == grpc.StatusCode.UNKNOWN, details


def test_a_schema_that_changes(address: str) -> None:
    other = messages(pa.record_batch({"n": [1]}))
    code, details, _ = raw(address, *stream(STRINGS), *[flight_data(header, body) for header, body in other])
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details


def test_a_dictionary_index_out_of_range(address: str) -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), ["x", "y"])
    (schema, _), dictionary, (header, body) = messages(pa.record_batch({"d": array}))
    code, details, _ = raw(
        address,
        flight_data(schema, path=NAMES),
        flight_data(*dictionary),
        flight_data(header, body.replace(b"\x01\0\0\0", b"\x63\0\0\0", 1)),
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details


def test_a_missing_dictionary(address: str) -> None:
    (schema, _), _, (header, body) = messages(pa.record_batch({"d": pa.array(["x"]).dictionary_encode()}))
    code, details, _ = raw(address, flight_data(schema, path=NAMES), flight_data(header, body))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details


def test_nesting_beyond_the_limit(address: str) -> None:
    kind = pa.int8()
    for _ in range(66):
        kind = pa.list_(kind)
    # The writer refuses what we want to send: a schema by itself, and rows of another.
    schema = pa.schema([("deep", kind)]).serialize().to_pybytes()[8:]
    _, (header, body) = messages(STRINGS)
    code, details, _ = raw(address, flight_data(schema, path=NAMES), flight_data(header, body))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, details


def test_columns_beyond_the_limit(client: Any) -> None:
    with pytest.raises(pa.ArrowInvalid, match="has 10001 fields; at most 10000"):
        refused(client, "echo", pa.record_batch({f"c{i}": [i] for i in range(10_001)}))


# ---- the wrong batch


@pytest.mark.parametrize("batch", [pa.record_batch({"b": [1]}), pa.record_batch({"a": ["x"]})])
def test_wrong_columns_or_types(client: Any, batch: pa.RecordBatch) -> None:
    with pytest.raises(pa.ArrowInvalid, match=r"Fake\.typed takes"):
        refused(client, "typed", batch)


def test_no_rows_and_no_columns(client: Any) -> None:
    with Exchange(client, "echo") as exchange:
        assert exchange.call(rows()).num_rows == 0
    with Exchange(client, "echo") as exchange:
        assert exchange.call(pa.record_batch([], schema=pa.schema([]))).num_columns == 0


def test_a_message_without_a_batch(client: Any) -> None:
    with Exchange(client, "echo") as exchange:
        exchange.writer.write_metadata(b"only this")
        with pytest.raises(pa.ArrowInvalid, match="without a record batch"):
            exchange.reader.read_chunk()


# ---- headers


def test_large_headers(address: str) -> None:
    with RawExchange(address) as exchange:
        code, _, _ = exchange.outcome(stream(STRINGS), metadata=[("x-big", "x" * 65536)])
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("text", ["", "abc", "-1", "1.5", "0x10", "9" * 100 + "x"])
def test_a_malformed_timeout(client: Any, text: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match="x-timeout-ms"):
        refused(client, "echo", rows(1), x_timeout_ms=text)


def test_passed_short_and_absurd_timeouts(client: Any, service: FakeService) -> None:
    with pytest.raises(flight.FlightTimedOutError):
        refused(client, "echo", rows(1), x_timeout_ms="0")
    with pytest.raises(flight.FlightTimedOutError, match="the deadline passed"):
        refused(client, "waits", rows(1), x_timeout_ms="1")
    with Exchange(client, "echo", x_timeout_ms="9" * 100) as exchange:
        assert exchange.call(rows(1)).num_rows == 1
    assert service.metas[-1].deadline_ns < 2**63


def test_the_timeout_of_a_client_that_waits_for_its_reply(client: Any) -> None:
    with Exchange(client, "waits", x_timeout_ms="50") as exchange:
        exchange.send(rows(1))
        with pytest.raises(flight.FlightTimedOutError, match="the deadline passed while the method ran"):
            exchange.reader.read_chunk()


@pytest.mark.parametrize("priority", ["10", "-1", "x", ""])
def test_a_malformed_priority(client: Any, priority: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match="x-priority"):
        refused(client, "echo", rows(1), x_priority=priority)


def test_a_full_queue_is_unavailable(client: Any) -> None:
    with pytest.raises(flight.FlightUnavailableError, match="the queue of Fake is full"):
        refused(client, "full", rows(1))


@pytest.mark.parametrize("traceparent", ["nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", ""])
def test_a_malformed_traceparent_is_ignored(client: Any, service: FakeService, traceparent: str) -> None:
    with Exchange(client, "echo", traceparent=traceparent) as exchange:
        assert exchange.call(rows(1)).num_rows == 1
    assert service.metas[-1].traceparent == ""


# ---- methods that fail


def test_the_replies_before_a_failure_are_delivered(client: Any) -> None:
    with Exchange(client, "fails") as exchange:
        # Nothing behind it: pyarrow's writer would drop what came before, where the stream has ended by then.
        for i in (1, 2, -3):
            exchange.send(rows(i), str(i).encode())
        got = []
        with pytest.raises(flight.FlightInternalError, match=r"Fake\.fails raised ValueError: below zero") as raised:
            got.extend(chunk.app_metadata.to_pybytes() for chunk in exchange.reader)
    assert got == [b"1", b"2"]
    assert "Traceback" not in str(raised.value)


def test_a_client_that_waits_gets_the_error_at_once(client: Any) -> None:
    with Exchange(client, "fails") as exchange:
        assert exchange.call(rows(1)).equals(rows(1))
        exchange.send(rows(-1))
        with pytest.raises(flight.FlightInternalError, match="below zero"):
            exchange.reader.read_chunk()


def test_our_own_bug_is_internal_and_says_little(client: Any) -> None:
    with pytest.raises(flight.FlightInternalError, match="our bug"):
        refused(client, "bug", rows(1))


# ---- clients that do not play along


def open_sockets() -> int:
    """Sockets this process has open; the client's and the server's ends are both in it."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except OSError:  # the listing's own descriptor
            continue
    return found


def test_a_client_that_leaves_mid_request_gets_its_request_cancelled(client: Any, service: FakeService) -> None:
    with Exchange(client, "waits") as exchange:
        exchange.send(rows(1))
        eventually(lambda: service.running == 1)
        exchange.reader.cancel()
        eventually(lambda: service.running == 0, what="the request is cancelled")


def test_a_stream_on_which_nothing_is_sent_is_ended() -> None:
    with served(LIMITS) as (service, frontend, address):
        with flight.connect(address) as client, Exchange(client, "echo") as exchange:
            exchange.writer.begin(INPUT)
            eventually(lambda: frontend.statistics()["streams_open"] == 1)
            with pytest.raises((pa.ArrowException, OSError)):
                exchange.reader.read_chunk()
            eventually(lambda: frontend.statistics()["streams_open"] == 0 and service.lanes_open == 0)
        good_request_works(address)


def test_a_put_on_which_nothing_is_sent_is_ended() -> None:
    with served(LIMITS) as (service, frontend, address):
        with flight.connect(address) as client:
            writer, reader = client.do_put(path("typed"), INPUT, options())
            eventually(lambda: frontend.statistics()["streams_open"] == 1)
            eventually(lambda: frontend.statistics()["streams_open"] == 0 and service.lanes_open == 0)
            with pytest.raises((pa.ArrowException, OSError)):
                writer.close()
            del reader
        good_request_works(address)


def test_an_idle_stream_beside_an_active_one_is_left_alone() -> None:
    with served(LIMITS) as (_, frontend, address):
        with flight.connect(address) as client, Exchange(client, "echo") as idle, Exchange(client, "echo") as active:
            idle.call(rows(0))
            rounds = iter(range(10**6))

            def cut_would_have_come() -> bool:
                assert active.call(rows(next(rounds))).num_rows == 1
                server: Any = frontend._server
                return any(stream.idle_s(server.streams._clock()) > 0.5 for stream in list(server.streams._streams))

            eventually(cut_would_have_come)
            assert idle.call(rows(7)).equals(rows(7))


def test_a_reader_that_never_reads_is_ended_and_holds_a_bounded_window() -> None:
    batch = pa.record_batch({"a": pa.array(range(100_000), pa.int64())})
    with served(LIMITS) as (service, frontend, address):
        with flight.connect(address) as client, Exchange(client, "echo") as exchange:
            try:
                for _ in range(2_000):
                    exchange.send(batch)
                    assert frontend.statistics()["in_flight"] <= LIMITS.stream_window
                pytest.fail("the server took 1.6 GB for a client that does not read")
            except (pa.ArrowException, OSError):
                eventually(lambda: frontend.statistics()["streams_open"] == 0 and service.lanes_open == 0)
        good_request_works(address)


def test_a_client_whose_connection_breaks(address: str, service: FakeService) -> None:
    host, port = address.removeprefix("grpc://").rsplit(":", 1)
    for sent in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", random.Random(2).randbytes(4096)):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert service.lanes_open == 0


def test_a_stream_refused_at_the_last_moment_leaves_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others came in between, or the end of the frontend did."""
    with served(LIMITS) as (service, frontend, address):
        open_lane = service.open_lane

        def overtaken() -> Any:
            lane = open_lane()
            frontend.drain(0)
            return lane

        monkeypatch.setattr(service, "open_lane", overtaken)
        with flight.connect(address) as client:
            with pytest.raises(flight.FlightUnavailableError, match="draining"):
                refused(client, "echo", rows(1))
        eventually(lambda: service.lanes_open == 0)


def test_more_streams_than_may_be_open_are_refused() -> None:
    with served(LIMITS) as (_, frontend, address):
        with flight.connect(address) as client:
            held = [Exchange(client, "waits") for _ in range(LIMITS.streams_max)]
            for exchange in held:
                exchange.send(rows(1))
            eventually(lambda: frontend.statistics()["in_flight"] == LIMITS.streams_max)
            with pytest.raises(flight.FlightUnavailableError, match="4 streams are open"):
                refused(client, "echo", rows(1))
            for exchange in held:
                exchange.reader.cancel()
                exchange.__exit__()
            eventually(lambda: frontend.statistics()["streams_open"] == 0)
        good_request_works(address)


def test_what_a_handler_raised_for_keeps_nothing_of_the_call() -> None:
    """A writer keeps the dictionaries that it has sent, and they their leases: until the next collection, were the
    error and its frame to hold each other."""

    class Writer:
        """Stands for pyarrow's."""

    writer = Writer()
    gone = weakref.ref(writer)

    def handler(_: object) -> None:
        raise InvalidArgument("no")

    gc.disable()
    try:
        with pytest.raises(pa.ArrowInvalid):
            mapped(handler)(writer)
        del writer
        assert gone() is None
    finally:
        gc.enable()
