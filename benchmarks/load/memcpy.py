"""memcpy as a baseline: how long it takes to copy some bytes to another buffer and back."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.load.orders import WrongAnswer, latencies, obey

COPIES_MIN = 20


def memcpy_load(size_bytes: int, seconds: float) -> dict[str, Any]:
    """Order `memcpy`: copy that many bytes there and back again and again for `seconds`: p50, p99."""
    here, there = np.arange(size_bytes, dtype=np.uint8), np.zeros(size_bytes, dtype=np.uint8)
    times_ns: list[int] = []
    until_ns = time.perf_counter_ns() + int(seconds * 1e9)
    while (begun := time.perf_counter_ns()) < until_ns or len(times_ns) < COPIES_MIN:
        np.copyto(there, here)
        np.copyto(here, there)
        times_ns.append(time.perf_counter_ns() - begun)
    if not np.array_equal(here, there):
        raise WrongAnswer("the copies differ")
    return {"answered": len(times_ns), "verified": len(times_ns), **latencies(times_ns)}


if __name__ == "__main__":
    obey({"memcpy": memcpy_load})
