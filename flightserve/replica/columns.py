"""The columns of a result on their way to types: those of each request follow from its own rows alone.

Requests that share a micro-batch are answered by one batch where each of them, by itself, would have had these very
columns and types; otherwise each group of such gets a batch of its own (`Apart`). Nothing of what earlier calls gave is
remembered. Where a request's values make no column, its caller is told, and nobody else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa

from flightserve.errors import FlightserveError, MethodFailed
from flightserve.fabric.batches import own_rows
from flightserve.fabric.exact import Misfit, as_type, kind_name, own, shares_buffers
from flightserve.fabric.schemas import EXTENSION_NAME
from flightserve.fabric.stored import Fresh, Stored
from flightserve.fabric.values import PLAIN, column_of, declared_column, type_of
from flightserve.replica.faults import bare

EXTENSION_METADATA: Final = b"ARROW:extension:metadata"

# One result of a method, checked.
Part: TypeAlias = pa.RecordBatch | Stored | Fresh


class Apart(NamedTuple):
    """The rows of some requests of a micro-batch: those that have other columns than the others' do, or whose number
    is not the requests' own; or the error of those that failed by themselves. `parts` are the requests' places in the
    micro-batch, `counts` the rows of each, where they are not as many as the request brought."""

    parts: Sequence[int]
    batch: Part | FlightserveError
    counts: Sequence[int] = ()


class Column:
    """One column of a result whose type is not settled: Arrow's, or Python values. `given` is the field of the
    request's column of that name, whose type it keeps if that holds its values; `declared` the type that it must have.
    With `utc` its moments have no zone because they are of UTC."""

    __slots__ = ("declared", "given", "name", "utc", "values")

    def __init__(
        self,
        name: str,
        values: pa.Array | Sequence[Any],
        given: pa.Field | None = None,
        declared: pa.DataType | None = None,
        utc: bool = False,
    ) -> None:
        self.name = name
        self.values = values
        self.given = given
        self.declared = declared
        self.utc = utc

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"<Column {self.name!r} of {len(self.values)}>"

    @property
    def typed(self) -> bool:
        """Whether its library has said what type it is."""
        return isinstance(self.values, pa.Array)

    def kind(self, values: Any) -> pa.DataType:
        """The type that these values of it have by themselves. Raises Misfit."""
        if self.declared is not None:
            return self.declared
        given = None if self.given is None else self.given.type
        if not self.typed:
            return type_of(values, given)
        if given is None or values.type.equals(given):
            return values.type
        try:
            as_type(values, given, utc=self.utc)
        except Misfit:
            return values.type
        return given

    def kinds(self, own_values: list[Any]) -> pa.DataType | list[pa.DataType | Misfit]:
        """The type that every request's values have by themselves, or each request's."""
        if self.declared is not None:
            return self.declared
        try:
            kind = self.kind(self.values)
        except Misfit:
            kind = None
        if kind is not None and self._is_everybodys(kind):
            return kind
        found: list[pa.DataType | Misfit] = []
        for values in own_values:
            try:
                found.append(self.kind(values))
            except Misfit as error:
                found.append(error.with_traceback(None))
        return found

    def _is_everybodys(self, kind: pa.DataType) -> bool:
        """Whether a type of all values is that of each of them."""
        given = self.given
        if given is not None and kind.equals(given.type):
            return True
        if self.typed:
            return given is None
        classes = set(map(type, self.values))
        if len(classes) != 1 or (given is not None and kind_name(given.type) == kind_name(kind)):
            return False
        plain = pa.int64() if int in classes else PLAIN.get(classes.pop())
        return plain is not None and bool(kind.equals(plain))

    def made(self, values: Any, kind: pa.DataType) -> pa.Array:
        """The values as a column of that type. Raises Misfit."""
        if self.typed:
            return as_type(values, kind, utc=self.utc)
        return column_of(values, kind) if self.declared is None else declared_column(values, kind)

    def field(self, kind: pa.DataType) -> pa.Field:
        """What it is called in a schema; an extension type that travels in the metadata stays with the column."""
        metadata = None
        if self.given is not None and self.given.metadata and kind.equals(self.given.type):
            names = (EXTENSION_NAME, EXTENSION_METADATA)
            metadata = {name: self.given.metadata[name] for name in names if name in self.given.metadata}
        return pa.field(self.name, kind, metadata=metadata or None)

    def misfit(self, where: str, error: Misfit) -> MethodFailed:
        """The caller's error."""
        if self.declared is not None:
            return MethodFailed(f"{where} returned {self.name!r} that is not {self.declared}: {error}")
        return MethodFailed(f"{where} returned {self.name!r} that does not make a column: {error}")


