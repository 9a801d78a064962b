"""Estimators from files: what they take is read off them, and what they give is what scikit-learn gives."""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import ConfigError, InvalidArgument, SchemaMismatch
from flightserve.models.files import ModelFile
from flightserve.models.serving import Served
from flightserve.testing import LocalService
from tests.models.late import sk
from tests.plane import plane

FRAME = pd.DataFrame(
    {
        "carrier": ["UA", "AA", "B6", "UA"],
        "hour": [1, 2, 3, 4],
        "distance": [1.0, np.nan, 3.0, 4.0],
        "note": ["late again", "ok", "fine", "bad late"],
        "dropped": ["x"] * 4,
        "terminal": [1, 2, 1, 2],
    }
)


def delays() -> Any:
    """A model of a frame: texts, categories of texts and of numbers, numbers with gaps, and what is dropped."""
    carrier = sk().make_pipeline(
        sk().SimpleImputer(strategy="most_frequent"), sk().OneHotEncoder(handle_unknown="ignore")
    )
    columns = sk().ColumnTransformer(
        [
            ("carrier", carrier, ["carrier"]),
            ("terminal", sk().OneHotEncoder(), ["terminal"]),
            ("numbers", sk().make_pipeline(sk().SimpleImputer(), sk().StandardScaler()), ["hour", "distance"]),
            ("note", sk().TfidfVectorizer(), "note"),
        ]
    )
    return sk().make_pipeline(columns, sk().LinearRegression()).fit(FRAME, [1.0, 2.0, 3.0, 4.0])


def saved(folder: Path, model: Any, name: str = "model.joblib") -> Path:
    joblib.dump(model, folder / name)
    return folder / name


def served(path: Path, **options: Any) -> LocalService:
    return LocalService(fs.App(m=fs.models.Sklearn(path, **{"trusted": True, **options})))


def schemas(service: LocalService, method: str = "predict") -> tuple[dict[str, str], dict[str, str]]:
    _, spec = service.method("m", method)
    assert spec.input_schema is not None and spec.output_schema is not None
    sides = [pa.ipc.read_schema(pa.py_buffer(each)) for each in (spec.input_schema, spec.output_schema)]
    taken, given = [{field.name: str(field.type) for field in side} for side in sides]
    return taken, given


def columns_of(values: np.ndarray[Any, Any], names: list[str]) -> pa.RecordBatch:
    return pa.record_batch({name: values[:, place] for place, name in enumerate(names)})


NUMBERED = ["x0", "x1", "x2", "x3"]


def test_a_model_of_a_matrix_over_the_data_plane_gives_what_scikit_learn_gives(tmp_path: Path) -> None:
    model = sk().LogisticRegression(max_iter=500).fit(sk().X, sk().Y)
    path = saved(tmp_path, model)
    with plane(fs.models.Sklearn(path, name="iris", trusted=True).bind()) as running:
        for rows in (sk().X[:1], sk().X, np.tile(sk().X, (5, 1))):
            predicted = running.call("predict", columns_of(rows, NUMBERED))[0].to_pydict()
            assert predicted == {"prediction": model.predict(rows).tolist()}
            likely = running.call("predict_proba", columns_of(rows, NUMBERED))[0].to_pydict()
            assert [*likely] == ["p_0", "p_1", "p_2"]
            assert np.allclose(np.array([*likely.values()]).T, model.predict_proba(rows))


