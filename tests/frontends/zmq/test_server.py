"""The ZeroMQ frontend, through a real ROUTER socket and real clients: REQ, DEALER, bad input, bounds, drain."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from flightserve.config import EdgeLimits
from flightserve.errors import Unavailable
from flightserve.frontends.zmq import server as zmq_frontend
from flightserve.wire.status import Code
from tests.frontends.rpc_support import BAD_STREAMS, GOOD, ONE_INT, WATCHED, batch_of, read, served, stream_of
from tests.support import eventually

LIMIT = 8 << 20
LIMITS = EdgeLimits(body_bytes_max=LIMIT, header_bytes_max=4096, header_timeout_s=1.0)
WAIT_MS = 10_000


def test_a_message_whose_connection_is_gone_is_nobodys() -> None:
    assert zmq_frontend._descriptor_of(zmq.Frame(b"x")) == -1


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with served(LIMITS, zmq_port=0) as host:
        yield host


@pytest.fixture
def statistics(host: Any) -> Any:
    return host._running["zmq"].statistics


@contextmanager
def client(host: Any, kind: int = zmq.DEALER, **options: int) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as sock:
        for name, value in {"LINGER": 0, "RCVTIMEO": WAIT_MS, "SNDTIMEO": WAIT_MS, **options}.items():
            sock.setsockopt(getattr(zmq, name), value)
        sock.connect(host.addresses["zmq"])
        yield sock


@pytest.fixture
def dealer(host: Any) -> Iterator[zmq.Socket[bytes]]:
    with client(host) as sock:
        yield sock


def port_of(host: Any) -> int:
    return int(host.addresses["zmq"].rpartition(":")[2])


def header(method: Any = "identity", deployment: Any = "Probe", **metadata: Any) -> bytes:
    fields = {"deployment": deployment, "method": method}
    return json.dumps({**fields, **{name.replace("_", "-"): value for name, value in metadata.items()}}).encode()


def answer(sock: zmq.Socket[bytes]) -> tuple[dict[str, Any], bytes]:
    told, body = sock.recv_multipart()
    return json.loads(told), body


def ask(sock: zmq.Socket[bytes], head: bytes, stream: bytes = GOOD, *more: bytes) -> tuple[dict[str, Any], bytes]:
    sock.send_multipart([head, stream, *more])
    return answer(sock)


def refused(sock: zmq.Socket[bytes], head: bytes, stream: bytes = GOOD, *more: bytes) -> dict[str, Any]:
    """The header of a reply that must be an error, after which the next good request works."""
    told, body = ask(sock, head, stream, *more)
    assert body == b""
    assert told["code"] != "OK"
    assert told["message"]
    assert told["request_id"]
    still_works(sock)
    return told


def still_works(sock: zmq.Socket[bytes]) -> None:
    told, body = ask(sock, header())
    assert told["code"] == "OK", told
    assert read(body).to_pydict() == {"a": [1, 2, 3]}


# ---- what works


def test_a_dealer_with_and_without_a_delimiter(dealer: zmq.Socket[bytes]) -> None:
    told, body = ask(dealer, header(x_request_id="mine"))
    assert told == {"request_id": "mine", "code": "OK"}
    assert read(body).to_pydict() == {"a": [1, 2, 3]}
    dealer.send_multipart([b"", header(x_request_id="yours"), GOOD])
    delimiter, told_bytes, body = dealer.recv_multipart()
    assert (delimiter, json.loads(told_bytes)["request_id"]) == (b"", "yours")
    assert read(body).num_rows == 3


def test_a_req_socket(host: Any) -> None:
    with client(host, zmq.REQ) as sock:
        for _ in range(3):
            still_works(sock)
        assert refused(sock, b"nonsense")["code"] == "INVALID_ARGUMENT"
        sock.send(b"one part")
        assert answer(sock)[0]["code"] == "INVALID_ARGUMENT"
        still_works(sock)


def test_through_a_device(host: Any) -> None:
    """A ROUTER-DEALER device between: its routing id is part of the envelope."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as front, context.socket(zmq.DEALER) as back:
        port = front.bind_to_random_port("tcp://127.0.0.1")
        back.connect(host.addresses["zmq"])
        with context.socket(zmq.REQ) as sock:
            sock.setsockopt(zmq.RCVTIMEO, WAIT_MS)
            sock.connect(f"tcp://127.0.0.1:{port}")
            sock.send_multipart([header(), GOOD])
            back.send_multipart(front.recv_multipart())
            assert back.poll(WAIT_MS)
            front.send_multipart(back.recv_multipart())
            assert answer(sock)[0]["code"] == "OK"


