"""What all systems do with requests that were put together: answer what came, or ask the model in a file.

Peers import it in environments of their own, so it takes nothing that only one of the two needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

# A request's columns, and an answer, as JSON has them.
Columns: TypeAlias = dict[str, list[Any]]
Answer: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Sequence[Columns]], list[Answer]]

# In place of a model's file.
IDENTITY: Final = "identity"
NUMBERS: Final = 10
# Requests that are put together, in flightserve and in each peer.
BATCH_MAX: Final = 64


def load(what: str) -> Work:
    """The work: of the model in that file, or IDENTITY."""
    if what == IDENTITY:
        return lambda requests: [{"columns": columns} for columns in requests]
    import joblib

    from benchmarks import estimator

    model = joblib.load(what)
    return lambda requests: [estimator.answer(value) for value in estimator.predict(model, requests)]


def probe(what: str) -> Columns:
    """A request's columns that this work answers."""
    if what == IDENTITY:
        return {"x": [number / 4 for number in range(NUMBERS)]}
    from benchmarks import estimator

    return estimator.columns(0)
