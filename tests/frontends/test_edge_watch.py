"""What strangers make the libraries' servers keep: threads, calls that say nothing, messages that never end, floods.
Each is bounded, and who behaves is served meanwhile."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest
import zmq
from pyarrow import flight

from flightserve.config import EdgeLimits
from flightserve.core.overload import crowding
from flightserve.errors import Unavailable
from flightserve.frontends import edge_watch
from flightserve.frontends.edge_watch import EdgeWatch, give_back, this_process
from flightserve.frontends.flight.crowd import BURST_CALLS, FULL_S, Crowd
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.h2_support import CALL, DATA, EXCHANGE, H2, SETTINGS, frame, opened, reset
from tests.frontends.rpc_support import batch_of, served, stream_of
from tests.support import eventually

MB = 1 << 20
STREAMS = 12
LIMITS = EdgeLimits(streams_max=STREAMS, flight_calls_max=40, header_timeout_s=0.5, unfinished_bytes_max=48 * MB)


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    with served(LIMITS, grpc_port=0, flight_port=0, zmq_port=0) as host:
        yield host


@pytest.fixture(autouse=True)
def unharmed(host: Any) -> Iterator[None]:
    yield
    eventually(lambda: called(host), what="a good call")
    eventually(lambda: crowd_of(host).statistics() == {"silent": 0, "calls": 0}, what=repr(crowd_of(host).statistics()))
    eventually(lambda: sys.getswitchinterval() < 0.1)


def port_of(host: Any, protocol: str) -> int:
    return int(host.addresses[protocol].rpartition(":")[2])


def crowd_of(host: Any) -> Crowd:
    found: Crowd = host._running["flight"]._server.crowd
    return found


def called(host: Any) -> bool:
    """Whether a client of Flight is served."""
    batch = batch_of(1)
    try:
        with flight.connect(host.addresses["flight"]) as client:
            writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("Probe", "identity"))
            with writer:
                writer.begin(batch.schema)
                writer.write_batch(batch)
                return bool(reader.read_chunk().data.equals(batch))
    except flight.FlightError:
        return False


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[H2]]:
    held = [H2(port) for _ in range(count)]
    try:
        yield held
    finally:
        for one in held:
            one.close()


# ---- Flight's calls


@pytest.mark.parametrize("spread", [1, 5])
def test_silent_streams_are_bounded_and_end(host: Any, spread: int) -> None:
    before = this_process().threads

    def silent() -> int:
        count = crowd_of(host).statistics()["silent"]
        assert count <= STREAMS
        return count

    with connections(port_of(host, "flight"), spread) as held:
        for number in range(30 * STREAMS):
            held[number % spread].send(opened(EXCHANGE, 2 * number + 1))
        eventually(lambda: silent() == STREAMS or held[0].closed.is_set())
        # A thread each; how many are there at once to refuse the rest depends on who is quicker, they or the caller.
        eventually(lambda: silent() <= STREAMS and this_process().threads - before <= 2 * STREAMS)
        eventually(lambda: silent() <= STREAMS and all(one.closed.is_set() for one in held))


@pytest.mark.parametrize("spread", [1, 5])
def test_streams_that_are_refused_keep_no_threads(host: Any, spread: int) -> None:
    before = this_process().threads
    most = 0
    with connections(port_of(host, "flight"), spread) as held:

        def wait_for(refused: int) -> None:
            eventually(lambda: sum(one.ended for one in held) >= refused or held[0].closed.is_set())

        for start in range(0, 10 * STREAMS, STREAMS):
            for number in range(start, start + STREAMS):
                held[number % spread].send(opened(EXCHANGE, 2 * number + 1))
                most = max(most, this_process().threads - before)
            # The caller is no quicker than those who refuse.
            wait_for(start)
            most = max(most, this_process().threads - before)
        refused = sum(one.ended for one in held)
    assert refused >= STREAMS
    # A thread each, and those that refuse the rest in turn.
    assert most < 4 * STREAMS


def test_a_connection_with_a_call_that_runs_does_not_hide_silent_ones(host: Any) -> None:
    path = b"\x08\x01\x1a\x05Probe\x1a\x08identity"
    first = b"\x0a" + bytes([len(path)]) + path
    with connections(port_of(host, "flight"), 1) as (one,):
        one.send(opened(EXCHANGE, 1) + frame(DATA, 0, 1, struct.pack(">BI", 0, len(first)) + first))
        eventually(lambda: crowd_of(host).statistics() == {"silent": 0, "calls": 1})
        for number in range(1, 2 * STREAMS):
            one.send(opened(EXCHANGE, 2 * number + 1))
        eventually(one.closed.is_set)


def test_streams_that_are_idle_end_sooner_where_they_take_all_places(host: Any) -> None:
    with flight.connect(host.addresses["flight"]) as client:
        held = [client.do_exchange(flight.FlightDescriptor.for_path("Probe", "identity")) for _ in range(STREAMS)]
        registry = host._running["flight"]._server.streams
        eventually(lambda: registry.statistics()["streams_open"] == STREAMS)
        eventually(lambda: registry.cut_idle())
        assert held


def test_resets_in_a_loop_make_no_threads_without_end(host: Any) -> None:
    before = this_process().threads
    most = 0
    with connections(port_of(host, "flight"), 1) as (one,):
        for start in range(0, 3000, 50):
            numbers = [2 * number + 1 for number in range(start, start + 50)]
            one.send(b"".join(opened(EXCHANGE, number) + reset(number) for number in numbers))
            most = max(most, this_process().threads - before)
        eventually(lambda: called(host), timeout_s=20)
        most = max(most, this_process().threads - before)
    assert most < 1500
    eventually(lambda: this_process().threads < before + 50, timeout_s=20)


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Time:
    return Time()


def test_calls_at_their_bounds_and_one_beyond(clock: Time) -> None:
    crowd = Crowd(LIMITS, clock)
    for number in range(STREAMS):
        crowd.begin(number, speaks=False)
    with pytest.raises(Unavailable, match="first message"):
        crowd.begin("silent", speaks=False)
    for number in range(LIMITS.flight_calls_max):
        if number >= STREAMS:
            crowd.begin(number, speaks=True)
        crowd.enter(number, "peer")
    with pytest.raises(Unavailable, match="calls run"):
        crowd.begin("one more", speaks=True)
    for number in range(LIMITS.flight_calls_max):
        crowd.end(number)
    assert crowd.statistics() == {"silent": 0, "calls": 0}
    clock.now_ns += 10**10
    assert crowd.peers() == {}


def test_the_fewer_places_are_left_the_shorter_is_the_patience(clock: Time) -> None:
    crowd = Crowd(LIMITS, clock)

    def overdue_after(seconds: float) -> int:
        clock.now_ns += int(seconds * 1e9)
        overdue = crowd.overdue()
        clock.now_ns -= int(seconds * 1e9)
        return overdue

    crowd.begin(0, speaks=False)
    assert (overdue_after(LIMITS.stream_idle_timeout_s - 1), overdue_after(LIMITS.stream_idle_timeout_s + 1)) == (0, 1)
    for number in range(1, STREAMS - 1):
        crowd.begin(number, speaks=False)
    assert (overdue_after(LIMITS.header_timeout_s / 2), overdue_after(LIMITS.header_timeout_s * 2)) == (0, STREAMS - 1)
    patient = Crowd(EdgeLimits(streams_max=1), clock)
    patient.begin(0, speaks=False)
    clock.now_ns += int(FULL_S * 2e9)
    assert patient.overdue() == 1


def test_a_burst_lengthens_the_switch_interval_until_it_is_over(clock: Time) -> None:
    crowd = Crowd(EdgeLimits(), clock)
    usual = sys.getswitchinterval()
    for number in range(BURST_CALLS - 1):
        crowd.begin(number, speaks=False)
    assert sys.getswitchinterval() == usual
    crowd.begin("last", speaks=False)
    assert sys.getswitchinterval() > usual
    crowd.calm()
    assert sys.getswitchinterval() > usual
    crowd.calm()
    assert sys.getswitchinterval() == usual


# ---- nobody calls


def test_a_connection_on_which_nobody_calls_ends(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_watch, "JUNK_LOOKS", 2)
    port, path = port_of(host, "flight"), flight.FlightDescriptor.for_path("Probe", "identity")
    with flight.connect(host.addresses["flight"]) as client, connections(port, 2) as greeted:
        assert client.get_flight_info(path)
        silent = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(2)]
        for raw in silent:
            raw.settimeout(20)
            raw.sendall(b"\x16\x03\x01\x02")  # a TLS handshake's beginning
        for raw in silent:
            with raw, contextlib.suppress(ConnectionResetError):
                while raw.recv(1 << 16):
                    continue
        eventually(lambda: all(one.closed.is_set() for one in greeted))
        cut, looks = host.edge_watch.cut_total, host.edge_watch._looks
        # Who has called once may be silent.
        eventually(lambda: host.edge_watch._looks > looks + 8)
        assert client.get_flight_info(path) and host.edge_watch.cut_total == cut


# ---- messages that never end


@pytest.mark.parametrize(("protocol", "path"), [("flight", EXCHANGE), ("grpc", CALL)])
def test_unfinished_messages_of_all_connections_together_are_bounded(host: Any, protocol: str, path: str) -> None:
    before = this_process().own_bytes
    most = 0
    with connections(port_of(host, protocol), 6) as held:
        for one in held:
            one.hold(path, 400 * MB, 16 * MB)
            most = max(most, this_process().own_bytes - before)
        eventually(lambda: sum(one.closed.is_set() for one in held) >= 2)
        assert not all(one.closed.is_set() for one in held), "those within the bound ended too"
    assert most < 4 * LIMITS.unfinished_bytes_max


def zmtp(port: int) -> Any:
    """A DEALER's connection by hand: it has greeted and is ready."""
    raw = socket.create_connection(("127.0.0.1", port), 20)
    raw.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\0NULL" + b"\0" * 48)
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
    raw.sendall(bytes([4, len(ready)]) + ready)
    return raw