def test_names_classes_and_threads_are_the_models_and_the_replicas(tmp_path: Path) -> None:
    iris = sk().load_iris(as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[iris.target]
    path = saved(tmp_path, sk().RandomForestClassifier(5, n_jobs=-1).fit(iris.data, names))
    with served(path, num_cpus=1) as service:
        assert schemas(service) == (dict.fromkeys(iris.feature_names, "double"), {"prediction": "string"})
        assert [*schemas(service, "predict_proba")[1]] == ["p_setosa", "p_versicolor", "p_virginica"]
        got = service.run("m", "predict", columns_of(sk().X[[0, 149]], iris.feature_names))
        assert got.column("prediction").to_pylist() == ["setosa", "virginica"]
        assert service._deployments["m"].target._model.n_jobs == 1


def test_a_model_of_a_frame_says_its_types_and_takes_gaps_and_unknown_words(tmp_path: Path) -> None:
    model = delays()
    rows = {"carrier": ["UA", "ZZ", None], "hour": [1, 2, 3], "distance": [None, 2.0, 3.0], "note": ["late", "", "ok"]}
    with served(saved(tmp_path, model)) as service:
        taken = {"carrier": "string", "hour": "double", "distance": "double", "note": "string", "terminal": "int64"}
        assert schemas(service) == (taken, {"prediction": "double"})
        got = service.run("m", "predict", pa.record_batch({**rows, "terminal": [1, 2, 1]}))
        expected = model.predict(pd.DataFrame({**rows, "terminal": [1, 2, 1], "dropped": ""}))
        assert np.allclose(got.column("prediction").to_numpy(), expected)
        with pytest.raises(InvalidArgument, match="does not know a value"):
            service.run("m", "predict", pa.record_batch({**rows, "terminal": [1, 2, 9]}))


def test_what_a_search_found_is_looked_into(tmp_path: Path) -> None:
    search = sk().GridSearchCV(delays(), {"linearregression__fit_intercept": [True]}, cv=2)
    with served(saved(tmp_path, search.fit(pd.concat([FRAME] * 4), [1.0, 2.0, 3.0, 4.0] * 4))) as service:
        assert schemas(service)[0]["carrier"] == "string"


def test_a_model_of_texts_has_its_feature_named(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_bytes(
        pickle.dumps(
            sk().make_pipeline(sk().TfidfVectorizer(), sk().LogisticRegression()).fit(FRAME.note, [0, 1, 1, 0])
        )
    )
    with pytest.raises(ConfigError, match=r"text\.pkl: Pipeline does not tell its features; give them"):
        served(tmp_path / "text.pkl")
    with served(tmp_path / "text.pkl", features={"note": "string"}) as service:
        assert service.run("m", "predict", {"note": ["bad late", "ok"]}).column(0).to_pylist() == [0, 1]


def test_several_outputs_and_transformers(tmp_path: Path) -> None:
    with served(saved(tmp_path, sk().LinearRegression().fit(sk().X, np.c_[sk().Y, -sk().Y]))) as service:
        assert schemas(service)[1] == {"prediction_0": "double", "prediction_1": "double"}
    scaler = sk().StandardScaler().fit(sk().X)
    with served(saved(tmp_path, scaler)) as service:
        got = service.run("m", "transform", columns_of(sk().X[:5], NUMBERED))
        assert np.allclose(np.column_stack([c.to_numpy() for c in got.columns]), scaler.transform(sk().X[:5]))


def test_values_that_the_model_does_not_take_are_their_senders_errors(tmp_path: Path) -> None:
    with served(saved(tmp_path, sk().LinearRegression().fit(sk().X, sk().Y))) as service:
        rows: dict[str, list[Any]] = {name: [1.0, 2.0] for name in NUMBERED}
        for value, shown in ((None, "null"), (float("nan"), "nan"), (float("inf"), "inf")):
            with pytest.raises(
                InvalidArgument, match=f"row 1 of column 'x2' is {shown}; the model takes no such value"
            ):
                service.run("m", "predict", {**rows, "x2": [1.0, value]})
        with pytest.raises(SchemaMismatch, match="missing 'x3'"):
            service.run("m", "predict", {name: [1.0] for name in NUMBERED[:3]})
        with pytest.raises(SchemaMismatch, match="x0"):
            service.run("m", "predict", {**rows, "x0": ["a", "b"]})
        empty = pa.record_batch({name: pa.array([], pa.float64()) for name in NUMBERED})
        assert service.run("m", "predict", empty).num_rows == 0


# ---- files


def test_a_pickle_is_told_of_and_skops_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = sk().LinearRegression().fit(sk().X, sk().Y)
    sk().skops_io.dump(model, tmp_path / "model.skops")
    with caplog.at_level(logging.WARNING, "flightserve.models"):
        served(tmp_path / "model.skops", trusted=False).close()
        served(saved(tmp_path, model)).close()
        assert not caplog.records
        served(saved(tmp_path, model), trusted=False).close()
        assert "runs code of whoever wrote it" in caplog.text


def test_types_that_skops_does_not_know_are_named_and_taken_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "odd.skops"
    sk().skops_io.dump(sk().make_pipeline(sk().StandardScaler(), sk().Odd()).fit(sk().X), path)
    with pytest.raises(ConfigError, match=r"types that skops does not know: .*Odd; if you trust them"):
        served(path, trusted=False)
    with pytest.raises(ConfigError, match=r"predict gives \(1,\) for 2 rows, and not a row for each"):
        served(path, trusted=True)


BAD: list[tuple[str, bytes | Callable[[], bytes] | None, str]] = [
    ("none.joblib", None, "there is no file .*none.joblib"),
    ("empty.joblib", b"", "empty.joblib: it cannot be read: EOFError"),
    ("words.joblib", b"hello", "words.joblib: it cannot be read: UnpicklingError"),
    ("words.pkl", b"hello", "words.pkl: it cannot be read: UnpicklingError"),
    ("zip.skops", b"PK\x03\x04 no archive", "zip.skops: it cannot be read: BadZipFile"),
    (
        "cut.joblib",
        lambda: pickle.dumps(sk().LinearRegression().fit(sk().X, sk().Y))[:100],
        "cut.joblib: it cannot be read",
    ),
    ("dict.pkl", pickle.dumps({"a": 1}), "dict.pkl holds dict; it is to hold a fitted estimator"),
    ("new.pkl", lambda: pickle.dumps(sk().LinearRegression()), "new.pkl holds LinearRegression that is not fitted"),
    ("gone.pkl", b"cno_such_module\nThing\n.", "gone.pkl needs the module 'no_such_module', which is not installed"),
    ("part.pkl", b"cflightserve\nNoSuchThing\n.", "part.pkl cannot be read: .*NoSuchThing.*can be imported here"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_files_that_cannot_be_served_are_one_line_before_anything_starts(
    tmp_path: Path, name: str, content: bytes | Callable[[], bytes] | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content() if callable(content) else content)
    with pytest.raises(ConfigError, match=message) as raised:
        spec_of(fs.models.Sklearn(tmp_path / name).bind())
    assert "\n" not in raised.value.message


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "folder.joblib").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        spec_of(fs.models.Sklearn(tmp_path / "folder.joblib").bind())


def test_a_model_of_another_version_is_refused_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.2.3")
        path = saved(tmp_path, sk().LinearRegression().fit(sk().X, sk().Y))
    with pytest.raises(ConfigError, match=r"was saved by scikit-learn 1\.2\.3, and .* install scikit-learn==1\.2\.3"):
        served(path)
    served(path, any_version=True).close()
    assert "was saved by scikit-learn 1.2.3" in caplog.text


def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, sk().LinearRegression().fit(sk().X, sk().Y))
    for name in ("sklearn.base", "joblib"):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, name, None)
            with pytest.raises(ConfigError, match=r"is not installed; .* pip install 'flightserve\[sklearn\]'"):
                served(path)


def test_what_runs_is_what_was_deployed_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, sk().LinearRegression().fit(sk().X, sk().Y))
    bound = fs.models.Sklearn(path, trusted=True).bind()
    first = spec_of(bound).version
    saved(tmp_path, sk().LinearRegression().fit(sk().X, -sk().Y))
    model = pickle.loads(pickle.dumps(bound)).make()
    assert model.predict(columns_of(sk().X[-1:], NUMBERED)).column(0)[0].as_py() > 0
    assert spec_of(bound).version != first


