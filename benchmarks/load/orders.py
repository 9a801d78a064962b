"""How a load generator takes orders: one JSON object a line on stdin, one JSON answer a line on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Order = Callable[..., dict[str, Any]]


class WrongAnswer(AssertionError):
    """A server answered something other than it had to."""


def obey(orders: Mapping[str, Order]) -> None:
    """Carry out orders until stdin ends. An order that raises is answered `{"error": ...}`."""
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = orders[arguments.pop("order")](**arguments)
        except Exception as error:  # the parent decides; it gets class and message
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def latencies(times_ns: Sequence[int]) -> dict[str, float]:
    """p50 and p99 of some latencies, in microseconds."""
    ordered = sorted(times_ns)
    last = len(ordered) - 1
    return {"p50_us": ordered[last // 2] / 1e3, "p99_us": ordered[min(last, len(ordered) * 99 // 100)] / 1e3}
