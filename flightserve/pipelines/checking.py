"""What goes over the edges of a pipeline, as far as its stages declare it, before anything is served.

Between two stages that both declare what they take and answer, the columns and their types are compared by the rules
that requests are under: what can be cast without a change of any value is taken. Where one of them declares nothing
nothing is known, and the first rows tell (`pipelines.running`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import pyarrow as pa

from flightserve.declare import Chain, Join, Stage, StageCall, Switch, calls_of
from flightserve.errors import ConfigError
from flightserve.fabric.conversion.castable import castable
from flightserve.fabric.conversion.casting import is_taken
from flightserve.fabric.memory.schemas import decode_schema, same_type
from flightserve.pipelines.keys import column_problem
from flightserve.types import MethodSpec

# The method of a stage; None where it is not known yet.
SpecOf: TypeAlias = Callable[[StageCall], MethodSpec | None]

_LISTED_MAX: Final = 8


class GivenRows(NamedTuple):
    """What is known of rows between two stages: their columns, if they are declared, and the stage they are from."""

    schema: pa.Schema | None
    source: str


class Flow(NamedTuple):
    """What is known of what a stage answers. `aligned`: a row for each that it gets; None where that is not known.
    `sums`: as of the method that answers."""

    schema: pa.Schema | None
    source: str
    aligned: bool | None = True
    streaming: bool = False
    sums: bool = False

    @property
    def rows(self) -> GivenRows:
        """As what the next stage gets."""
        return GivenRows(self.schema, self.source)


class Checked(NamedTuple):
    """A pipeline as its stages make it: the methods that are known, those of them that get the request's own rows, the
    one of these that says what it takes, and what comes out. `tells_rows`: an error may name a row of the request."""

    stages: tuple[MethodSpec, ...]
    heads: tuple[MethodSpec, ...]
    input: MethodSpec | None
    output: Flow
    tells_rows: bool


def check_pipeline(name: str, graph: Stage, spec_of: SpecOf) -> Checked:
    """Follow the rows through the graph. Raises ConfigError that names the first edge whose ends do not fit."""
    stages = tuple(spec for call in calls_of(graph) if (spec := spec_of(call)) is not None)
    heads = tuple(spec for call in _heads(graph) if (spec := spec_of(call)) is not None)
    taken = next((spec for spec in heads if spec.input_schema is not None), None)
    given = None if taken is None or taken.input_schema is None else decode_schema(taken.input_schema)
    output = _Checking(spec_of).follow(graph, GivenRows(given, name))
    return Checked(stages, heads, taken, output, _tells_rows(graph))


def _heads(stage: Stage) -> Iterator[StageCall]:
    """The methods that get the request's own rows."""
    if isinstance(stage, StageCall):
        yield stage
    else:
        inner = stage.within()
        for each in inner[:1] if isinstance(stage, Chain) else inner:
            yield from _heads(each)


def _tells_rows(stage: Stage) -> bool:
    own = isinstance(stage, Switch) and stage.default is None
    return own or any(map(_tells_rows, stage.within()))