def test_a_large_file_is_read_where_it_lies_and_has_to_be_the_one_that_was_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flightserve.models.files.ModelFile.read.__defaults__", (10,))
    path = saved(tmp_path, sk().LinearRegression().fit(sk().X, sk().Y))
    bound = fs.models.Sklearn(path, trusted=True).bind()
    spec_of(bound)
    assert len(pickle.dumps(bound)) < path.stat().st_size + 3000
    bound.make()
    saved(tmp_path, sk().LinearRegression().fit(sk().X, -sk().Y))
    with pytest.raises(ConfigError, match=r"model.joblib is not the file any more that was deployed; deploy it again"):
        bound.make()


# ---- options


def test_the_file_names_the_deployment_unless_a_name_is_given(tmp_path: Path) -> None:
    assert fs.models.Sklearn("some/price.v2.joblib").bind().name == "price.v2"
    assert fs.models.Sklearn("price.joblib", name="other", replicas=3).bind().settings.replicas == 3
    assert [each.name for each in fs.App(price=fs.models.Sklearn("m.joblib"))] == ["price"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.models.Sklearn("m.onnx"), "takes a file that ends in .skops, .joblib"),
        (lambda: fs.models.Sklearn(3), "not by an object of int"),  # type: ignore[arg-type]
        (lambda: fs.models.Sklearn("9 m.joblib"), "give one: name="),
        (lambda: fs.models.Sklearn("m.joblib", replicaz=2), "did you mean 'replicas'"),  # type: ignore[call-arg]
        (lambda: fs.models.Sklearn("m.joblib", features={"a": "strin"}), "features: .*strin"),
        (lambda: fs.models.Sklearn("m.joblib", features=["a"]), "types by name"),  # type: ignore[arg-type]
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_file_is_looked_at(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_features_that_the_model_has_not_and_rows_that_it_cannot_warm_up_with_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, delays())
    with pytest.raises(ConfigError, match="features names 'a'; the model's are carrier, hour"):
        served(path, features={"a": "string"})
    row = {"carrier": "UA", "hour": 1, "distance": 1, "note": "x", "terminal": 1}
    served(path, warmup=[row]).close()
    with pytest.raises(ConfigError, match="predict fails on the rows to warm up with"):
        served(path, warmup=[{**row, "terminal": 9}])
    with pytest.raises(ConfigError, match="warmup: its example is not what it takes"):
        served(path, warmup={"z": [1]})
    served(path, warmup=False).close()


