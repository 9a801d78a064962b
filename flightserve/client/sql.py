"""SQL for a warehouse, as requests of its methods: `query` streams any statement, and what comes often with one row of
parameters goes to `execute`, where it runs together with others of its text (`contracts.warehouse`).

Whether it can is asked once (`describe`), when a text comes for the second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from flightserve.client import rows as forms
from flightserve.client.way import Way
from flightserve.clock import monotonic_ns
from flightserve.contracts.warehouse import DESCRIBE, EXECUTE, execution_batch, request_row, unnumbered
from flightserve.errors import InvalidArgument, TooLarge
from flightserve.fabric.memory.batches import stream_of
from flightserve.frontends.sql.gateway import (
    EXECUTED_SQL_CHARS_MAX,
    LARGE_NS,
    Recent,
    Statement,
    check,
    choose,
    without_rows,
)
from flightserve.types import DeploymentSpec, MethodSpec, RequestMeta

_PARAMETERS: Final = MethodSpec("parameters")
# What is known of a text.
SEEN: Final = "seen"
MERGED: Final = "merged"
SINGLE: Final = "one by one"


class _Warehouses(NamedTuple):
    specs: Sequence[DeploymentSpec]

    def deployments(self) -> Sequence[DeploymentSpec]:
        return self.specs


def warehouse_of(deployments: Sequence[DeploymentSpec], name: str | None) -> DeploymentSpec:
    """The warehouse of that name, or the only one. Raises NotFound, InvalidArgument where one has to be named, and
    Unimplemented where there is none."""
    return choose(_Warehouses(deployments), name)


def parameters_of(given: Any) -> pa.RecordBatch | None:
    """Parameters as a row for each execution; None where there are none: values by position (a list, `$1` or `?`), by
    name (a dict, `$name`), a list of such for several executions, or rows of any kind. Raises InvalidArgument."""
    if given is None or (isinstance(given, Sequence | Mapping) and not given):
        return None
    if isinstance(given, Mapping):
        # One execution: a value that is a list is a list.
        rows = [given]
    elif isinstance(given, Sequence) and not isinstance(given, str | bytes):
        rows = _rows(given)
    else:
        taken = forms.take(given, _PARAMETERS, "parameters")
        return forms.one_batch(taken.rows, "parameters")
    made = forms.take(rows, _PARAMETERS, "parameters").rows
    return forms.one_batch(made, "parameters")


def _rows(given: Sequence[Any]) -> list[Mapping[str, Any]]:
    if all(isinstance(row, Mapping) for row in given):
        return list(given)
    many = all(isinstance(row, list | tuple) for row in given)
    rows = given if many else [given]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise InvalidArgument(f"parameters: rows of {min(widths)} to {max(widths)} values; all have as many")
    return [{str(place): value for place, value in enumerate(row, 1)} for row in rows]


class Asking:
    """One statement, ready to be sent."""

    def __init__(self, warehouse: str, query: str, parameters: pa.RecordBatch | None) -> None:
        """Raises InvalidArgument for what no engine has to see."""
        if not isinstance(query, str):
            raise TypeError(f"a query is a text, not a value of type {type(query).__name__}")
        self.warehouse = warehouse
        self.query = query
        self.parameters = parameters
        encoded = b"" if parameters is None else bytes(memoryview(stream_of([parameters])))
        self._statement = Statement(warehouse, query, encoded)
        check(self._statement)

    @property
    def request(self) -> pa.RecordBatch:
        """For `query`."""
        return request_row(self.query, self._statement.parameters)

    @property
    def question(self) -> pa.RecordBatch:
        """For `describe`."""
        return request_row(self.query, without_rows(self._statement.parameters))

    @property
    def execution(self) -> pa.RecordBatch | None:
        """For `execute`; None for what is not for it."""
        one = self.parameters is not None and self.parameters.num_rows == 1
        return (
            execution_batch(self.query, self.parameters) if one and len(self.query) <= EXECUTED_SQL_CHARS_MAX else None
        )


class Step(NamedTuple):
    """A request of the warehouse's method, and how its answer is read."""

    method: str
    read: Callable[[pa.RecordBatch], pa.RecordBatch] = unnumbered


# What is done about a statement that may be merged.
describe: Final = Step(DESCRIBE)
execute: Final = Step(EXECUTE)


class Texts:
    """What is known of statements that came before. Thread-safe."""

    def __init__(self) -> None:
        self._known: Recent[tuple[str, str], str] = Recent(monotonic_ns, LARGE_NS)

    def __repr__(self) -> str:
        return f"<Texts {self._known!r}>"

    def seen(self, asking: Asking) -> str | None:
        """What is known, None for one that is new, which is noted."""
        key = (asking.warehouse, asking.query)
        known = self._known.get(key)
        if known is None:
            self._known.put(key, SEEN)
        return known

    def note(self, asking: Asking, what: str) -> None:
        """What is known of it from now on."""
        self._known.put((asking.warehouse, asking.query), what)

    def single(self, asking: Asking) -> None:
        """Its results are too large to be merged, or it cannot be."""
        self.note(asking, SINGLE)


def plan(asking: Asking, texts: Texts) -> Step | None:
    """What to try before `query`: to run it together with others, or to ask whether it can be."""
    if asking.execution is None:
        return None
    known = texts.seen(asking)
    return describe if known == SEEN else execute if known == MERGED else None


def outcome(asking: Asking, description: pa.RecordBatch, texts: Texts) -> Step | None:
    """What follows from the answer to `describe`."""
    merged = bool(description.column("merged")[0].as_py())
    texts.note(asking, MERGED if merged else SINGLE)
    return execute if merged else None


def run_merged(way: Way, asking: Asking, texts: Texts, meta: RequestMeta) -> pa.RecordBatch | None:
    """The result of a statement whose executions are merged; None where it has to go to `query`."""
    step = plan(asking, texts)
    if step is describe:
        step = outcome(asking, way.call(*way.find(asking.warehouse, step.method), asking.question, meta), texts)
    if step is None or asking.execution is None:
        return None
    try:
        return step.read(way.call(*way.find(asking.warehouse, step.method), asking.execution, meta))
    except TooLarge:
        texts.single(asking)
        return None
