"""Which deployments an app consists of when some are arguments of others."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import NESTING_MAX, Bound, Callee, spec_of
from flightserve.errors import ConfigError
from flightserve.running import plan_deployments
from flightserve.testing import LocalService


@fs.deployment
class Model:
    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def score(self, batch: pa.RecordBatch) -> dict[str, Any]:
        return {"x": [value * self.factor for value in batch.column("x").to_pylist()]}

    async def score_async(self, batch: pa.RecordBatch) -> dict[str, Any]:
        return self.score(batch)


@fs.deployment
class Front:
    def __init__(self, model: Any, **more: Any) -> None:
        self.model = model
        self.more = more

    def answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)

    async def answer_async(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return await self.model.score_async.aio(batch)


@fs.deployment
class Late:
    @classmethod
    def flightserve_spec(cls, bound: Any, version: str) -> Any:
        raise ConfigError("too late")

    def answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


ROWS = pa.record_batch({"x": [1, 2]})


def names(app: fs.App) -> list[str]:
    return [bound.name for bound in app]


def test_what_is_an_argument_is_served_as_well() -> None:
    app = fs.App(Front.bind(Model.bind()))
    assert names(app) == [spec.name for spec in app.specs] == ["Front", "Model"]
    front, model = app
    assert front.args == (Callee("Model"),)
    assert (front.callees(), model.callees()) == (("Model",), ())


def test_what_says_itself_what_it_serves_is_asked_when_it_is_planned() -> None:
    """Not when the app is made, which replicas do as well when they import its module."""
    app = fs.App(Late.bind())
    with pytest.raises(ConfigError, match="too late"):
        plan_deployments(app)
    with pytest.raises(ConfigError, match="no public method"):
        fs.App(fs.bind(type("Empty", (), {})))


def test_it_is_found_in_containers_and_what_they_hold_stays_as_it_was() -> None:
    config = {"sizes": [1, 2], "pair": (3, None)}
    a, b = Model.bind().options(name="a"), Model.bind().options(name="b")
    app = fs.App(Front.bind(None, models={"a": a, "all": [a, (b, 5)]}, config=config))
    assert names(app) == ["Front", "a", "b"]
    front = app.bound[0]
    assert front.callees() == ("a", "b")
    assert front.kwargs["config"] is config
    made = front.make(lambda name: f"<{name}>")
    assert made.more["models"] == {"a": "<a>", "all": ["<a>", ("<b>", 5)]}


def test_deeper_than_the_bound_nothing_is_looked_for() -> None:
    for depth, found in ((NESTING_MAX, ["Front", "Model"]), (NESTING_MAX + 1, ["Front"])):
        nested: Any = Model.bind()
        for _ in range(depth):
            nested = [nested]
        app = fs.App(Front.bind(nested))
        assert names(app) == found
        assert app.bound[0].callees() == tuple(found[1:])


def test_one_object_is_one_deployment_by_whatever_name_it_has() -> None:
    model = Model.bind()
    first, second = Front.bind(model).options(name="first"), Front.bind(model).options(name="second")
    assert names(fs.App(first, second)) == ["first", "Model", "second"]
    assert names(fs.App(first, model)) == ["first", "Model"]
    renamed = fs.App(first, scorer=model)
    assert names(renamed) == ["first", "scorer"]
    assert renamed.bound[0].callees() == ("scorer",)


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two deployments are called 'Model'"):
        fs.App(Front.bind(Model.bind(1), other=Model.bind(2)))
    with pytest.raises(ConfigError, match="two deployments are called 'Front'"):
        fs.App(Front.bind(Front.bind(None)))
    model = Model.bind()
    with pytest.raises(ConfigError, match="served as one and two, and it is an argument of another deployment"):
        fs.App(Front.bind(model), one=model, two=model)


def test_a_circle_is_refused() -> None:
    others: list[Bound] = []
    first = Front.bind(None, others=others)
    others.append(Front.bind(first).options(name="second"))
    with pytest.raises(ConfigError, match=r"'Front' is an argument of itself; .* in a circle"):
        fs.App(first)


def test_a_caller_travels_without_what_it_calls() -> None:
    front = fs.App(Front.bind(Model.bind(12345))).bound[0]
    assert b"Model.bind" not in pickle.dumps((front.args, dict(front.kwargs)))
    assert pickle.loads(pickle.dumps(front.args)) == (Callee("Model"),)
    # Its version is its own: another version of what it calls does not replace it.
    assert spec_of(front).version == spec_of(fs.App(Front.bind(Model.bind(1))).bound[0]).version


def test_in_a_unit_test_a_plain_object_will_do() -> None:
    assert Front(Model(3)).answer(ROWS) == {"x": [3, 6]}
    with pytest.raises(ConfigError, match="Front calls Model, which is only there when both are served"):
        fs.App(Front.bind(Model.bind())).bound[0].make()


def test_the_local_service_composes_as_well() -> None:
    with LocalService(fs.App(Front.bind(Model.bind(3)))) as service:
        assert service.run("Front", "answer", ROWS) == pa.record_batch({"x": [3, 6]})
        assert service.run("Front", "answer_async", ROWS) == pa.record_batch({"x": [3, 6]})
