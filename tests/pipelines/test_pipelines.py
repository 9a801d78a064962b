"""Pipelines: what is made of stages, over the local service and over the real data plane."""

from __future__ import annotations

import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import flightserve as fs
from flightserve.declare import Bound, spec_of
from flightserve.errors import ConfigError, MethodFailed, SchemaMismatch
from flightserve.testing import LocalService
from flightserve.types import DeploymentSpec, MethodSpec
from tests.plane import meta, plane

INT = pa.schema([("x", pa.int64())])
DOUBLE = pa.schema([("x", pa.float64())])
ROWS = pa.record_batch({"x": [1, 2, 3, 4]})


@fs.deployment
class Clean:
    @fs.method(input=INT, output=INT)
    def clean(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def loose(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    @fs.method(row_aligned=False)
    async def stroll(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)

    @fs.method(row_aligned=False)
    def head(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.slice(0, 1)

    @fs.method(idempotent=False)
    def once(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def options(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def unserved(self) -> None: ...


@fs.deployment
class Model:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    @fs.method(input=DOUBLE, output=pa.schema([("p", pa.float64())]))
    def predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"p": pc.multiply(batch["x"], 10.0)})

    def loose(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.calls.append(("loose", batch.num_rows))
        return pa.record_batch({"p": pc.multiply(batch["x"], 10)})

    @fs.method(input=pa.schema([("x", pa.string())]))
    def text(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(input=DOUBLE, strict=True)
    def strict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def boom(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("bad value")

    def context(self, batch: pa.RecordBatch) -> dict[str, Any]:
        now, rows = fs.context(), batch.num_rows
        return {"left": [now.remaining_ms] * rows, "priority": [now.priority] * rows, "id": [now.request_id] * rows}


class Front:
    def __init__(self, other: Any) -> None:
        self.other = other

    def run(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.other.run(batch)


clean, model = fs.bind(Clean), fs.bind(Model)


def run(bound: Bound[Any], rows: pa.RecordBatch = ROWS) -> dict[str, Any]:
    with LocalService(fs.App(bound)) as service:
        return service.run(bound.name, "run", rows).to_pydict()


# ---- what is declared


def test_a_pipeline_is_a_deployment_with_one_method() -> None:
    app = fs.App(fs.pipeline("score", clean.clean >> model.predict))
    assert [spec.name for spec in app.specs] == ["score", "Clean", "Model"]
    (method,) = app.specs[0].methods
    assert (method.name, method.row_aligned, method.idempotent, method.streaming) == ("run", True, True, False)
    assert pa.ipc.read_schema(pa.py_buffer(method.input_schema or b"")) == INT
    assert pa.ipc.read_schema(pa.py_buffer(method.output_schema or b"")) == pa.schema([("p", pa.float64())])
    assert method.doc == app.specs[0].doc == "Clean.clean >> Model.predict"


def test_it_goes_by_the_names_that_the_app_gives() -> None:
    app = fs.App(cleaner=clean, scorer=fs.pipeline("score", clean.clean >> model.predict))
    assert [spec.name for spec in app.specs] == ["cleaner", "scorer", "Model"]
    assert app.specs[1].doc == "cleaner.clean >> Model.predict"
    with LocalService(app) as service:
        assert service.run("scorer", "run", ROWS).to_pydict() == {"p": [10.0, 20.0, 30.0, 40.0]}


def test_it_follows_its_stages() -> None:
    def flags(graph: Any) -> tuple[bool, bool, bool]:
        (method,) = spec_of(fs.pipeline("p", graph)).methods
        return method.row_aligned, method.idempotent, method.streaming

    assert flags(clean.clean >> clean.loose) == (True, True, False)
    assert flags(clean.clean >> clean.head >> clean.loose) == (False, True, False)
    assert flags(clean.clean >> clean.once) == (False, False, False)
    assert flags(clean.clean >> clean.walk) == (False, True, True)


def test_it_takes_options_of_a_deployment() -> None:
    spec = spec_of(fs.pipeline("p", clean.clean >> model.loose, replicas=3, strict=True))
    assert spec.options.replicas == 3
    assert spec.methods[0].strict


def test_a_stage_is_no_deployment() -> None:
    for argument in (clean.clean, [clean.clean >> model.loose]):
        with pytest.raises(ConfigError, match=r"Front is bound with the stage Clean.clean.*; give it the deployment"):
            fs.App(fs.bind(Front, argument))
    with pytest.raises(ConfigError, match="App takes what bind"):
        fs.App(clean.clean)  # type: ignore[arg-type]


def test_its_version_is_that_of_what_it_does() -> None:
    def version(graph: Any) -> str:
        return spec_of(fs.pipeline("p", graph)).version

    assert version(clean.clean >> model.loose) == version(clean.clean >> model.loose)
    assert version(clean.clean >> model.loose) != version(clean.loose >> model.loose)


def test_it_travels_without_its_stages() -> None:
    bound = fs.App(fs.pipeline("p", clean.clean >> model.loose)).bound[0]
    assert bound.callees() == ("Clean", "Model")
    assert b"Model.loose" not in pickle.dumps((bound.args, dict(bound.kwargs)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clean.claen, "Clean serves no method 'claen'; did you mean 'clean'"),
        (lambda: fs.pipeline("p", clean.unserved >> model.loose), "Clean serves no method 'unserved'"),
        (lambda: clean.clean >> 5, "a stage is a method of a bound deployment, .* not int"),
        (lambda: 5 >> clean.clean, "a stage is a method of a bound deployment, .* not int"),
        (lambda: clean.clean >> Model.predict, "Model.predict is a function; .* bind the class"),
        (lambda: clean >> model.predict, "Clean is a deployment; a stage is one of its methods"),
        (lambda: fs.pipeline("p q", clean.clean), "'p q' cannot name a deployment"),
        (lambda: fs.pipeline("p", clean.clean, replica=2), "unknown deployment option 'replica'; did you mean"),
        (
            lambda: fs.pipeline("p", clean.clean >> model.text),
            "Clean.clean >> Model.text: column 'x' is int64, and string is taken",
        ),
        (
            lambda: fs.pipeline("p", clean.clean >> model.strict),
            "Clean.clean >> Model.strict: column 'x' is int64, and double is taken",
        ),
        (
            lambda: fs.pipeline("p", model.predict >> clean.loose >> clean.clean >> model.predict >> clean.clean),
            "Model.predict >> Clean.clean: column 'x' is missing; column 'p' is not taken",
        ),
        (
            lambda: fs.pipeline("p", clean.walk >> clean.loose),
            "Clean.walk >> Clean.loose: Clean.walk yields batches, which only the last stage may",
        ),
    ],
)
def test_what_is_no_pipeline_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_method_that_a_bound_has_itself_is_a_stage_by_item() -> None:
    assert run(fs.pipeline("p", clean["options"] >> model.loose)) == {"p": [10, 20, 30, 40]}
    assert not hasattr(clean, "claen")


class Said:
    """Says itself what it serves, when the app is planned: as warehouses and models in files do."""

    @classmethod
    def flightserve_spec(cls, bound: Bound[Any], version: str) -> DeploymentSpec:
        schemas = {"input_schema": DOUBLE.serialize().to_pybytes(), "output_schema": INT.serialize().to_pybytes()}
        method = MethodSpec("predict", sums=True, rounds=True, **schemas)  # type: ignore[arg-type]
        return DeploymentSpec(bound.name, "1", bound.settings, (method,))


def test_what_says_itself_what_it_serves_is_checked_when_the_app_is_planned() -> None:
    said = fs.bind(Said)
    (method,) = fs.App(fs.pipeline("p", said.predict >> clean.clean >> said.predict)).specs[0].methods
    assert pa.ipc.read_schema(pa.py_buffer(method.input_schema or b"")) == DOUBLE
    assert (method.sums, method.rounds, method.row_aligned) == (True, True, True)
    with pytest.raises(ConfigError, match=r"Model.predict >> Said.predict: column 'x' is missing; column 'p' is not"):
        _ = fs.App(fs.pipeline("p", model.predict >> said.predict)).specs
    with pytest.raises(ConfigError, match="Said serves no method 'predcit'; did you mean 'predict'"):
        _ = fs.App(fs.pipeline("p", said.predcit >> clean.clean)).specs
    inner = fs.pipeline("inner", said.predict)
    with pytest.raises(ConfigError, match=r"inner.run >> Model.text: column 'x' is int64, and string is taken"):
        _ = fs.App(fs.pipeline("p", inner >> model.text)).specs


# ---- how it runs


def test_a_stage_that_is_called_says_what_it_is() -> None:
    stage: Any = clean.clean
    with pytest.raises(TypeError, match=r"^Clean\.clean is a stage of a pipeline, and runs nothing here: serve it"):
        stage(ROWS)
    with pytest.raises(ConfigError, match=r"combine=\.\.\.\) takes a function of batches"):
        fs.join(clean.clean, model.loose, combine=stage)


def test_batches_of_a_last_stage_come_as_it_yields_them() -> None:
    for last in (clean.walk, clean.stroll):
        assert run(fs.pipeline("p", clean.clean >> last)) == {"x": [1, 2, 3, 4]}
        assert run(fs.pipeline("p", last)) == {"x": [1, 2, 3, 4]}


def test_a_class_calls_a_pipeline_as_it_does_any_deployment() -> None:
    assert run(fs.bind(Front, fs.pipeline("p", clean.clean >> model.loose))) == {"p": [10, 20, 30, 40]}


def test_a_pipeline_is_a_stage_of_another() -> None:
    inner = fs.pipeline("inner", clean.clean >> clean.loose)
    outer = fs.pipeline("outer", inner >> model.predict)
    app = fs.App(outer)
    assert [spec.name for spec in app.specs] == ["outer", "inner", "Clean", "Model"]
    assert run(outer) == run(fs.pipeline("other", inner.run >> model.predict)) == {"p": [10.0, 20.0, 30.0, 40.0]}
    with pytest.raises(ConfigError, match=r"inner.run >> Model.text: column 'x' is int64"):
        fs.pipeline("bad", fs.pipeline("inner", clean.clean) >> model.text)


def test_errors_name_the_stage_and_whose_fault_they_are() -> None:
    broken = fs.pipeline("broken", clean.clean >> model.boom)
    mixed = fs.pipeline("mixed", clean.loose >> model.predict)
    with LocalService(fs.App(broken, mixed)) as service:
        with pytest.raises(MethodFailed, match=r"^Model.boom: ValueError: bad value"):
            service.run("broken", "run", ROWS)
        with pytest.raises(SchemaMismatch, match=r"broken.run does not take these columns"):
            service.run("broken", "run", {"y": [1]})
        with pytest.raises(MethodFailed, match=r"^Clean.loose >> Model.predict: .* missing 'x'"):
            service.run("mixed", "run", {"y": [1]})


# ---- over the data plane


def test_over_the_data_plane() -> None:
    with plane(fs.pipeline("score", clean.clean >> clean.loose >> model.loose)) as running:
        (got,) = running.call("run", ROWS)
        assert got.to_pydict() == {"p": [10, 20, 30, 40]}
        del got


def test_no_rows_go_through_a_process_that_has_sent_none_of_its_own() -> None:
    with plane(fs.pipeline("score", clean.clean >> clean.loose >> model.loose)) as running:
        (answer,) = running.call("run", ROWS.slice(0, 0))
        assert answer.num_rows == 0


def test_requests_that_come_together_keep_their_rows() -> None:
    with plane(fs.pipeline("score", clean.clean >> clean.loose >> model.loose)) as running:
        threads, answers = [], {}

        def ask(number: int) -> None:
            rows = pa.record_batch({"x": list(range(number, number + 3))})
            (got,) = running.call("run", rows)
            answers[number] = got["p"].to_pylist()

        for number in range(32):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert answers == {n: [10 * n, 10 * n + 10, 10 * n + 20] for n in range(32)}


def test_every_stage_has_the_requests_deadline_priority_and_id() -> None:
    with plane(fs.pipeline("told", clean.loose >> clean.loose >> model.context)) as running:
        (got,) = running.call("run", ROWS, meta(5, "mine", 7))
        row = got.to_pylist()[0]
        assert 0 < row["left"] <= 5000
        assert (row["priority"], row["id"][:4]) == (7, "mine")
        del got
