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
from collections.abc import Iterator
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
def lane_to(name: str) -> Iterator[Lane]:
    """A lane to the router that listens under that name, over a client with an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="caller")
    thread.start()
    client = RouterClient(FIRST_ID + next(_CALLERS), FabricLimits())
    lane: Lane | None = None
    try:
        client.apply_table(plane.table(name))
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


def round_trip(lane: Lane, key: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Send the batch to `Identity.identity`, return the rows that came back; raises the call's error."""
    meta = RequestMeta(deadline_ns=monotonic_ns() + TIMEOUT_S * NS_PER_S)
    lane.submit(key, "Identity", "identity", batch, meta)
    reply = lane.receive(TIMEOUT_S)
    if reply is None or reply.error is not None or reply.result is None or not reply.last or reply.key != key:
        raise WrongAnswer(f"call {key} got {reply}")
    return reply.result.batch()


def call_load(name: str, size_bytes: int, seconds: float) -> dict[str, Any]:
    """Order `call`: round trips of 16 rows (`size_bytes` 0), or of about that many bytes, for `seconds`."""
    batch = payloads.sized(size_bytes) if size_bytes else payloads.small()
    times_ns: list[int] = []
    with lane_to(name) as lane:
        if not round_trip(lane, 0, batch).equals(batch):
            raise WrongAnswer("other values came back")
        for key in range(1, WARM_CALLS):
            round_trip(lane, key, batch)
        key, until_ns = WARM_CALLS, time.perf_counter_ns() + int(seconds * 1e9)
        while (begun := time.perf_counter_ns()) < until_ns or len(times_ns) < CALLS_MIN:
            answer = round_trip(lane, key, batch)
            times_ns.append(time.perf_counter_ns() - begun)
            key += 1
            if answer.num_rows != batch.num_rows:
                raise WrongAnswer(f"{answer.num_rows} rows came back of {batch.num_rows}")
            del answer
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


if __name__ == "__main__":
    obey({"call": call_load})