def test_unfinished_messages_over_zeromq_are_bounded(host: Any) -> None:
    held = [zmtp(port_of(host, "zmq")) for _ in range(6)]
    cut_before = host.edge_watch.cut_total
    for raw in held:
        with contextlib.suppress(OSError):
            raw.sendall(b"\x02" + struct.pack(">Q", 400 * MB) + b"x" * (16 * MB))
    eventually(lambda: host.edge_watch.cut_total >= cut_before + 2)
    for raw in held:
        raw.close()


def test_those_whose_messages_come_whole_are_not_ended(host: Any) -> None:
    cut_before = host.edge_watch.cut_total
    batch = pa.record_batch({"a": pa.array(range(MB), pa.int64())})  # 8 MiB
    stream = stream_of(batch)
    channel_options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with flight.connect(host.addresses["flight"]) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_path("Probe", "identity"))
        with writer:
            writer.begin(batch.schema)
            for _ in range(24):
                writer.write_batch(batch)
                assert reader.read_chunk().data.num_rows == MB
                host.edge_watch._look_at_connections(this_process(), 0)
    with grpc.insecure_channel(host.addresses["grpc"], channel_options) as channel:
        stub = pb_grpc.FlightServeStub(channel)
        for _ in range(24):
            stub.Call(pb.CallRequest(deployment="Probe", method="identity", arrow_stream=stream), timeout=30)
            host.edge_watch._look_at_connections(this_process(), 0)
    with zmq.Context() as context, context.socket(zmq.REQ) as requests:
        requests.connect(host.addresses["zmq"])
        for _ in range(24):
            requests.send_multipart([b'{"deployment": "Probe", "method": "identity"}', stream])
            requests.recv_multipart()
            host.edge_watch._look_at_connections(this_process(), 0)
        requests.close(0)
    assert host.edge_watch.cut_total == cut_before


