"""Load inside the data plane: a caller as frontends are, one request at a time from a blocking thread.

A call writes the batch into shared memory, sends its descriptor, waits for the reply and maps the rows that came
back. Row counts are checked in every answer, values in the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from benchmarks import payloads, plane
from benchmarks.load.orders import WrongAnswer, latencies, obey
from flightserve.caller.client import RouterClient
from flightserve.clock import NS_PER_S, monotonic_ns
from flightserve.config import FabricLimits
from flightserve.contracts.service import Lane
from flightserve.types import RequestMeta

WARM_CALLS = 50
CALLS_MIN = 20
TIMEOUT_S = 10
# Ids of peers are never used twice: what one announced must not be taken for another's.
FIRST_ID = 1000
_CALLERS = itertools.count()


@contextlib.contextmanager
def lane_to(name: str, ports: Sequence[int] = ()) -> Iterator[Lane]:
    """A lane to the router that listens under that name, over a client with an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="caller")
    thread.start()
    client = RouterClient(FIRST_ID + next(_CALLERS), FabricLimits())
    lane: Lane | None = None
    try:
        client.apply_table(plane.table(name, ports))
        client.start(loop)
        lane = client.open_lane()
        yield lane
    finally:
        if lane is not None:
            lane.close()
        client.stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def send(lane: Lane, key: int, batch: pa.RecordBatch, stages: int, far: bool = False) -> None:
    """Send the batch through so many stages of a pipeline; 0: to `Identity.identity`, or to what is on the far node."""
    meta = RequestMeta(deadline_ns=monotonic_ns() + TIMEOUT_S * NS_PER_S)
    alone = plane.FAR if far else "Identity"
    first, *others = [f"Stage{number}" for number in range(1, stages + 1)] or [alone]
    then = [(name, "identity") for name in others]
    lane.submit(key, first, "identity", batch, meta, then)


def receive(lane: Lane) -> tuple[int, pa.RecordBatch]:
    """The key of the next reply, and its rows. Raises WrongAnswer for an error."""
    reply = lane.receive(TIMEOUT_S)
    if reply is None or reply.error is not None or reply.result is None or not reply.last:
        raise WrongAnswer(f"a call got {reply}")
    return reply.key, reply.result.batch()


def round_trip(lane: Lane, key: int, batch: pa.RecordBatch, stages: int = 0, far: bool = False) -> pa.RecordBatch:
    """Send the batch, return the rows that came back; raises the call's error."""
    send(lane, key, batch, stages, far)
    answered, rows = receive(lane)
    if answered != key:
        raise WrongAnswer(f"call {answered} is answered, and {key} was asked")
    return rows


def call_load(name: str, size_bytes: int, seconds: float, stages: int = 0, far: bool = False) -> dict[str, Any]:
    """Order `call`: round trips of 16 rows (`size_bytes` 0), or of about that many bytes, for `seconds`, through so
    many stages, or to the `far` node."""
    batch = payloads.sized(size_bytes) if size_bytes else payloads.small()
    times_ns: list[int] = []
    with lane_to(name) as lane:
        if not round_trip(lane, 0, batch, stages, far).equals(batch):
            raise WrongAnswer("other values came back")
        for key in range(1, WARM_CALLS):
            round_trip(lane, key, batch, stages, far)
        key, until_ns = WARM_CALLS, time.perf_counter_ns() + int(seconds * 1e9)
        while (begun := time.perf_counter_ns()) < until_ns or len(times_ns) < CALLS_MIN:
            answer = round_trip(lane, key, batch, stages, far)
            times_ns.append(time.perf_counter_ns() - begun)
            key += 1
            if answer.num_rows != batch.num_rows:
                raise WrongAnswer(f"{answer.num_rows} rows came back of {batch.num_rows}")
            del answer
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


def flow_load(
    name: str, size_bytes: int, seconds: float, in_flight: int, stages: int = 0, far: bool = False
) -> dict[str, Any]:
    """Order `flow`: so many requests in flight, of about that many bytes, for `seconds`, through so many stages, or to
    the `far` node. `gb_per_s` is of the rows that came back."""
    batch = payloads.sized(size_bytes)
    answered = 0
    with lane_to(name) as lane:
        if not round_trip(lane, 0, batch, stages, far).equals(batch):
            raise WrongAnswer("other values came back")
        key = 1
        for _ in range(in_flight):
            send(lane, key, batch, stages, far)
            key += 1
        begun_ns = time.perf_counter_ns()
        until_ns = begun_ns + int(seconds * 1e9)
        while time.perf_counter_ns() < until_ns or answered < CALLS_MIN:
            _, rows = receive(lane)
            if rows.num_rows != batch.num_rows:
                raise WrongAnswer(f"{rows.num_rows} rows came back of {batch.num_rows}")
            del rows
            answered += 1
            send(lane, key, batch, stages, far)
            key += 1
        took_ns = time.perf_counter_ns() - begun_ns
        for _ in range(in_flight):
            receive(lane)
    return {"answered": answered, "verified": answered, "gb_per_s": answered * batch.nbytes / took_ns}


def stream_load(name: str, size_bytes: int, parts: int, ports: Sequence[int]) -> dict[str, Any]:
    """Order `stream`: one streamed reply of the far node, of so many parts."""
    wanted = payloads.sized(size_bytes)
    asked = pa.record_batch({"size_bytes": [size_bytes], "parts": [parts]})
    with lane_to(name, ports) as lane:
        begun_ns = time.perf_counter_ns()
        meta = RequestMeta(deadline_ns=monotonic_ns() + 60 * NS_PER_S)
        lane.submit(0, plane.FAR, "repeated", asked, meta)
        for number in range(parts):
            reply = lane.receive(TIMEOUT_S)
            if reply is None or reply.error is not None or reply.result is None:
                raise WrongAnswer(f"part {number} is {reply}")
            rows = reply.result.batch()
            if rows.num_rows != wanted.num_rows or (not number and not rows.equals(wanted)):
                raise WrongAnswer("other rows came")
            del rows, reply
        took_ns = time.perf_counter_ns() - begun_ns
    return {"answered": parts, "verified": parts, "gb_per_s": parts * wanted.nbytes / took_ns}


if __name__ == "__main__":
    obey({"call": call_load, "flow": flow_load, "stream": stream_load})