class _Checking:
    """One walk."""

    def __init__(self, spec_of: SpecOf) -> None:
        self._spec_of = spec_of

    def follow(self, stage: Stage, rows: GivenRows) -> Flow:
        """What the stage answers to such rows."""
        if isinstance(stage, Chain):
            return self._chain(stage, rows)
        if isinstance(stage, Join):
            return self._join(stage, rows)
        if isinstance(stage, Switch):
            return self._switch(stage, rows)
        assert isinstance(stage, StageCall)
        return self._call(stage, rows)

    def _call(self, call: StageCall, rows: GivenRows) -> Flow:
        spec = self._spec_of(call)
        if spec is None:
            return Flow(None, call.label, aligned=None)
        if spec.input_schema is not None and rows.schema is not None and not is_taken(spec, rows.schema):
            raise ConfigError(f"{rows.source} >> {call.label}: {'; '.join(_problems(spec, rows.schema))}")
        output = None if spec.output_schema is None else decode_schema(spec.output_schema)
        return Flow(output, call.label, spec.row_aligned, spec.streaming, spec.sums)

    def _chain(self, chain: Chain, rows: GivenRows) -> Flow:
        flows: list[Flow] = []
        flow = Flow(rows.schema, rows.source)
        for stage in chain.stages:
            if flow.streaming:
                raise ConfigError(
                    f"{flow.source} >> {stage.label}: {flow.source} yields batches, which only the last stage may"
                )
            flow = self.follow(stage, flow.rows)
            flows.append(flow)
        return flow._replace(aligned=_all_aligned(flows))

    def _join(self, join: Join, rows: GivenRows) -> Flow:
        flows = [self._branch(join, branch, rows) for branch in join.branches]
        if join.combine is not None:
            return Flow(None, join.label, aligned=None)
        schema, sums = _side_by_side(join.label, flows), any(flow.sums for flow in flows)
        return Flow(schema, join.label, _all_aligned(flows), sums=sums)

    def _switch(self, switch: Switch, rows: GivenRows) -> Flow:
        self._check_cases(switch)
        if rows.schema is not None and (wrong := column_problem(switch.column, switch.keys, rows.schema)):
            raise ConfigError(f"{rows.source} >> {switch.label}: {wrong}")
        flows = [self._branch(switch, case, rows) for case in switch.within()]
        for case, flow in zip(switch.within(), flows, strict=True):
            if flow.aligned is False:
                raise ConfigError(
                    f"{switch.label}: {case.label} is not row-aligned, and a case answers a row for each that it gets"
                )
        schema, sums = _one_schema(switch.label, flows), any(flow.sums for flow in flows)
        return Flow(schema, switch.label, _all_aligned(flows), sums=sums)

    def _check_cases(self, switch: Switch) -> None:
        """Raises ConfigError where a case declares other columns than that which rows are sent by."""
        for call in (call for case in switch.within() for call in _heads(case)):
            spec = self._spec_of(call)
            taken = None if spec is None or spec.input_schema is None else decode_schema(spec.input_schema)
            if taken is not None and switch.column not in taken.names:
                raise ConfigError(
                    f"{switch.label} >> {call.label}: cases get whole rows, with the column {switch.column!r}, which "
                    f"{call.label} does not take; declare it in its input as well, or declare no input"
                )

    def _branch(self, parent: Stage, stage: Stage, rows: GivenRows) -> Flow:
        flow = self.follow(stage, rows)
        if flow.streaming:
            raise ConfigError(f"{parent.label}: {flow.source} yields batches, which only the last stage may")
        return flow


def _all_aligned(flows: Sequence[Flow]) -> bool | None:
    known = [flow.aligned for flow in flows]
    return False if False in known else None if None in known else True


def _problems(spec: MethodSpec, got: pa.Schema) -> list[str]:
    """Why rows of that schema are not taken, column by column."""
    assert spec.input_schema is not None
    expected, fits = decode_schema(spec.input_schema), same_type if spec.strict else castable
    found = [f"column {name!r} is missing" for name in expected.names if name not in got.names]
    found += [f"column {name!r} is not taken" for name in dict.fromkeys(got.names) if name not in expected.names]
    found += [f"there is more than one column {name!r}" for name in _repeated(got.names)]
    both = [field for field in expected if got.names.count(field.name) == 1]
    wrong = [field for field in both if not fits(field.type, got.field(field.name))]
    found += [f"column {f.name!r} is {got.field(f.name).type}, and {f.type} is taken" for f in wrong]
    return found if len(found) <= _LISTED_MAX else [*found[:_LISTED_MAX], f"and {len(found) - _LISTED_MAX} more"]


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _side_by_side(label: str, flows: Sequence[Flow]) -> pa.Schema | None:
    """The columns of all branches. Raises ConfigError for a name that two have."""
    owners: dict[str, str] = {}
    for flow in flows:
        for name in [] if flow.schema is None else flow.schema.names:
            if name in owners:
                raise ConfigError(
                    f"{label}: {owners[name]} and {flow.source} both answer a column {name!r}; give combine=..."
                )
            owners[name] = flow.source
    schemas = [flow.schema for flow in flows if flow.schema is not None]
    return pa.schema([field for schema in schemas for field in schema]) if len(schemas) == len(flows) else None


def _one_schema(label: str, flows: Sequence[Flow]) -> pa.Schema | None:
    """What all cases answer. Raises ConfigError where two declare it differently."""
    known = [flow for flow in flows if flow.schema is not None]
    for flow in known[1:]:
        first = known[0]
        assert first.schema is not None
        assert flow.schema is not None
        if found := _unlike(first.schema, flow.schema):
            raise ConfigError(f"{label}: {first.source} and {flow.source} answer differently: {found}")
    return known[0].schema if len(known) == len(flows) else None


def _unlike(one: pa.Schema, other: pa.Schema) -> str:
    for name in dict.fromkeys([*one.names, *other.names]):
        if name not in one.names or name not in other.names:
            return f"only one of them has a column {name!r}"
    for field in one:
        if not field.type.equals(other.field(field.name).type):
            return f"column {field.name!r} is {field.type} and {other.field(field.name).type}"
    return ""