def test_a_flood_of_control_frames_ends(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowding, "JUNK_BYTES_MAX", MB)
    monkeypatch.setattr(edge_watch, "FORGIVEN_BYTES", 0)
    monkeypatch.setattr(edge_watch, "JUNK_LOOKS", 2)
    # What tests before it made the process keep is not the flood's.
    monkeypatch.setattr(host.edge_watch, "_began", this_process())
    settings = frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)) * 1000
    for protocol in ("flight", "grpc"):
        with connections(port_of(host, protocol), 1) as (one,):
            # Far less than what is ended for the memory that it takes.
            for _ in range(6 * MB // len(settings)):
                if not one.send(settings):
                    break
            eventually(one.closed.is_set, what="the end of the flood")


# ---- memory that nobody needs


def test_memory_goes_back_when_the_process_is_quiet() -> None:
    watch = EdgeWatch(EdgeLimits(), [])
    before = this_process().own_bytes
    # Small pieces, so that malloc keeps them: between those that stay, and behind what is freed.
    pieces = [bytes(900) for _ in range(200_000)]
    last = bytes(900)
    pieces.clear()
    for _ in range(2 * edge_watch.QUIET_LOOKS + 2):
        watch._give_back(this_process()._replace(cpu_s=0.0))
    assert last
    assert this_process().own_bytes - before < 64 * MB
    give_back()


def test_what_it_says_of_this_process_is_so() -> None:
    process = this_process()
    assert process.threads == len(os.listdir("/proc/self/task"))
    with mmap.mmap(-1, 32 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        assert 24 * MB < this_process().own_bytes - process.own_bytes < 128 * MB
    assert process.cpu_s > 0
