"""gRPC load: unary calls of 16 rows over one channel, some number of them always in flight.

Each of the callers sends its own batch. Its first answer is decoded and compared; a later one that is not the same
bytes is decoded and compared too. One unmeasured call of each comes first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey
from flightserve.proto.flightserve_pb2 import CallReply, CallRequest

SERVICE = "flightserve.v1.FlightServe"
METHOD = "Call"
TIMEOUT_S = 30.0
Call = Callable[..., Awaitable[CallReply]]


class Caller:
    """One of the callers: a request of its own, and what the answer has to be."""

    def __init__(self, call: Call, seed: int, token: str) -> None:
        self._call = call
        self._metadata = (("authorization", f"Bearer {token}"),) if token else None
        self._batch = payloads.small(seed)
        self._request = CallRequest(deployment="Identity", method="identity", arrow_stream=payloads.encode(self._batch))
        self._known = b""

    async def once(self) -> None:
        """One call, checked."""
        reply = await self._call(self._request, timeout=TIMEOUT_S, metadata=self._metadata)
        if reply.arrow_stream != self._known:
            rows = payloads.decode(reply.arrow_stream).to_pydict()
            if rows != self._batch.to_pydict():
                raise WrongAnswer(f"got {rows}")
            self._known = reply.arrow_stream

    async def loop(self, until_ns: int, times_ns: list[int]) -> None:
        """Call after call until the time is over."""
        now = time.perf_counter_ns()
        while now < until_ns:
            await self.once()
            before, now = now, time.perf_counter_ns()
            times_ns.append(now - before)


async def call_run(address: str, in_flight: int, seconds: float, token: str = "") -> dict[str, Any]:
    """`in_flight` callers at once for `seconds`: `calls_per_s`, p50, p99. `token` says who they are."""
    times_ns: list[int] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{METHOD}", CallRequest.SerializeToString, CallReply.FromString)
        callers = [Caller(call, seed, token) for seed in range(in_flight)]
        await asyncio.gather(*(caller.once() for caller in callers))
        begun_ns = time.perf_counter_ns()
        until_ns = begun_ns + int(seconds * 1e9)
        await asyncio.gather(*(caller.loop(until_ns, times_ns) for caller in callers))
        measured_s = (time.perf_counter_ns() - begun_ns) / 1e9
    answered = len(times_ns)
    return {"calls_per_s": answered / measured_s, "answered": answered, "verified": answered, **latencies(times_ns)}


def call_load(address: str, in_flight: int, seconds: float, token: str = "") -> dict[str, Any]:
    """Order `call`: see `call_run`."""
    return asyncio.run(call_run(address, in_flight, seconds, token))


if __name__ == "__main__":
    obey({"call": call_load})
