"""KServe load by Triton's own gRPC client: one blocking caller, or some number of inferences always in flight.

Each caller sends its own tensor, and its answers are compared: small ones all, of large ones the first and every 64th.
One unmeasured inference of each comes first. What is timed is `infer`, and the array of its answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

MODEL = "Identity.identity"
COMPARE_EVERY = 64
SMALL_ROWS_MAX = 1024


class Tensor:
    """One caller's input, and what the answer has to be."""

    def __init__(self, seed: int, size_bytes: int) -> None:
        self._values = payloads.column(size_bytes, seed)
        self._asked = 0
        tensor = triton.InferInput("x", [len(self._values)], "FP64")
        tensor.set_data_from_numpy(self._values)
        self.inputs = [tensor]

    def check(self, result: Any) -> None:
        """Raise WrongAnswer unless the answer is what was sent."""
        values = result.as_numpy("x")
        whole = len(values) <= SMALL_ROWS_MAX or self._asked % COMPARE_EVERY == 0
        self._asked += 1
        if values.shape != self._values.shape or (whole and not np.array_equal(values, self._values)):
            raise WrongAnswer(f"sent {len(self._values)} values, got {len(values)}, or other ones")


def one_load(address: str, size_bytes: int, seconds: float) -> dict[str, Any]:
    """Order `one`: the blocking client, one inference after another for `seconds`: p50, p99."""
    times_ns: list[int] = []
    tensor = Tensor(0, size_bytes)
    with triton.InferenceServerClient(address) as client:
        tensor.check(client.infer(MODEL, tensor.inputs))
        until_ns = time.perf_counter_ns() + int(seconds * 1e9)
        while (begun_ns := time.perf_counter_ns()) < until_ns:
            result = client.infer(MODEL, tensor.inputs)
            result.as_numpy("x")
            times_ns.append(time.perf_counter_ns() - begun_ns)
            tensor.check(result)
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


async def _infer(client: Any, tensor: Tensor) -> None:
    tensor.check(await client.infer(MODEL, tensor.inputs))


async def many_run(address: str, size_bytes: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """`in_flight` callers at once on one channel for `seconds`: `calls_per_s`, p50, p99."""
    times_ns: list[int] = []

    async def caller(tensor: Tensor, until_ns: int) -> None:
        now = time.perf_counter_ns()
        while now < until_ns:
            await _infer(client, tensor)
            before, now = now, time.perf_counter_ns()
            times_ns.append(now - before)

    async with triton_aio.InferenceServerClient(address) as client:
        tensors = [Tensor(seed, size_bytes) for seed in range(in_flight)]
        await asyncio.gather(*(_infer(client, tensor) for tensor in tensors))
        begun_ns = time.perf_counter_ns()
        until_ns = begun_ns + int(seconds * 1e9)
        await asyncio.gather(*(caller(tensor, until_ns) for tensor in tensors))
        measured_s = (time.perf_counter_ns() - begun_ns) / 1e9
    answered = len(times_ns)
    return {"calls_per_s": answered / measured_s, "answered": answered, "verified": answered, **latencies(times_ns)}


def many_load(address: str, size_bytes: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Order `many`: see `many_run`."""
    return asyncio.run(many_run(address, size_bytes, in_flight, seconds))


if __name__ == "__main__":
    obey({"one": one_load, "many": many_load})
