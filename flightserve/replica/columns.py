"""How the columns of a result get their types: from each request's own rows, never from those of others.

Requests that share a micro-batch are answered by one batch if each of them, run alone, would have got the same columns
and types; otherwise each group of requests with the same types gets a batch of its own (`Apart`). Nothing is remembered
from one micro-batch to the next. Where a request's values make no column, only its own caller gets the error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from flightserve.errors import MethodFailed
from flightserve.fabric.conversion.exact import Misfit, as_type, kind_name
from flightserve.fabric.conversion.shapes import cut, types_of
from flightserve.fabric.conversion.values import NATURAL, column_of, declared_column, type_of
from flightserve.fabric.memory.schemas import EXTENSION_NAME
from flightserve.replica.apart import Apart
from flightserve.replica.faults import bare

EXTENSION_METADATA: Final = b"ARROW:extension:metadata"


class Column:
    """One column of a result before it has its type: an Arrow array, or Python values. `given` is the field of the
    request's column of that name: its type is kept if it holds the values. `declared` is the type that the column must
    have. `utc`: its times have no zone, and are in UTC."""

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

    def kinds(self, counts: Sequence[int]) -> pa.DataType | list[pa.DataType | Misfit]:
        """The type that the values of every request with so many rows have by themselves, or each request's."""
        if self.declared is not None:
            return self.declared
        if 0 not in counts and (kind := self._everybodys()) is not None:
            return kind
        if self.given is None and not self.typed:
            return types_of(self.values, counts)
        found: list[pa.DataType | Misfit] = []
        for values in cut(self.values, counts):
            try:
                found.append(self.kind(values))
            except Misfit as error:
                found.append(error.bare())
        return found

    def _everybodys(self) -> pa.DataType | None:
        """The one type of all values that is also that of each by itself; None where that takes a closer look. Whether
        whole numbers fit it is left to be seen."""
        values, given = self.values, None if self.given is None else self.given.type
        if isinstance(values, pa.Array):
            if given is None:
                return values.type
            return given if self._is_kept(values, given) else None
        classes = set(map(type, values))
        nulls = len(classes) > 1 and type(None) in classes
        if nulls:
            classes.discard(type(None))
        natural = NATURAL.get(next(iter(classes))) if len(classes) == 1 else None
        if given is None:
            return None if nulls else natural
        if natural is not None and natural.equals(given):
            return given
        if self._is_kept(values, given):
            return given
        return natural if natural is not None and not nulls and kind_name(natural) != kind_name(given) else None

    def _is_kept(self, values: Any, given: pa.DataType) -> bool:
        try:
            return bool(self.kind(values).equals(given))
        except Misfit:
            return False

    def make(self, values: Any, kind: pa.DataType) -> pa.Array:
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


def assemble(columns: Sequence[Column], counts: Sequence[int], where: str) -> pa.RecordBatch | list[Apart]:
    """The columns, all of one length, as one batch; or as several, where requests with so many rows each have other
    types than each other. Raises MethodFailed where there is one request."""
    if len(counts) <= 1:
        return _assemble_one(columns, where)
    kinds = [column.kinds(counts) for column in columns]
    if not any(isinstance(kind, list) for kind in kinds):
        try:
            return _batch(columns, [column.values for column in columns], kinds, where)
        except MethodFailed:
            # One request's values, which must not fail the others.
            return _assemble_each(columns, list(itertools.accumulate(counts, initial=0)), range(len(counts)), where)
    return _assemble_groups(columns, kinds, counts, where)


def _assemble_groups(columns: Sequence[Column], kinds: Sequence[Any], counts: Sequence[int], where: str) -> list[Apart]:
    """Requests whose columns have the same types together."""
    ends = list(itertools.accumulate(counts, initial=0))
    several = [index for index, kind in enumerate(kinds) if isinstance(kind, list)]
    # By which objects their types are, and only then by the types: to hash one takes longer than all else.
    found: dict[tuple[int, ...], list[int]] = {}
    for place, types in enumerate(zip(*[kinds[index] for index in several], strict=True)):
        found.setdefault(tuple(map(id, types)), []).append(place)
    apart: list[Apart] = []
    groups: dict[tuple[pa.DataType, ...], list[int]] = {}
    for places in found.values():
        types = tuple([kind[places[0]] if isinstance(kind, list) else kind for kind in kinds])
        wrong = next((index for index, kind in enumerate(types) if isinstance(kind, Misfit)), None)
        if wrong is None:
            groups.setdefault(types, []).extend(places)
        else:
            apart += [Apart([place], columns[wrong].misfit(where, types[wrong])) for place in places]
    for types, places in groups.items():
        places.sort()
        values = [_pick(column.values, ends, places) for column in columns]
        try:
            apart.append(Apart(places, _batch(columns, values, types, where)))
        except MethodFailed:
            apart += _assemble_each(columns, ends, places, where)
    return apart


def _assemble_one(columns: Sequence[Column], where: str) -> pa.RecordBatch:
    kinds = []
    for column in columns:
        try:
            kinds.append(column.kind(column.values))
        except Misfit as error:
            raise column.misfit(where, error) from None
    return _batch(columns, [column.values for column in columns], kinds, where)


def _assemble_each(columns: Sequence[Column], ends: Sequence[int], places: Iterable[int], where: str) -> list[Apart]:
    """Each request by itself."""
    apart = []
    for place in places:
        alone = [
            Column(column.name, _pick(column.values, ends, [place]), column.given, column.declared, column.utc)
            for column in columns
        ]
        try:
            apart.append(Apart([place], _assemble_one(alone, where)))
        except MethodFailed as error:
            apart.append(Apart([place], bare(error)))
    return apart


def _batch(columns: Sequence[Column], values: Sequence[Any], kinds: Sequence[Any], where: str) -> pa.RecordBatch:
    arrays = []
    for column, rows, kind in zip(columns, values, kinds, strict=True):
        try:
            arrays.append(column.make(rows, kind))
        except Misfit as error:
            raise column.misfit(where, error) from None
    if all(column.given is None or not column.given.metadata for column in columns):
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])
    fields = [column.field(kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _pick(values: Any, ends: Sequence[int], places: Sequence[int]) -> Any:
    """The values of the requests at these places."""
    if isinstance(values, pa.Array):
        pieces = [values.slice(ends[place], ends[place + 1] - ends[place]) for place in places]
        return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)
    return list(itertools.chain.from_iterable([values[ends[place] : ends[place + 1]] for place in places]))


def fields_of(schema: pa.Schema) -> Mapping[str, pa.Field]:
    """A request's columns by name; those that share one name are left out."""
    fields: dict[str, pa.Field] = {}
    repeated = set()
    for field in schema:
        if field.name in fields:
            repeated.add(field.name)
        fields[field.name] = field
    return {name: field for name, field in fields.items() if name not in repeated}
