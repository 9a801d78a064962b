"""A pipeline in its replica: rows go from stage to stage, and what is passed on stays where it lies.

Straight parts are `LinearCall`s of the replica's handles, which send places and no rows (`replica.linear`). A join runs
its branches at the same time and puts columns side by side; a switch takes rows by value and puts answers in order.
Those two are the only ones that look at rows.

A branch that fails cancels the others. Columns that a stage does not take are the mistake of the one before it, which
the message names; of the request's own rows they are the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from flightserve.contracts.context import context
from flightserve.declare import Chain, Join, Stage, StageCall, Switch, side_by_side
from flightserve.errors import FlightserveError, InvalidArgument, MethodFailed, SchemaMismatch
from flightserve.fabric.conversion.exact import Misfit, together
from flightserve.fabric.conversion.taking import rows_at
from flightserve.fabric.memory.batches import one_batch
from flightserve.pipelines.keys import case_of, column_problem

_VALUE_CHARACTERS_MAX = 80


class Linear(Protocol):
    """Stages of a replica, one after another (`replica.linear`)."""

    @property
    def label(self) -> str: ...
    @property
    def streaming(self) -> bool: ...
    async def aio(self, rows: Any, source: str) -> Any: ...
    def iterate(self, rows: Any, source: str) -> AsyncGenerator[pa.RecordBatch, None]: ...


class Handed(NamedTuple):
    """Rows on their way, and the stage that answered them: "" for the request's own."""

    rows: Any
    source: str


class Node(Protocol):
    """A part of the graph, ready to run."""

    async def run(self, given: Handed) -> Handed:
        """What it makes of the rows."""
        ...


class LinearNode:
    """A straight part."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    async def run(self, given: Handed) -> Handed:
        """One stage after another."""
        return Handed(await self.linear.aio(*given), self.linear.label)


class ChainNode:
    """Parts one after another."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    async def run(self, given: Handed) -> Handed:
        """Each gets what the one before gives."""
        for node in self.nodes:
            given = await node.run(given)
        return given


class JoinNode:
    """Branches side by side."""

    def __init__(self, branches: Sequence[Node], combine: Combine | None) -> None:
        self._branches = branches
        self._combine = combine

    async def run(self, given: Handed) -> Handed:
        """All at once, and then together."""
        answers = await side_by_side([branch.run(given) for branch in self._branches])
        label = f"join({', '.join(answer.source for answer in answers)})"
        batches = [one_batch(answer.rows, label) for answer in answers]
        if self._combine is not None:
            return Handed(await self._combine.run(batches, label), label)
        return Handed(_columns_together(batches, [answer.source for answer in answers], label), label)


