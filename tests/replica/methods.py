"""Methods bound for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from flightserve.declare import deployment, method, spec_of
from flightserve.replica.binding import BoundMethod, bind_methods

BATCH = pa.record_batch({"a": np.arange(6, dtype=np.int64), "b": np.arange(6.0)})
PIECES = [BATCH.slice(0, 2), BATCH.slice(2)]


def bound(function: Callable[..., Any]) -> BoundMethod:
    """The function as the one method of a deployment `D`."""
    made: Any = deployment(type("D", (), {"m": function}))
    return bind_methods(made(), spec_of(made.bind()))["m"]


def returning(value: Any, **options: Any) -> BoundMethod:
    def m(self: Any, batch: pa.RecordBatch) -> Any:
        return value

    return bound(method(**options)(m))


def address(array: pa.Array) -> int:
    return int(array.buffers()[-1].address)
