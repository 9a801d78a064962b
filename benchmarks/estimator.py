"""The model that peers and flightserve serve: a gradient boosting of scikit-learn, and what a client sends and gets.

Its predictions are sums over trees, row by row, so a row's is the same number whatever is predicted beside it: answers
can be compared exactly. The file is made where it is not there; peers, which have an environment of their own with the
same scikit-learn, read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.payloads import numbers
from benchmarks.tpch import DATA

NAME: Final = "Estimator"
FEATURES: Final = tuple(f"x{number}" for number in range(10))
_FILE: Final = DATA / "estimator.joblib"
_ROWS: Final = 2000


def ensure() -> Path:
    """The model's file, made where it is not there."""
    if not _FILE.exists():
        import joblib
        import numpy as np
        from sklearn.ensemble import GradientBoostingRegressor

        random = np.random.default_rng(7)
        rows = random.uniform(0, 200, (_ROWS, len(FEATURES)))
        model = GradientBoostingRegressor(random_state=7).fit(rows, rows @ random.uniform(-1, 1, len(FEATURES)))
        _FILE.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may find it missing.
        making = _FILE.with_suffix(f".making-{os.getpid()}")
        joblib.dump(model, making)
        making.rename(_FILE)
    return _FILE


def columns(seed: int) -> dict[str, list[float]]:
    """The row of a client, as a request has it."""
    return {name: [value] for name, value in zip(FEATURES, numbers(seed), strict=True)}


def predict(model: Any, rows: Sequence[Mapping[str, Sequence[float]]]) -> list[float]:
    """What the model says of each row, all in one call."""
    import numpy as np

    matrix = np.array([[row[name][0] for name in FEATURES] for row in rows])
    values: list[float] = model.predict(matrix).tolist()
    return values


def answer(value: float) -> dict[str, Any]:
    """A prediction, as an answer has it."""
    return {"columns": {"prediction": [value]}}
