"""Models beside other deployments: as stages, in splits, and called by methods."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.errors import ConfigError, InvalidArgument
from flightserve.testing import LocalService
from tests.models.late import sk
from tests.plane import plane

SCHEMA = pa.schema([("x0", pa.float64()), ("x1", pa.float64())])


class Clean:
    """Numbers that a model takes, of texts."""

    @fs.method(output=SCHEMA)
    def clean(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({name: batch[name].cast(pa.float64()) for name in ("x0", "x1")})

    @fs.method(output=pa.schema([("x0", pa.string())]))
    def forget(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.select(["x0"])


class Twice:
    def __init__(self, model: Any) -> None:
        self.model = model

    def twice(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        predicted = self.model.predict(batch)["prediction"].to_numpy()
        return pa.record_batch({"twice": predicted * 2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    joblib.dump(sk().LinearRegression().fit(rows, [1.0, 10.0, 11.0]), tmp_path / "sum.joblib")
    return tmp_path / "sum.joblib"


def model(path: Path, name: str = "sum") -> Any:
    return fs.models.Sklearn(path, name=name, trusted=True)


def test_a_model_is_a_stage_and_its_edges_are_checked_when_the_app_is_planned(path: Path) -> None:
    clean, sums = fs.bind(Clean), model(path)
    with LocalService(fs.App(fs.pipeline("score", clean.clean >> sums.predict), sums)) as service:
        answer = service.run("score", "run", {"x0": ["1", "2"], "x1": ["3", "4"]})
        assert np.allclose(answer["prediction"].to_numpy(), [13.0, 24.0])
    with pytest.raises(ConfigError, match=r"Clean\.forget >> sum\.predict"):
        LocalService(fs.App(fs.pipeline("score", clean.forget >> sums.predict)))
    with pytest.raises(ConfigError, match="sum serves no method 'foresee'"):
        LocalService(fs.App(fs.pipeline("score", clean.clean >> sums.foresee)))


def test_versions_of_a_model_are_split_and_shadowed(path: Path) -> None:
    old, new = model(path, "old"), model(path, "new")
    with plane(fs.pipeline("score", fs.split({old: 0.5, new: 0.5}).predict)) as running:
        for number in range(5):
            rows = pa.record_batch({"x0": [float(number)], "x1": [1.0]})
            assert np.isclose(running.call("run", rows)[0].to_pydict()["prediction"][0], 10 * number + 1)
    with LocalService(fs.App(old, new, fs.shadow(old, "new"))) as service:
        assert service.run("shadow", "predict", {"x0": [1.0], "x1": [1.0]})["prediction"][0].as_py() == pytest.approx(
            11
        )


def test_a_value_that_a_model_does_not_take_is_its_senders_error_through_a_split(path: Path) -> None:
    with LocalService(fs.App(fs.split({model(path): 1.0}))) as service:
        with pytest.raises(InvalidArgument, match="row 0 of column 'x1' is null; the model takes no such value"):
            service.run("split", "predict", pa.record_batch({"x0": [1.0], "x1": pa.array([None], pa.float64())}))


def test_a_class_gets_a_model_as_an_argument(path: Path) -> None:
    with LocalService(fs.App(fs.bind(Twice, model(path).bind()))) as service:
        assert service.run("Twice", "twice", {"x0": [1.0], "x1": [0.0]})["twice"][0].as_py() == pytest.approx(20)


def test_what_is_declared_can_be_copied_and_pickled(path: Path) -> None:
    for other in (copy.deepcopy(model(path)), pickle.loads(pickle.dumps(model(path)))):
        assert other.name == "sum" and not hasattr(other, "_no_such") and repr(other).startswith("Sklearn(")