def test_ids_are_made_up_and_pipelined_requests_told_apart(dealer: zmq.Socket[bytes]) -> None:
    for number in range(500):
        dealer.send_multipart([header(x_request_id=str(number)), stream_of(batch_of(number))])
    replies = {}
    for _ in range(500):
        told, body = answer(dealer)
        replies[int(told["request_id"])] = read(body).column("a")[0].as_py()
    assert replies == {number: number for number in range(500)}
    first, second = ask(dealer, header())[0], ask(dealer, header())[0]
    assert first["request_id"] != second["request_id"]


def test_large_bodies_and_replies(dealer: zmq.Socket[bytes]) -> None:
    rows = LIMIT // 8 - 200
    told, body = ask(dealer, header(), stream_of(batch_of(*range(rows))))
    assert told["code"] == "OK"
    assert read(body).column("a")[rows - 1].as_py() == rows - 1


def test_a_streaming_methods_batches_come_in_one_stream(dealer: zmq.Socket[bytes]) -> None:
    _, body = ask(dealer, header("pieces"))
    assert [batch.num_rows for batch in pa.ipc.open_stream(body)] == [1, 1, 1]
    assert refused(dealer, header("large"), stream_of(batch_of(50)))["code"] == "RESOURCE_EXHAUSTED"


# ---- bad input (docs/explanation/promises.md)


@pytest.mark.parametrize(
    "head",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 4000, b"{}", b'{"deployment": "Probe"}', header(5), header(None)],
)
def test_headers_that_are_none(dealer: zmq.Socket[bytes], head: bytes) -> None:
    # An empty part first would be a delimiter; with one before it, it is a header.
    dealer.send_multipart([b"", head, GOOD])
    delimiter, told, body = dealer.recv_multipart()
    assert (delimiter, body) == (b"", b"")
    assert json.loads(told)["code"] == "INVALID_ARGUMENT"
    still_works(dealer)


@pytest.mark.parametrize("parts", [[b"x"], [header()], [header(), GOOD, b"more"], [b"x"] * 40, [b""], [b"", b""]])
def test_another_number_of_parts(dealer: zmq.Socket[bytes], parts: list[bytes]) -> None:
    dealer.send_multipart(parts)
    told, body = [part for part in dealer.recv_multipart() if part] + [b""]
    assert (json.loads(told)["code"], body) == ("INVALID_ARGUMENT", b"")
    still_works(dealer)


def test_a_header_over_its_limit(dealer: zmq.Socket[bytes]) -> None:
    assert refused(dealer, header(pad="x" * 5000))["code"] == "RESOURCE_EXHAUSTED"
    assert refused(dealer, header(**{f"k{n}": 1 for n in range(300)}))["code"] == "RESOURCE_EXHAUSTED"


def test_a_body_at_the_limit_and_one_byte_over(dealer: zmq.Socket[bytes]) -> None:
    padded = GOOD + b"\0" * (LIMIT - len(GOOD))
    assert refused(dealer, header(), padded)["code"] == "INVALID_ARGUMENT"  # taken, and found to have trailing bytes
    told = refused(dealer, header(), padded + b"\0")
    assert told["code"] == "RESOURCE_EXHAUSTED"
    assert str(LIMIT) in told["message"]


def test_a_frame_libzmq_itself_refuses_closes_only_its_connection(host: Any, dealer: zmq.Socket[bytes]) -> None:
    still_works(dealer)
    with client(host) as other, other.get_monitor_socket() as monitor:
        still_works(other)
        other.send_multipart([header(), b"x" * (LIMIT + (1 << 20))])
        while (event := recv_monitor_message(monitor)["event"]) != zmq.EVENT_DISCONNECTED:
            assert event
        other.disable_monitor()
    still_works(dealer)


@pytest.mark.parametrize(
    ("deployment", "method"), [("Nope", "identity"), ("Probe", "nope"), ("", ""), ("Probe", "__init__")]
)
def test_unknown_names(dealer: zmq.Socket[bytes], deployment: str, method: str) -> None:
    assert refused(dealer, header(method, deployment))["code"] == "NOT_FOUND"


