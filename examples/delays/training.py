"""The models, fitted on first use on the flights of January to September; `python -m examples.delays.training` prints
their errors on the other three months."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from examples.delays.stages import FLIGHT, Clean, Features, Weather
from examples.flights import data

DATA_DIR = Path(__file__).parent / "data"
LAST_MONTH_SEEN = 9
# Enough for models of nine numbers.
FLIGHTS_SEEN = 60_000


def flights(months: pc.Expression) -> tuple[pa.RecordBatch, np.ndarray]:
    """The flights of those months that arrived: rows as clients send them, and how many minutes late each was."""
    table = data.read("flights").filter(months & pc.field("arr_delay").is_valid())
    rows = table.select(FLIGHT.names).cast(FLIGHT).combine_chunks().to_batches()[0]
    return rows, table["arr_delay"].to_numpy().astype(float)


def features(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The stages' own code, called as what it is."""
    return Features().build(Weather().add(Clean().clean(rows)))


def ensure(directory: Path = DATA_DIR) -> dict[str, Path]:
    """The models' files by name, fitted and written first where they are not there."""
    paths = {name: directory / f"{name}.joblib" for name in ("quick", "careful")}
    if not all(path.exists() for path in paths.values()):
        directory.mkdir(parents=True, exist_ok=True)
        for name, model in _fitted().items():
            partial = directory / f".{name}.{os.getpid()}.partial"
            joblib.dump(model, partial)
            partial.replace(paths[name])
    return paths


def _fitted() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    rows, late = flights(pc.field("month") <= LAST_MONTH_SEEN)
    chosen = np.sort(np.random.default_rng(0).choice(rows.num_rows, FLIGHTS_SEEN, replace=False))
    matrix = features(rows.take(pa.array(chosen))).to_pandas()
    models = {"quick": LinearRegression(), "careful": HistGradientBoostingRegressor(max_iter=60, random_state=0)}
    return {name: model.fit(matrix, late[chosen]) for name, model in models.items()}


def errors() -> dict[str, float]:
    """Mean errors in minutes, by model, on the months that they have not seen; "unchanged" says that a flight arrives
    as late as it left."""
    rows, late = flights(pc.field("month") > LAST_MONTH_SEEN)
    matrix = features(rows).to_pandas()
    guesses = {"unchanged": rows["dep_delay"].to_numpy()}
    guesses |= {name: joblib.load(path).predict(matrix) for name, path in ensure().items()}
    return {name: float(np.abs(guess - late).mean()) for name, guess in guesses.items()}


if __name__ == "__main__":
    for name, error in errors().items():
        print(f"{name:<10} {error:6.2f} minutes")