def test_types_that_are_given_go_before_those_that_were_found(tmp_path: Path) -> None:
    with served(saved(tmp_path, delays()), features={"hour": pa.int8()}) as service:
        assert schemas(service)[0]["hour"] == "int8"


class Note:
    def note(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"note": [f"{x:g}" for x in batch.column(0).to_pylist()]})


def test_a_models_methods_are_stages_and_its_file_is_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(tmp_path, sk().LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0]))
    model, note = fs.models.Sklearn(file, name="m"), fs.bind(Note)
    both = fs.pipeline("both", fs.join(model.predict, note.note))
    twice = fs.pipeline("twice", both >> fs.bind(Note).options(name="Again").note)
    assert len(fs.App(model, both, twice).specs) == 5
    assert len([record for record in caplog.records if "is a pickle" in record.message]) == 1
    with plane(both) as running:
        answers = [each.to_pydict() for each in running.call("run", pa.record_batch({"x0": [3.0]}))]
        assert answers == [{"prediction": [pytest.approx(6.0)], "note": ["3"]}]


def test_a_model_is_an_argument_of_another_deployment(tmp_path: Path) -> None:
    class Asks:
        def __init__(self, model: Any) -> None:
            self.model = model

        def ask(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            answer: pa.RecordBatch = self.model.predict(batch)
            return answer

    file = saved(tmp_path, sk().LinearRegression().fit([[1.0], [2.0]], [2.0, 4.0]))
    model = fs.models.Sklearn(file, name="m", trusted=True)
    assert [each.name for each in fs.App(model, fs.bind(Asks, {"models": [model]}))] == ["m", "Asks"]
    with plane(fs.bind(Asks, model)) as running:
        answers = [each.to_pydict() for each in running.call("ask", pa.record_batch({"x0": [3.0]}))]
        assert answers == [{"prediction": [pytest.approx(6.0)]}]


def test_what_a_model_is_warmed_up_with_and_made_by_is_part_of_its_version() -> None:
    file = ModelFile("m.pt")

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    class Net:
        def forward(self) -> int:
            return 1

    made = [None, one, two, Net, functools.partial(one, 1), functools.partial(one, 2), functools.partial(two, 2)]
    warmed: list[Any] = [False, True, {"x": [1]}, {"x": [2]}]
    stamps = {Served(file, module=module).stamp("") for module in made} | {
        Served(file, warmup=each).stamp("") for each in warmed
    }
    assert len(stamps) == len(made) + len(warmed) - 1
    assert Served(file, module=one, warmup={"x": [1]}).stamp("") == Served(file, module=one, warmup={"x": [1]}).stamp(
        ""
    )
