"""Every way that users declare, bind, serve and call, as they write it: nothing of it is an error to a type checker."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar, assert_type

import pyarrow as pa

import flightserve as fs

T = TypeVar("T")


@fs.deployment
class Bare:
    def echo(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment(
    name="model",
    replicas=2,
    router="deadline",
    linger_ms=1,
    concurrency=None,
    num_cpus=0.5,
    resources={"tpu": 1},
    reentrant=False,
)
class Model:
    """A class with a method of each kind."""

    def __init__(self, tax: float, *, rounded: bool = False) -> None:
        self.tax = tax
        self.rounded = rounded

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    async def look_up(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(row_aligned=False)
    def walk(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from table.to_batches()

    @fs.method(input=pa.schema([("a", pa.int64())]), strict=True, idempotent=False)
    @fs.single_input
    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    @fs.healthy
    def well(self) -> bool:
        return True

    @fs.healthy(every_s=1.0, failures=2)
    async def reachable(self) -> None: ...

    @fs.on_stop
    def close(self) -> None: ...

    @fs.warmup
    def warm(self) -> None:
        fs.metrics.counter("seen", "Seen", labels=["kind"]).inc(2, kind="a")


class Cheaper(Model):
    """The decorated class is a class: it has subclasses, objects, and is an annotation."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return super().score(batch)


class Abstract(ABC):
    @abstractmethod
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...


@fs.deployment
class Concrete(Abstract):
    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment(replicas=1)
@dataclasses.dataclass
class Settings:
    path: str
    size: int = 3

    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Of(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value

    def give(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Front:
    """As it is: each attribute is another deployment's method."""

    def __init__(self, model: fs.Handle[Model], others: list[fs.Handle[Any]] | None = None) -> None:
        self.model = model
        self.others = others or []

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        call = self.model.score.later({"a": [1]})
        first: pa.RecordBatch = self.model.score(batch)
        for part in self.model.walk.later(pa.table({"a": [1]})).batches():
            first = part
        return call.result() if self.others else first

    async def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        async for part in self.model.walk.aio(batch):
            return part
        return await self.model.score.aio(batch)


@fs.deployment
class Typed:
    """As the other's class is: names and arguments are checked."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        call = fs.later(self.model.score, batch)
        assert_type(fs.later(self.model.explain, {}), fs.Later[dict[str, Any]])
        self.model.score(batch)
        return call.result()

    async def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        async for part in fs.aio(self.model.walk, table=pa.table({})):
            return part
        await self.model.look_up(batch)
        await fs.aio(self.model.look_up, batch)
        assert_type(await fs.aio(self.model.explain, {"a": 1}), dict[str, Any])
        return await fs.aio(self.model.score, batch)


async def stream() -> AsyncIterator[int]:
    yield 1


assert_type(fs.aio(stream), AsyncIterator[int])

model = fs.bind(Model, 0.08, rounded=True)
assert_type(model, fs.Bound[Model])
front = fs.bind(Front, model=model, others=[fs.bind(Bare), model])
app = fs.App(
    front,
    fs.bind(Typed, model).options(name="typed", replicas=3),
    fs.bind(Settings, "a.parquet", size=4),
    fs.bind(Of, 3),
    fs.bind(Concrete),
    cheap=fs.bind(Cheaper, tax=0.01),
)
warehouse = fs.sql.Warehouse({"t": pa.table({})}, load="view", name="w", refresh_s=1, replicas=2)
assert_type(warehouse.query("one", "SELECT $a AS a", types={"a": "BIGINT"}), fs.sql.Warehouse)
both = fs.App(warehouse, other=warehouse.bind())

one: Model = Cheaper(0.1)
assert isinstance(one, Model)
kind: type[Model] = Cheaper
typed = Typed(one)


def combine(scores: pa.RecordBatch, reasons: pa.RecordBatch) -> pa.RecordBatch:
    return scores


bare = fs.bind(Bare)
assert_type(fs.join(model.score, model.explain, combine=combine), fs.Stage)
score = fs.pipeline("score", bare.echo >> model.score >> bare["options"], replicas=2)
choice = fs.switch("kind", {"a": model.score, "b": score}, default=bare.echo)
piped = fs.App(score, fs.pipeline("whole", score >> choice >> model.walk), fs.bind(Front, score), fs.bind(Typed, score))


def gathered(one: fs.Handle[Model], other: Model) -> list[pa.RecordBatch]:
    return fs.gather(one.score.later({}), fs.later(other.score, pa.table({}).to_batches()[0]))


async def gathered_async(one: fs.Handle[Model], other: Model) -> list[pa.RecordBatch]:
    return await fs.gather(one.score.aio({}), fs.aio(other.score, pa.table({}).to_batches()[0]))


def serve() -> None:
    limits = fs.EdgeLimits(body_bytes_max=1)
    with fs.serve(app, http_port=0, grpc_port=None, frontends=2, limits=limits, fabric=fs.FabricLimits()) as running:
        address: str = running.addresses["http"]
        running.scale({"model": 3})
        assert_type(running.deploy(both, in_place=True), str)
        print(address, running.app_id, running.status())


def use() -> float:
    context: fs.Context = fs.context()
    options = fs.DeploymentOptions(replicas=2)
    try:
        raise fs.InvalidArgument("no")
    except (fs.ConfigError, fs.NotFound, fs.DeadlineExceeded, fs.FlightserveError) as error:
        print(error.message, options)
    return context.remaining_ms
