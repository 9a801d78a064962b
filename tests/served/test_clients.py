"""Clients that are slow, silent, gone or too many, over the real system: bounded in time and memory, while good clients
are served."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pyarrow as pa
import pytest
from pyarrow import flight

from flightserve.proto import flightserve_pb2 as pb
from tests.control.served import Served
from tests.frontends.flight.fakes import Exchange
from tests.frontends.http.support import ARROW, Raw, post
from tests.frontends.rpc_support import GOOD, batch_of, stream_of
from tests.served.callers import Caller
from tests.served.serve import LIMITS
from tests.support import eventually

IDENTITY = "/v1/Probe/identity"
BODY = b'{"columns":{"a":[1]}}'


def statistic(system: Served, child: str, name: str) -> float:
    """What the child said of itself last."""
    return system.child(child).statistics.get(name, 0.0)


def path(method: str) -> Any:
    return flight.FlightDescriptor.for_path("Probe", method)


def test_processes_without_user_code_load_no_pandas(system: Served) -> None:
    """pyarrow would, for the first array that is made of a list."""
    raw = Raw(system.addresses["http"]).send(post(IDENTITY, BODY)).read_answer()
    assert raw.status == 200
    raw.close()
    for name in ("frontend-0", "standby-0", "router-0"):
        assert "/pandas/" not in Path(f"/proc/{system.child(name).pid}/maps").read_text(), name


# ---- slow, idle and too many connections


def test_slow_and_idle_http_connections(callers: dict[str, Any]) -> None:
    url = callers["http"].address
    head, _, _ = post(IDENTITY, BODY).partition(b"\r\n\r\n")
    slow_head, slow_body = Raw(url).send(head), Raw(url).send(head + b"\r\n\r\n" + BODY[:5])
    silent, used = Raw(url), Raw(url).send(post(IDENTITY, BODY)).read_answer()
    # Meanwhile the good are served.
    assert callers["http"].call("identity", GOOD).code == "OK"
    for raw in (slow_head, slow_body):
        raw.until_closed()
        assert (raw.status, raw.code) == (408, "DEADLINE_EXCEEDED")
    assert silent.until_closed().received == b""
    assert used.socket.recv(10) == b""
    used.close()


def test_more_connections_than_may_be_open(callers: dict[str, Any]) -> None:
    # In use: those that are idle would give way.
    held = [Raw(callers["http"].address).send(b"POST") for _ in range(LIMITS.connections_max + 5)]
    refused = held[-1].until_closed()
    assert (refused.status, refused.code) == (503, "UNAVAILABLE")
    for raw in held:
        raw.close()
    eventually(lambda: _served(callers["http"]), what="connections are taken again")


def _served(caller: Caller) -> bool:
    try:
        return caller.call("identity", GOOD).code == "OK"
    except (OSError, KeyError):  # refused before the request was read
        return False


def test_silent_connections_of_others(callers: dict[str, Any]) -> None:
    """Those that never say what they are; other clients are served, and nothing stays when they go."""
    held = []
    for name in ("grpc", "flight", "zmq"):
        address = callers[name].address
        parts = urlsplit(address if "//" in address else f"tcp://{address}")
        held += [socket.create_connection((parts.hostname, parts.port), 10) for _ in range(20)]
        assert callers[name].call("identity", GOOD).code == "OK"
    for connection in held:
        connection.close()


# ---- a full queue


def test_a_full_queue(caller: Caller, callers: dict[str, Any]) -> None:
    """One runs, at most two wait (one of them at the replica); the next is one too many."""
    slow = stream_of(batch_of(600))
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(callers["grpc"].call, "slowly", slow, "Narrow") for _ in range(5)]
        mine = caller.call("slowly", slow, "Narrow").code
        codes = sorted(future.result().code for future in asked)
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}, codes
    assert "OK" in codes
    assert mine in {caller.sees("RESOURCE_EXHAUSTED"), "OK"}
    # Six came at once for three places.
    assert codes.count("RESOURCE_EXHAUSTED") + (mine != "OK") >= 2


# ---- streams that stand still, clients that leave


def test_streams_on_which_nothing_is_sent(callers: dict[str, Any]) -> None:
    client = callers["flight"].client
    with Exchange(client, "", path("identity")) as exchange:
        exchange.writer.begin(pa.schema([("a", pa.int64())]))
        with pytest.raises((pa.ArrowException, OSError)):
            exchange.reader.read_chunk()
    writer, metadata = client.do_put(path("identity"), pa.schema([("a", pa.int64())]))
    ended = threading.Event()
    replies = callers["grpc"].stub.Stream(_until(ended), timeout=20)
    with pytest.raises(grpc.RpcError) as caught:
        list(replies)
    ended.set()
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises((pa.ArrowException, OSError)):
        metadata.read()
        writer.close()


def _until(ended: threading.Event, *requests: pb.CallRequest) -> Iterator[pb.CallRequest]:
    yield from requests
    ended.wait(30)


def test_clients_that_leave_in_the_middle(system: Served, callers: dict[str, Any]) -> None:
    """What they asked is given up within a second or so, long before its deadline."""
    request = pb.CallRequest(deployment="Probe", method="never", arrow_stream=GOOD)
    call = callers["grpc"].stub.Call.future(request, timeout=50)
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 1)
    call.cancel()
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 0)
    with Exchange(callers["flight"].client, "", path("never")) as exchange:
        exchange.send(batch_of(1))
        eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 1)
        exchange.reader.cancel()
        eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 0)
    raw = Raw(callers["http"].address)
    raw.send(f"POST /v1/Probe/never HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {ARROW}\r\n".encode())
    raw.send(f"content-length: {len(GOOD)}\r\n\r\n".encode() + GOOD)
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 1)
    raw.close()
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 0)


@pytest.mark.parametrize("name", ["http", "grpc", "flight"])
def test_a_reader_that_never_reads(system: Served, callers: dict[str, Any], name: str) -> None:
    """Of a stream that would be 25 GB: little of it is made, and in the end the stream is given up."""
    before = statistic(system, "replica-Probe-0", "shared_memory_bytes")
    endless = stream_of(batch_of(100_000))
    if name == "http":
        raw = Raw(callers["http"].address)
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.send(post("/v1/Probe/large", json.dumps({"columns": {"a": [100_000]}}).encode(), f"accept: {ARROW}"))
        done = raw.close
    elif name == "grpc":
        ended = threading.Event()
        requests = [pb.CallRequest(deployment="Probe", method="large", arrow_stream=stream_of(batch_of(3)))] * 200
        stream = callers["grpc"].stub.Stream(_until(ended, *requests))
        done = lambda: (ended.set(), stream.cancel())  # noqa: E731
    else:
        exchange = Exchange(callers["flight"].client, "", path("large"))
        exchange.send(pa.ipc.open_stream(endless).read_next_batch())
        done = lambda: (exchange.reader.cancel(), exchange.__exit__())  # noqa: E731
    eventually(lambda: statistic(system, "router-0", "Probe.arrived") > 0)
    eventually(lambda: statistic(system, "router-0", "Probe.in_flight_batches") == 0, 30, "the stream is given up")
    assert statistic(system, "replica-Probe-0", "shared_memory_bytes") <= before + (128 << 20)
    done()


def test_a_zeromq_client_that_never_reads_or_leaves(callers: dict[str, Any]) -> None:
    zeromq = callers["zmq"]
    deaf = zeromq.connect(RCVHWM=1, RCVBUF=4096)
    head = json.dumps({"deployment": "Probe", "method": "identity"}).encode()
    body = stream_of(batch_of(*range(100_000)))
    for _ in range(30):
        deaf.send_multipart([head, body])
    assert zeromq.call("identity", GOOD).code == "OK"
    deaf.close()
    leaving = zeromq.connect()
    leaving.send_multipart(
        [json.dumps({"deployment": "Probe", "method": "never", "x-timeout-ms": "300"}).encode(), GOOD]
    )
    leaving.close()
