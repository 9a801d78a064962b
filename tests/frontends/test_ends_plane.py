"""Clients that go away, by every protocol, over the real data plane: their requests leave the queues, running methods
are told, and nothing stays leased."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from flightserve.clock import NS_PER_MS
from flightserve.proto import flightserve_pb2 as pb
from flightserve.proto import flightserve_pb2_grpc as pb_grpc
from tests.frontends.ends_support import WAYS, Loops, Served, Threads, all_served
from tests.frontends.rpc_support import GOOD, batch_of
from tests.plane import meta, receive_all
from tests.served.callers import CALLERS, all_callers
from tests.support import eventually

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture(scope="module")
def loops() -> Iterator[Served]:
    with all_served(Loops) as served:
        yield served


@pytest.fixture(scope="module")
def threads() -> Iterator[Served]:
    with all_served(Threads) as served:
        yield served


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


@pytest.mark.parametrize("method", ["batch", "row", "generator", "coroutine", "async_generator"])
def test_a_running_method_is_told(loops: Served, way: Any, method: str) -> None:
    target = loops.target
    target.ended.clear()
    target.ran.clear()
    leave = way(loops, method)
    assert target.started.acquire(timeout=30), "the method runs"
    leave()
    eventually(lambda: target.ended == [method])
    assert target.ran in ([], [1]), "rows behind the one that was left are not run"
    eventually(loops.plane.at_rest, what="every lease came back")
    eventually(lambda: loops.count("in_flight_batches") == 0)


def test_a_queued_request_is_taken_out(threads: Served, way: Any) -> None:
    target, client = threads.target, threads.plane.client
    target.gate.clear()
    target.ran.clear()
    lane = client.open_lane()
    # One runs and one waits behind it in the replica: the third stays in the router's queue.
    for key in range(2):
        lane.submit(key, "Ends", "hold", batch_of(7), meta(60))
    assert target.started.acquire(timeout=30)
    eventually(lambda: threads.count("in_flight_batches") == 2)
    leave = way(threads, "quick")
    eventually(lambda: threads.count("queued_requests") == 1)
    leave()
    eventually(lambda: threads.count("queued_requests") == 0)
    target.gate.set()
    assert all(reply.error is None for reply in receive_all(lane, 2))
    assert target.started.acquire(timeout=30)
    lane.close()
    eventually(threads.plane.at_rest)
    assert target.ran == []


# ---- metadata


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_metadata_reaches_the_method_by_way_of_the_router(threads: Served, protocol: str) -> None:
    with all_callers(threads.addresses) as callers:
        before_ns = time.monotonic_ns()
        answer = callers[protocol].call(
            "tell", GOOD, "Ends", x_timeout_ms="5000", x_priority="7", x_request_id="mine", traceparent=TRACE,
            tracestate="a=1, b=2",
        )  # fmt: skip
        assert answer.code == "OK", answer
        deadline_ns, *rest = threads.target.told.pop()
        assert rest == [7, ("mine",), (TRACE,), ("a=1,b=2",)]
        assert before_ns + 5000 * NS_PER_MS <= deadline_ns <= time.monotonic_ns() + 5000 * NS_PER_MS


@pytest.mark.parametrize("protocol", sorted(CALLERS))
def test_a_request_may_only_shorten_the_deployment_s_limit(threads: Served, protocol: str) -> None:
    with all_callers(threads.addresses) as callers:
        assert callers[protocol].call("tell", GOOD, "Ends", x_timeout_ms="999999999").code == "OK"
        deadline_ns, priority, _, *traces = threads.target.told.pop()
        assert deadline_ns <= time.monotonic_ns() + 100_000 * NS_PER_MS
        assert (priority, traces) == (0, [("",), ("",)])


@pytest.mark.parametrize(("native_s", "header_ms", "smaller_ms"), [(5, "50000", 5000), (50, "5000", 5000)])
def test_the_smaller_of_grpcs_deadline_and_ours_wins(
    threads: Served, native_s: float, header_ms: str, smaller_ms: int
) -> None:
    with grpc.insecure_channel(threads.addresses["grpc"]) as channel:
        stub = pb_grpc.FlightServeStub(channel)
        stub.Call(
            pb.CallRequest(deployment="Ends", method="tell", arrow_stream=GOOD),
            timeout=native_s,
            metadata=(("x-timeout-ms", header_ms),),
        )
    deadline_ns = threads.target.told.pop()[0]
    # gRPC keeps its own in milliseconds of another clock; a second of slack still tells the two apart.
    assert deadline_ns <= time.monotonic_ns() + (smaller_ms + 1000) * NS_PER_MS
