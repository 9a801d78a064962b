"""A pipeline of four deployments of Ray Serve that answer what they get, by handles, in its throughput mode.

A load generator as well: order `flow` keeps so many requests in flight. Settings beside those of `ray_settings`: the
batch travels as bytes, an Arrow stream, which is pickled faster than a RecordBatch; each answer is awaited and handed
to the next stage, which with gRPC between the processes is as fast as handing on the response itself, and faster than
object references or a deployment that calls the four.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peers import ray_settings

ray_settings.set_environment("throughput")

from ray import serve  # noqa: E402 - Ray reads its environment when it is imported

from benchmarks import payloads  # noqa: E402
from benchmarks.load.orders import WrongAnswer, obey  # noqa: E402
from benchmarks.processes import free_port  # noqa: E402

STAGES = 4
ONGOING_MAX = 64
WARM_ROUNDS = 2


class Stage:
    """One stage."""

    async def identity(self, rows: bytes) -> bytes:
        """The rows, unchanged."""
        return rows


async def through(stages: list[Any], rows: bytes) -> bytes:
    """What comes out of the last stage."""
    for stage in stages:
        rows = await stage.identity.remote(rows)
    return rows


async def closed_loop(call: Callable[[], Awaitable[bytes]], in_flight: int, seconds: float) -> tuple[list[int], float]:
    """So many calls at a time for `seconds`: rows of each answer, and the seconds that it took."""
    counts: list[int] = []
    until = time.perf_counter() + seconds

    async def one_after_another() -> None:
        while time.perf_counter() < until:
            counts.append(payloads.decode(await call()).num_rows)

    begun = time.perf_counter()
    await asyncio.gather(*[one_after_another() for _ in range(in_flight)])
    return counts, time.perf_counter() - begun


async def flow(stages: list[Any], size_bytes: int, in_flight: int, seconds: float) -> dict[str, Any]:
    """Rows of about that many bytes; `gb_per_s` is of the rows that came back."""
    batch = payloads.sized(size_bytes)
    call = functools.partial(through, stages, payloads.encode(batch))
    for _ in range(WARM_ROUNDS):
        for answer in await asyncio.gather(*[call() for _ in range(in_flight)]):
            if not payloads.decode(answer).combine_chunks().to_batches()[0].equals(batch):
                raise WrongAnswer("other values came back")
    counts, took_s = await closed_loop(call, in_flight, seconds)
    if set(counts) != {batch.num_rows}:
        raise WrongAnswer(f"{set(counts)} rows came back of {batch.num_rows}")
    return {"answered": len(counts), "verified": len(counts), "gb_per_s": len(counts) * batch.nbytes / took_s / 1e9}


def main() -> None:
    """Start Serve and the stages, obey orders, shut it down."""
    loop = asyncio.new_event_loop()
    # Handles belong to the loop that first calls by them.
    asyncio.set_event_loop(loop)
    with ray_settings.serving(free_port()):
        stage: Any = serve.deployment(max_ongoing_requests=ONGOING_MAX, ray_actor_options={"num_cpus": 0})(Stage)
        bound = [stage.options(name=f"Stage{number}").bind() for number in range(1, STAGES + 1)]
        stages = [serve.run(each, name=f"stage{place}", route_prefix=None) for place, each in enumerate(bound)]

        def order(size_bytes: int, in_flight: int, seconds: float) -> dict[str, Any]:
            return loop.run_until_complete(flow(stages, size_bytes, in_flight, seconds))

        obey({"flow": order})
    loop.close()


if __name__ == "__main__":
    main()
