"""Load by `fs.connect`: calls one after another, and a generator of batches. Row counts are checked in every answer,
values in the first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

import flightserve as fs
from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

WARM_CALLS = 50
WARM_BATCHES = 3
CALLS_MIN = 20


def check(answer: pa.RecordBatch, batch: pa.RecordBatch, whole: bool) -> None:
    """Raises WrongAnswer where it is not what was sent."""
    if answer.num_rows != batch.num_rows or (whole and not answer.equals(batch)):
        raise WrongAnswer(f"{answer.num_rows} rows came back of {batch.num_rows}, or others")


def call_load(url: str, seconds: float) -> dict[str, Any]:
    """Order `call`: calls of 16 rows for `seconds`."""
    batch, times_ns = payloads.small(), list[int]()
    with fs.connect(url, way="memory") as client:
        check(client.Identity.identity(batch), batch, True)
        for _ in range(WARM_CALLS):
            client.Identity.identity(batch)
        until_ns = time.perf_counter_ns() + int(seconds * 1e9)
        while (begun := time.perf_counter_ns()) < until_ns or len(times_ns) < CALLS_MIN:
            answer = client.Identity.identity(batch)
            times_ns.append(time.perf_counter_ns() - begun)
            check(answer, batch, False)
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


def mapped_load(url: str, size_bytes: int, seconds: float) -> dict[str, Any]:
    """Order `mapped`: a generator of batches of about that size, for `seconds` after the first few: `gb_per_s`."""
    batch = payloads.sized(size_bytes)
    begun = ended = 0.0
    counted = 0

    def batches() -> Iterator[pa.RecordBatch]:
        while not begun or time.monotonic() - begun < seconds:
            yield batch

    with fs.connect(url, way="memory") as client:
        for number, answer in enumerate(client.Identity.identity(batches()), 1):
            check(answer, batch, number == 1)
            ended = time.monotonic()
            if number == WARM_BATCHES:
                begun = ended
            counted = max(0, number - WARM_BATCHES)
    per_s = counted / (ended - begun)
    return {"gb_per_s": per_s * batch.nbytes / 1e9, "answered": counted, "verified": counted}


if __name__ == "__main__":
    obey({"call": call_load, "mapped": mapped_load})