def assembled(columns: Sequence[Column], counts: Sequence[int], where: str) -> pa.RecordBatch | list[Apart]:
    """The columns, all of one length, as one batch; or as several, where requests with so many rows each have other
    types than each other. Raises MethodFailed where there is one request."""
    if len(counts) <= 1:
        return _one(columns, where)
    own_values = [_cut(column.values, counts) for column in columns]
    kinds = [column.kinds(rows) for column, rows in zip(columns, own_values, strict=True)]
    if not any(isinstance(kind, list) for kind in kinds):
        try:
            return _batch(columns, [column.values for column in columns], kinds, where)
        except MethodFailed:
            # One request's values, which must not fail the others.
            return _each(columns, own_values, range(len(counts)), where)
    groups: dict[tuple[pa.DataType, ...], list[int]] = {}
    apart: list[Apart] = []
    for place in range(len(counts)):
        types = [kind[place] if isinstance(kind, list) else kind for kind in kinds]
        wrong = next((index for index, kind in enumerate(types) if isinstance(kind, Misfit)), None)
        if wrong is None:
            groups.setdefault(tuple(types), []).append(place)
        else:
            apart.append(Apart([place], columns[wrong].misfit(where, types[wrong])))
    for together, places in groups.items():
        try:
            values = [_joined([rows[place] for place in places]) for rows in own_values]
            apart.append(Apart(places, _batch(columns, values, together, where)))
        except MethodFailed:
            apart += _each(columns, own_values, places, where)
    return apart


def _one(columns: Sequence[Column], where: str) -> pa.RecordBatch:
    kinds = []
    for column in columns:
        try:
            kinds.append(column.kind(column.values))
        except Misfit as error:
            raise column.misfit(where, error) from None
    return _batch(columns, [column.values for column in columns], kinds, where)


def _each(columns: Sequence[Column], own_values: list[list[Any]], places: Iterable[int], where: str) -> list[Apart]:
    """Each request by itself."""
    apart = []
    for place in places:
        alone = [
            Column(column.name, values[place], column.given, column.declared, column.utc)
            for column, values in zip(columns, own_values, strict=True)
        ]
        try:
            apart.append(Apart([place], _one(alone, where)))
        except MethodFailed as error:
            apart.append(Apart([place], bare(error)))
    return apart


def _batch(columns: Sequence[Column], values: Sequence[Any], kinds: Sequence[Any], where: str) -> pa.RecordBatch:
    arrays, fields = [], []
    for column, rows, kind in zip(columns, values, kinds, strict=True):
        try:
            arrays.append(column.made(rows, kind))
        except Misfit as error:
            raise column.misfit(where, error) from None
        fields.append(column.field(kind))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _cut(values: Any, counts: Sequence[int]) -> list[Any]:
    """Each request's own."""
    ends = list(itertools.accumulate(counts, initial=0))
    if isinstance(values, pa.Array):
        return [values.slice(start, stop - start) for start, stop in itertools.pairwise(ends)]
    return [values[start:stop] for start, stop in itertools.pairwise(ends)]


def _joined(pieces: list[Any]) -> Any:
    if len(pieces) == 1:
        return pieces[0]
    return pa.concat_arrays(pieces) if isinstance(pieces[0], pa.Array) else list(itertools.chain.from_iterable(pieces))


# ---- requests apart


def at_places(result: Part | list[Apart], places: Sequence[int]) -> list[Apart]:
    """The result of some requests of a micro-batch, by their places there."""
    if not isinstance(result, list):
        return [Apart(places, result)]
    return [Apart([places[part] for part in each.parts], each.batch, each.counts) for each in result]


def kept_apart(result: Part | list[Apart], counts: Sequence[int]) -> Part | list[Apart]:
    """The result with nothing in a request's part that belongs to others: where buffers hold values for several rows,
    as dictionaries do, each request gets its own."""
    if len(counts) <= 1 or isinstance(result, (Stored, Fresh)):
        return result
    if not isinstance(result, list):
        if not any(map(shares_buffers, result.schema.types)):
            return result
        result = [Apart(range(len(counts)), result)]
    return [own for each in result for own in _own_parts(each, counts)]


def _own_parts(each: Apart, counts: Sequence[int]) -> Iterator[Apart]:
    batch = each.batch
    if not isinstance(batch, pa.RecordBatch):
        yield each
    elif each.counts or not any(map(shares_buffers, batch.schema.types)):
        yield each._replace(batch=own_rows(batch))
    else:
        offset = 0
        for part in each.parts:
            rows = own_rows(batch.slice(offset, counts[part]))
            offset += counts[part]
            yield Apart(
                [part], pa.RecordBatch.from_arrays([own(column) for column in rows.columns], schema=batch.schema)
            )


def fields_of(schema: pa.Schema) -> Mapping[str, pa.Field]:
    """A request's columns by name; those that share one name are left out."""
    fields: dict[str, pa.Field] = {}
    repeated = set()
    for field in schema:
        if field.name in fields:
            repeated.add(field.name)
        fields[field.name] = field
    return {name: field for name, field in fields.items() if name not in repeated}
