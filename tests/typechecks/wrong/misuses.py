"""What users get wrong, and what a type checker says of it: `# mypy: CODE, pyright: RULE` at the end of the line."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import flightserve as fs


@fs.deployment
class Model:
    def __init__(self, tax: float, *, rounded: bool = False) -> None:
        self.tax = tax

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.single_input
    def explain(self, row: dict[str, Any]) -> dict[str, Any]:
        return row


@fs.deployment(replica=2)  # mypy: call-arg, pyright: reportCallIssue
class OptionThatIsNone: ...


@fs.deployment(replicas="two")  # mypy: arg-type, pyright: reportArgumentType
class OptionOfAnotherType: ...


@fs.deployment(router="lifo")  # mypy: arg-type, pyright: reportArgumentType
class OptionOfAnotherValue: ...


@fs.deployment  # mypy: type-var, pyright: reportArgumentType
def no_class(row: dict[str, Any]) -> str:
    return str(row)


class Methods:
    @fs.method(row_alined=False)  # mypy: call-arg, pyright: reportCallIssue
    def misspelt(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.method(input={"price": "float"})
    def no_schema(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    @fs.healthy(every=3)  # mypy: call-arg, pyright: reportCallIssue
    def well(self) -> bool:
        return True


@fs.deployment
class Front:
    def __init__(self, model: fs.Handle[Model], like: Model) -> None:
        self.model = model
        self.like = like

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.model(batch)  # mypy: operator, pyright: reportCallIssue
        self.model.score(batch, 3)  # mypy: call-arg, pyright: reportCallIssue
        self.model.score.now(batch)  # mypy: attr-defined, pyright: reportAttributeAccessIssue
        self.model.score.later(batch).rows()  # mypy: attr-defined, pyright: reportAttributeAccessIssue
        self.like.scroe(batch)  # mypy: attr-defined, pyright: reportAttributeAccessIssue
        self.like.explain(3)  # mypy: arg-type, pyright: reportArgumentType
        fs.later(self.like.explain, "row")  # mypy: arg-type, pyright: reportArgumentType
        fs.later(self.like.explain)  # mypy: call-arg, pyright: reportCallIssue
        return batch

    async def score(self, batch: pa.RecordBatch) -> dict[str, Any]:
        fs.aio(self.like.explain, {})  # mypy: unused-coroutine, pyright: reportUnusedCoroutine
        await fs.aio(self.like.explain, rows={})  # mypy: call-overload, pyright: reportCallIssue
        return fs.aio(self.like.explain, {})  # mypy: return-value, pyright: reportReturnType


model = fs.bind(Model, 0.1)
fs.bind(Model)  # mypy: call-arg, pyright: reportCallIssue
fs.bind(Model, "eight percent")  # mypy: arg-type, pyright: reportArgumentType
fs.bind(Model, 0.1, round=True)  # mypy: call-arg, pyright: reportCallIssue
fs.bind(Model, 0.1, True)  # mypy: call-arg, pyright: reportCallIssue
fs.bind(Front, model=model)  # mypy: call-arg, pyright: reportCallIssue
fs.bind("Model")  # mypy: arg-type, pyright: reportArgumentType reportCallIssue
model.options(replica=3)  # mypy: call-arg, pyright: reportCallIssue
model.options(replicas="3")  # mypy: arg-type, pyright: reportArgumentType
Model("eight percent")  # mypy: arg-type, pyright: reportArgumentType

fs.join(model.score, "x")  # mypy: arg-type, pyright: reportArgumentType
fs.switch(5, {"a": model.score})  # mypy: arg-type, pyright: reportArgumentType
fs.pipeline("p", Model.score)  # mypy: arg-type, pyright: reportArgumentType
fs.pipeline("p", model.score, replica=2)  # mypy: call-arg, pyright: reportCallIssue

fs.App(Model)  # mypy: arg-type, pyright: reportArgumentType
fs.App(Model(0.1))  # mypy: arg-type, pyright: reportArgumentType
app = fs.App(price=model)
fs.serve(app, http_prt=0)  # mypy: call-arg, pyright: reportCallIssue
fs.serve(app, flight_port="80")  # mypy: arg-type, pyright: reportArgumentType
fs.serve(model.cls)  # mypy: arg-type, pyright: reportArgumentType
fs.serve([app])  # mypy: arg-type, pyright: reportArgumentType
fs.sql.Warehouse({}, replica=2)  # mypy: call-arg, pyright: reportCallIssue
fs.sql.Warehouse({}, load="disk")  # mypy: arg-type, pyright: reportArgumentType
fs.sql.Warehouse({}).query("one")  # mypy: call-arg, pyright: reportCallIssue
fs.sql.Warehose({})  # mypy: attr-defined, pyright: reportAttributeAccessIssue
fs.deploy(app)  # mypy: attr-defined, pyright: reportAttributeAccessIssue
fs.EdgeLimits(body_bytes=3)  # mypy: call-arg, pyright: reportCallIssue
