"""What an object has of another deployment: `fs.Handle`, `fs.aio`, `fs.later`, over deployments and plain objects."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import pickle
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.declare import spec_of
from flightserve.errors import MethodFailed
from flightserve.testing import LocalService

T = TypeVar("T")
ROWS = pa.record_batch({"a": [1, 2]})
DOUBLED = {"a": [2, 4]}


class Model:
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"a": [2 * value for value in batch["a"].to_pylist()]})

    async def look_up(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.score(batch)

    @fs.method(row_aligned=False)
    def walk(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield self.score(batch)

    @fs.method(row_aligned=False)
    async def stroll(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        yield self.score(batch)

    def refuses(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        raise fs.InvalidArgument("not these")


class Front:
    """Calls the model in every way; each method gives what its call gave."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch=batch)

    def begun(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        calls = [fs.later(self.model.score, batch), fs.later(self.model.look_up, batch)]
        first, second = (call.result() for call in calls)
        assert first == second
        return first

    def copied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return copy.copy(copy.copy(self.model).score)(batch)

    def streamed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        call = fs.later(self.model.walk, batch)
        assert call.streaming
        return next(call.batches())

    def failed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        call = fs.later(self.model.refuses, batch)
        with pytest.raises(fs.InvalidArgument, match="not these"):
            call.result()
        return self.model.score(batch)

    async def awaited(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert await fs.aio(self.model.look_up, batch) == await self.model.look_up(batch)
        return await fs.aio(self.model.score, batch)

    async def iterated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        async for first in fs.aio(self.model.walk, batch):
            async for second in fs.aio(self.model.stroll, batch):
                assert first == second
                async for third in self.model.stroll(batch):
                    assert first == third
                    return third
        return batch


METHODS = ["plain", "begun", "copied", "streamed", "failed", "awaited", "iterated"]


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    model = fs.bind(Model)
    with LocalService(fs.App(fs.bind(Front, model), fs.bind(Frames, model))) as service:
        yield service


@pytest.mark.parametrize("method", METHODS)
def test_a_deployment_is_called_as_its_class_is(service: LocalService, method: str) -> None:
    assert service.run("Front", method, ROWS).to_pydict() == DOUBLED


@pytest.mark.parametrize("method", METHODS)
def test_a_plain_object_in_its_place_is_called_alike(method: str) -> None:
    result = getattr(Front(Model()), method)(ROWS)
    if asyncio.iscoroutine(result):
        result = asyncio.run(result)
    assert result.to_pydict() == DOUBLED


class Frames:
    def __init__(self, model: fs.Handle[Model]) -> None:
        self.model = model

    def polars(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(pl.from_arrow(batch))  # type: ignore[arg-type]

    def pandas(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch.to_pandas())

    def columns(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert isinstance(self.model, fs.Handle)
        return self.model.score({"a": batch["a"]})

    def nothing(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(pd.DataFrame({"a": pd.Series([], dtype="int64")}))

    def none(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score()  # type: ignore[call-arg]

    def two(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch, rounded=True)  # type: ignore[call-arg]

    def text(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score("rows")

    async def blocking(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.score(batch)

    async def blocking_later(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.model.look_up.later(batch).result()


@pytest.mark.parametrize("method", ["polars", "pandas", "columns"])
def test_frames_and_columns_are_rows(service: LocalService, method: str) -> None:
    assert service.run("Frames", method, ROWS).to_pydict() == DOUBLED


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("none", "Model.score takes one argument, the rows, not 0"),
        ("two", "Model.score takes one argument, the rows, not 2"),
        ("text", "a record batch, a table, a frame or a dict of columns, not str"),
        ("blocking", r"would block the event loop; use: await Model\.score\.aio\(batch\)"),
        ("blocking_later", r"would block the event loop; use: await Model\.look_up\.aio\(batch\)"),
    ],
)
def test_what_is_called_wrongly_says_how(service: LocalService, method: str, message: str) -> None:
    with pytest.raises(MethodFailed, match=message):
        service.run("Frames", method, ROWS)


def test_a_frame_without_rows_is_a_batch_without_rows(service: LocalService) -> None:
    with pytest.raises(MethodFailed, match=r"got 2 rows and returned 0"):
        service.run("Frames", "nothing", ROWS)


def test_a_later_call_that_streams_has_no_one_result() -> None:
    call = fs.later(Model().walk, ROWS)
    with pytest.raises(TypeError, match=r"batches\(\)"):
        call.result()
    call.cancel()


# ---- the decorated class stays a class


@fs.deployment(replicas=2)
@dataclasses.dataclass
class Settings:
    size: int = 3

    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


class Abstract(ABC):
    @abstractmethod
    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


@fs.deployment
class Concrete(Abstract, Generic[T]):
    def __init__(self, value: T, other: fs.Handle[Settings] | None = None) -> None:
        self.value = value

    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Gives what it gets."""
        return batch


def test_the_decorated_class_is_a_class_to_all_who_look() -> None:
    assert Settings(4) == Settings(size=4) and dataclasses.is_dataclass(Settings)
    assert isinstance(Concrete(1), Abstract) and issubclass(Concrete, Abstract)
    assert pickle.loads(pickle.dumps(Settings(5))) == Settings(5)
    assert typing.get_type_hints(Concrete.__init__)["other"] == fs.Handle[Settings] | None
    assert Concrete[int](3).value == 3 and Concrete.read.__doc__ == "Gives what it gets."
    assert [method.name for method in spec_of(fs.bind(Concrete, 1)).methods] == ["read"]


def test_a_class_that_is_still_abstract_can_be_bound_but_says_so_when_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        fs.bind(Abstract).make()  # type: ignore[type-abstract]


def test_a_bound_class_can_be_sent_on() -> None:
    bound: fs.Bound[Any] = pickle.loads(pickle.dumps(fs.bind(Settings, 3).options(replicas=4)))
    assert bound.make() == Settings(3) and bound.settings == fs.DeploymentOptions(replicas=4)


def test_what_only_looks_like_a_method_is_not_served() -> None:
    class Attribute:
        """A descriptor of a library's own, as pydantic has on every model."""

        def __get__(self, instance: object, owner: type | None = None) -> int:
            return 3

    @fs.deployment
    class Odd:
        attribute = Attribute()

        @functools.cached_property
        def model(self) -> int:
            return 3

        def _scale(self, factor: int, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

        twice = functools.partialmethod(_scale, 2)

    assert [method.name for method in spec_of(fs.bind(Odd)).methods] == ["twice"]