@pytest.mark.parametrize("name", ["../x", "%2e%2e", "a\0b", "x" * 3000, "a/b"])
def test_names_that_are_none(dealer: zmq.Socket[bytes], name: str) -> None:
    for deployment, method in ((name, "identity"), ("Probe", name)):
        assert refused(dealer, header(method, deployment))["code"] in ("INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_streams_that_are_none(dealer: zmq.Socket[bytes], name: str) -> None:
    told = refused(dealer, header(), BAD_STREAMS[name])
    assert told["code"] in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    assert "internal" not in told["message"]


def test_wrong_columns_and_types(dealer: zmq.Socket[bytes]) -> None:
    for columns in ({"b": [1]}, {"a": ["x"]}, {"a": [1], "b": [2]}):
        stream = stream_of(pa.RecordBatch.from_pydict(columns))
        assert refused(dealer, header("typed"), stream)["code"] == "INVALID_ARGUMENT"


def test_no_rows_and_no_columns(dealer: zmq.Socket[bytes]) -> None:
    told, body = ask(dealer, header("typed"), stream_of(batch_of()))
    assert (told["code"], read(body).schema, read(body).num_rows) == ("OK", ONE_INT, 0)
    none = stream_of(pa.RecordBatch.from_arrays([], schema=pa.schema([])))
    assert refused(dealer, header(), none)["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("value", ["soon", "-1", -1, 1.5, True, [], "1e3"])
def test_a_malformed_timeout_or_priority(dealer: zmq.Socket[bytes], value: Any) -> None:
    for name in ("x_timeout_ms", "x_priority"):
        told = refused(dealer, header(**{name: value}))
        assert told["code"] == "INVALID_ARGUMENT"
        assert name.replace("_", "-") in told["message"]


@pytest.mark.parametrize("value", [0, 1, "50"])
def test_a_timeout_that_passes(dealer: zmq.Socket[bytes], value: Any) -> None:
    assert refused(dealer, header("never", x_timeout_ms=value))["code"] == "DEADLINE_EXCEEDED"
    eventually(lambda: not WATCHED.running)


def test_absurd_timeouts_are_clamped_and_traceparents_ignored(dealer: zmq.Socket[bytes]) -> None:
    for head in (header(x_timeout_ms="9" * 40), header(x_timeout_ms=2**53), header(traceparent="nonsense")):
        assert ask(dealer, head)[0]["code"] == "OK"


def test_request_ids_that_cannot_be_echoed(dealer: zmq.Socket[bytes]) -> None:
    for name in ("é", "x" * 200, "a\nb", ""):
        told = refused(dealer, header(x_request_id=name))
        assert told["code"] == "INVALID_ARGUMENT"
        assert told["request_id"] != name


@pytest.mark.parametrize(
    ("method", "code", "words"),
    [
        ("boom", "INTERNAL", "ValueError: boom"),
        ("longer", "INTERNAL", "4"),
        ("nothing", "INTERNAL", "Probe.nothing"),
        ("mistyped", "INTERNAL", "Probe.mistyped"),
        ("gone", "UNAVAILABLE", "died"),
        ("secret", "PERMISSION_DENIED", "not yours"),
    ],
)
def test_methods_that_fail(dealer: zmq.Socket[bytes], method: str, code: str, words: str) -> None:
    told = refused(dealer, header(method))
    assert told["code"] == code
    assert words in told["message"]
    assert "Traceback" not in told["message"]
    assert __file__.rpartition("/")[0] not in told["message"]


def test_a_full_queue(dealer: zmq.Socket[bytes]) -> None:
    for number in range(3):
        dealer.send_multipart([header("never", "Narrow", x_request_id=str(number), x_timeout_ms=1500), GOOD])
        if not number:
            eventually(lambda: WATCHED.running)
    replies = {told["request_id"]: told["code"] for told, _ in (answer(dealer) for _ in range(3))}
    assert replies == {"0": "DEADLINE_EXCEEDED", "1": "DEADLINE_EXCEEDED", "2": "RESOURCE_EXHAUSTED"}
    eventually(lambda: not WATCHED.running)
    still_works(dealer)


@pytest.mark.parametrize("sent", [b"", bytes(range(256)), b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(100)])
def test_bytes_that_are_not_zeromq(host: Any, dealer: zmq.Socket[bytes], sent: bytes) -> None:
    """The connection is closed, at once or when the handshake's time is up."""
    with socket.create_connection(("127.0.0.1", port_of(host)), timeout=10) as raw:
        raw.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4096):  # the server's own greeting
                pass
    still_works(dealer)


def test_bytes_that_could_be_the_oldest_zeromq(host: Any, dealer: zmq.Socket[bytes]) -> None:
    """ZMTP 1 has no handshake: such a connection stays open, and nothing comes of it."""
    with socket.create_connection(("127.0.0.1", port_of(host)), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert raw.recv(4096)
        still_works(dealer)
    still_works(dealer)


# ---- bounds


def test_requests_of_one_peer_are_bounded(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_frontend, "PEER_IN_FLIGHT_MAX", 2)
    with client(host) as greedy, client(host) as modest:
        for number in range(3):
            greedy.send_multipart([header("never", x_request_id=str(number), x_timeout_ms=1000), GOOD])
        told, _ = answer(greedy)
        assert (told["request_id"], told["code"]) == ("2", "RESOURCE_EXHAUSTED")
        still_works(modest)
        assert {answer(greedy)[0]["code"] for _ in range(2)} == {"DEADLINE_EXCEEDED"}
        still_works(greedy)


def test_a_peer_that_never_reads_is_bounded(host: Any, statistics: Any, dealer: zmq.Socket[bytes]) -> None:
    """Its replies are dropped once the unsent ones reach the limit; others are served, and nothing is kept."""
    rows = (1 << 20) // 8
    body = stream_of(batch_of(*range(rows)))
    before = statistics()["replies_dropped"]
    with client(host, RCVHWM=1, RCVBUF=65536) as deaf:
        sent = threading.Event()

        def send() -> None:
            for _ in range(60):
                deaf.send_multipart([header(), body])
            sent.set()

        sender = threading.Thread(target=send)
        sender.start()
        eventually(lambda: statistics()["replies_dropped"] > before, 20.0, "replies to a deaf peer are dropped")
        assert statistics()["unsent_bytes"] <= LIMIT
        still_works(dealer)
        assert sent.wait(20)
        sender.join()
    # What it sent is read to the end after it has gone.
    eventually(lambda: not any(statistics()[name] for name in ("in_flight", "unsent_bytes", "peers")))
    still_works(dealer)


def test_a_peer_that_left_costs_nothing(host: Any, statistics: Any, dealer: zmq.Socket[bytes]) -> None:
    stopped = WATCHED.stopped
    before = statistics()["replies_dropped"]
    with client(host) as leaving:
        leaving.send_multipart([header("never", x_timeout_ms=300), GOOD])
        eventually(lambda: WATCHED.running)
    eventually(lambda: WATCHED.stopped == stopped + 1)
    eventually(lambda: statistics()["replies_dropped"] == before + 1)
    assert not statistics()["in_flight"]
    still_works(dealer)


def test_outcomes_are_counted(host: Any, dealer: zmq.Socket[bytes]) -> None:
    before = host._metrics.answers("zmq", "Probe", "gone", Code.UNAVAILABLE)
    refused(dealer, header("gone"))
    assert host._metrics.answers("zmq", "Probe", "gone", Code.UNAVAILABLE) == before + 1


# ---- life


def test_a_taken_port_is_an_error(host: Any) -> None:
    port = port_of(host)
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"), served(zmq_port=port):
        pytest.fail("two servers on one port")


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    with served(zmq_port=0) as host, client(host) as sock:
        sock.send_multipart([header("slowly", x_request_id="slow"), stream_of(batch_of(400))])
        eventually(lambda: host.service.statistics()["Probe"].get("micro_batches"))
        drained = threading.Thread(target=host.drain, args=(10,))
        drained.start()
        eventually(lambda: host._running["zmq"]._draining)
        told, body = ask(sock, header(x_request_id="late"))
        assert (told["request_id"], told["code"], body) == ("late", "UNAVAILABLE", b"")
        told, body = answer(sock)
        assert (told["request_id"], told["code"]) == ("slow", "OK")
        drained.join()


def test_stop_answers_what_it_gives_up() -> None:
    with served(zmq_port=0) as host, client(host) as sock:
        sock.send_multipart([header("never", x_request_id="r"), GOOD])
        eventually(lambda: WATCHED.running)
        host.stop()
        told, _ = answer(sock)
        assert (told["request_id"], told["code"]) == ("r", "UNAVAILABLE")
        eventually(lambda: not WATCHED.running)