class Combine:
    """The user's function that makes one of a join's batches. It runs on a thread, one call at a time, as methods of a
    deployment do that says nothing else."""

    def __init__(self, function: Callable[..., Any], takes_list: bool, threads: ThreadPoolExecutor) -> None:
        self._function = function
        self._takes_list = takes_list
        self._threads = threads

    async def run(self, batches: list[pa.RecordBatch], label: str) -> Any:
        """What it makes of them. Raises MethodFailed for what it raises, and FlightserveErrors as they are."""
        arguments = [batches] if self._takes_list else batches
        try:
            if inspect.iscoroutinefunction(self._function):
                return await self._function(*arguments)
        except (FlightserveError, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            raise self._told(error, label) from error
        # What a thread shall know of the request goes along.
        work = functools.partial(contextvars.copy_context().run, self._call, arguments, label)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _call(self, arguments: list[Any], label: str) -> Any:
        """On the thread: a future takes no StopIteration, and whoever waits for it would wait for ever."""
        try:
            return self._function(*arguments)
        except FlightserveError:
            raise
        except BaseException as error:
            raise self._told(error, label) from error

    def _told(self, error: BaseException, label: str) -> RuntimeError:
        name = getattr(self._function, "__name__", "combine")
        return RuntimeError(f"{name}, which combines {label}: {type(error).__name__}: {error}")


class SwitchNode:
    """Rows by value."""

    def __init__(self, switch: Switch, cases: Sequence[Node], default: Node | None) -> None:
        self._switch = switch
        self._cases = cases
        self._default = default

    async def run(self, given: Handed) -> Handed:
        """Each case its rows, at the same time; the answers in the rows' order."""
        rows = one_batch(given.rows, self._switch.label)
        parts = self._divide(rows, given.source)
        if len(parts) == 1:
            node, _, own = parts[0]
            answer = await node.run(Handed(own, given.source))
            batch = one_batch(answer.rows, answer.source)
            self._check_count(batch, own, answer.source)
            return Handed(batch, self._switch.label)
        answers = await side_by_side([node.run(Handed(own, given.source)) for node, _, own in parts])
        batches = [one_batch(answer.rows, answer.source) for answer in answers]
        for batch, (_, _, own), answer in zip(batches, parts, answers, strict=True):
            self._check_count(batch, own, answer.source)
        whole = self._one_schema(batches, [answer.source for answer in answers])
        order = pc.sort_indices(pa.concat_arrays([places for _, places, _ in parts]))
        return Handed(rows_at(whole, order), self._switch.label)

    def _divide(self, rows: pa.RecordBatch, source: str) -> list[tuple[Node, pa.Array, pa.RecordBatch]]:
        """For each case that has some: the case, the places of its rows, and these. Raises InvalidArgument for a row
        that has none."""
        column = self._column(rows, source)
        found = case_of(column, self._switch.keys)
        if self._default is None and found.null_count:
            self._refuse(column, found)
        nodes = [*self._cases, *([] if self._default is None else [self._default])]
        if not rows.num_rows:
            # They answer no rows alike.
            return [(nodes[-1], pa.array([], pa.uint64()), rows)]
        found = found.fill_null(len(self._cases))
        parts = []
        for place, node in enumerate(nodes):
            places = pc.indices_nonzero(pc.equal(found, place))
            if len(places):
                parts.append((node, places, _own_rows(rows, places)))
        return parts

    def _column(self, rows: pa.RecordBatch, source: str) -> pa.Array:
        switch = self._switch
        wrong = column_problem(switch.column, switch.keys, rows.schema)
        if wrong and source:
            raise MethodFailed(f"{source} >> {switch.label}: {wrong}")
        if wrong:
            raise SchemaMismatch(f"{switch.label}: {wrong}")
        return rows.column(switch.column)

    def _refuse(self, column: pa.Array, found: pa.Array) -> None:
        row = pc.index(found.is_null(), True).as_py()
        value = repr(column[row].as_py())
        value = "null" if value == "None" else value[:_VALUE_CHARACTERS_MAX]
        keys = ", ".join(map(repr, self._switch.keys))[:512]
        raise InvalidArgument(
            f"{self._switch.label}: row {row} of column {self._switch.column!r} is {value}, which is no case, and "
            f"there is no default; the cases: {keys}"
        )

    def _check_count(self, batch: pa.RecordBatch, own: pa.RecordBatch, source: str) -> None:
        if batch.num_rows != own.num_rows:
            raise MethodFailed(
                f"{self._switch.label}: {source} got {own.num_rows} rows and answered {batch.num_rows}; a case answers "
                "a row for each that it gets, in order"
            )

    def _one_schema(self, batches: Sequence[pa.RecordBatch], sources: Sequence[str]) -> pa.RecordBatch:
        """All answers, one behind the other, in columns that hold each."""
        first = batches[0]
        for batch, source in zip(batches, sources, strict=True):
            if sorted(batch.schema.names) != sorted(first.schema.names):
                ones, others = (", ".join(each.schema.names)[:256] for each in (first, batch))
                raise MethodFailed(
                    f"{self._switch.label}: {sources[0]} answered the columns {ones}, and {source} {others}"
                )
        alike = [batch.select(first.schema.names) for batch in batches]
        if all(batch.schema.equals(first.schema) for batch in alike):
            return pa.concat_batches(alike)
        if context().requests > 1:
            raise MethodFailed(
                f"{self._switch.label} answered the requests of one micro-batch by different types; each is asked for "
                "again by itself"
            )
        try:
            columns = [together([batch.column(place) for batch in alike]) for place in range(first.num_columns)]
        except (pa.ArrowException, Misfit) as error:
            raise MethodFailed(
                f"{self._switch.label}: {' and '.join(dict.fromkeys(sources))} answered differently: {error}"
            ) from None
        return pa.RecordBatch.from_arrays(columns, names=first.schema.names)


class GraphRun:
    """A whole pipeline: `run` takes the request's rows."""

    def __init__(self, graph: Stage, handles: Sequence[Any]) -> None:
        self._threads = ThreadPoolExecutor(1, "combine")
        self._handles = handles
        *before, last = self._nodes(graph)
        self._before = ChainNode(before)
        self._last = last

    def run(self, rows: Any) -> Any:
        """A coroutine of the answer; where the last stage yields batches, an iterator of these."""
        last = self._last
        if isinstance(last, LinearNode) and last.linear.streaming:
            return self._iterate(rows, last.linear)
        return self._answer(rows)

    async def _answer(self, rows: Any) -> Any:
        return (await self._last.run(await self._before.run(Handed(rows, "")))).rows

    async def _iterate(self, rows: Any, last: Linear) -> AsyncIterator[pa.RecordBatch]:
        given = await self._before.run(Handed(rows, ""))
        async with contextlib.aclosing(last.iterate(*given)) as batches:
            async for batch in batches:
                yield batch

    def close(self) -> None:
        """No more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- of what is written

    def _nodes(self, graph: Stage) -> list[Node]:
        """Calls that follow each other become one."""
        nodes: list[Node] = []
        straight: list[StageCall] = []
        for stage in graph.stages if isinstance(graph, Chain) else (graph,):
            if isinstance(stage, StageCall):
                straight.append(stage)
                continue
            nodes += self._linear(straight)
            straight = []
            nodes.append(self._join(stage) if isinstance(stage, Join) else self._switch(stage))
        return nodes + self._linear(straight)

    def _node(self, graph: Stage) -> Node:
        nodes = self._nodes(graph)
        return nodes[0] if len(nodes) == 1 else ChainNode(nodes)

    def _linear(self, calls: Sequence[StageCall]) -> list[Node]:
        if not calls:
            return []
        first, *others = [getattr(self._handles[call.deployment], call.method) for call in calls]
        return [LinearNode(first.chain(others))]

    def _join(self, join: Join) -> Node:
        combine = None if join.combine is None else Combine(join.combine, join.takes_list, self._threads)
        return JoinNode([self._node(branch) for branch in join.branches], combine)

    def _switch(self, switch: Stage) -> Node:
        assert isinstance(switch, Switch)
        default = None if switch.default is None else self._node(switch.default)
        return SwitchNode(switch, [self._node(case) for case in switch.cases], default)


def _own_rows(rows: pa.RecordBatch, places: pa.Array) -> pa.RecordBatch:
    """All of them, or neighbours, are not copied."""
    first, last = places[0].as_py(), places[-1].as_py()
    if last - first + 1 != len(places):
        return rows_at(rows, places)
    return rows if len(places) == rows.num_rows else rows.slice(first, len(places))


def _columns_together(batches: Sequence[pa.RecordBatch], sources: Sequence[str], label: str) -> pa.RecordBatch:
    """The columns of all. Raises MethodFailed where they are no table."""
    owners: dict[str, str] = {}
    for batch, source in zip(batches, sources, strict=True):
        if batch.num_rows != batches[0].num_rows:
            raise MethodFailed(
                f"{label}: {sources[0]} answered {batches[0].num_rows} rows and {source} {batch.num_rows}; side by "
                "side they are as many, or combine=... says what to make of them"
            )
        for name in batch.schema.names:
            if name in owners:
                raise MethodFailed(f"{label}: {owners[name]} and {source} both answered a column {name!r}")
            owners[name] = source
    fields = [field for batch in batches for field in batch.schema]
    columns = [column for batch in batches for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
