"""What becomes of the columns that came, by the declared input: decided once for each schema, and remembered.

Only what a schema says is in a plan. What depends on the values (whether they fit, whether there are any, whether a
null is where none may be) is looked at in each batch.
"""

from __future__ import annotations

import functools
import re
import threading
from typing import Final, NamedTuple

import pyarrow as pa

from flightserve.core.cache import LRUCache
from flightserve.errors import SchemaMismatch
from flightserve.fabric.conversion.castable import castable
from flightserve.fabric.conversion.required import forbids_nulls
from flightserve.fabric.memory.schemas import decode_schema, differences, mistyped, same_type
from flightserve.types import MethodSpec

_PLANS_MAX: Final = 1024
_PLANS_BYTES_MAX: Final = 16 << 20
# A schema that is larger, as strangers can make one, is planned anew each time.
_REMEMBERED_BYTES_MAX: Final = 1 << 20

# What pandas calls the index of a frame that was filtered or sorted; it comes along unasked.
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")
_PANDAS_METADATA: Final = b"pandas"


class Cast(NamedTuple):
    """A column that becomes another type, by its place in the result. Where there is a `refusal`, no value can: only a
    column without any is taken."""

    place: int
    kind: pa.DataType
    refusal: str


class CastPlan(NamedTuple):
    """How rows of `schema` become rows of `result`, both but for what is told of the whole (`result_schema`). `places`:
    where each column comes from, None where all stay. `required`: the columns of the result that may hold no nulls,
    themselves or within."""

    schema: pa.Schema
    result: pa.Schema
    places: tuple[int, ...] | None
    casts: tuple[Cast, ...]
    required: tuple[tuple[int, pa.Field], ...]

    @property
    def passes(self) -> bool:
        """Whether the rows go on as they are."""
        return self.places is None and not self.casts

    def result_schema(self, schema: pa.Schema) -> pa.Schema:
        """What rows of that schema, metadata and all, become."""
        metadata = schema.metadata
        if not metadata:
            return self.result
        if self.casts or len(self.result) < len(self.schema):
            # It tells of types and of an index that are gone.
            metadata.pop(_PANDAS_METADATA, None)
        return self.result.with_metadata(metadata)


class _Declared(NamedTuple):
    """A method's input. `plan` is for rows of this very schema; None where nothing is to be looked at."""

    schema: pa.Schema
    plan: CastPlan | None


_plans: LRUCache[tuple[bytes, bool, pa.Schema], CastPlan] = LRUCache(_PLANS_MAX, _PLANS_BYTES_MAX)
_last: dict[tuple[bytes, bool], CastPlan] = {}
_lock: Final = threading.Lock()


def plan_of(spec: MethodSpec, schema: pa.Schema, where: str) -> CastPlan | None:
    """None where rows of that schema go on unseen. Raises SchemaMismatch that names `where` with every column that
    cannot be taken."""
    if spec.input_schema is None:
        if not len(schema) and spec.row_aligned:
            raise SchemaMismatch(f"{where} needs at least one column; the batch has none")
        return None
    declared = _declared(spec.input_schema)
    if schema.equals(declared.schema):
        return declared.plan
    # pandas tells of how many rows a frame had, and others may tell anything.
    schema = schema.remove_metadata()
    # To look by a schema takes longer than to compare it with that of the request before.
    before = spec.input_schema, spec.strict
    plan = _last.get(before)
    if plan is None or not plan.schema.equals(schema, check_metadata=True):
        plan = _remembered((*before, schema)) or _remember(before, _planned(declared.schema, schema, spec, where))
    return None if plan.passes and not plan.required else plan


def _remembered(key: tuple[bytes, bool, pa.Schema]) -> CastPlan | None:
    with _lock:
        plan = _plans.get(key)
        if plan is None or not plan.schema.equals(key[2], check_metadata=True):
            return None
        _last[key[:2]] = plan
        return plan


def _remember(before: tuple[bytes, bool], plan: CastPlan) -> CastPlan:
    size = plan.schema.serialize().size
    if size <= _REMEMBERED_BYTES_MAX:
        with _lock:
            if len(_last) >= _PLANS_MAX:
                _last.clear()
            _last[before] = plan
            _plans.put((*before, plan.schema), plan, size)
    return plan


@functools.lru_cache(maxsize=1024)
def _declared(serialized: bytes) -> _Declared:
    schema = decode_schema(serialized)
    required = _required(schema)
    return _Declared(schema, CastPlan(schema, schema, None, (), required) if required else None)


def _required(schema: pa.Schema) -> tuple[tuple[int, pa.Field], ...]:
    return tuple((place, field) for place, field in enumerate(schema) if forbids_nulls(field))


def _planned(expected: pa.Schema, schema: pa.Schema, spec: MethodSpec, where: str) -> CastPlan:
    kept = schema if spec.strict else _without_index(schema, expected)
    fits = same_type if spec.strict else castable
    # Of columns that are all there, one that has no value may still be taken.
    if differences(expected, kept, same_type if spec.strict else lambda *_: True):
        raise SchemaMismatch(f"{where} does not take these columns: {'; '.join(differences(expected, kept, fits))}")
    places = tuple(schema.get_field_index(field.name) for field in expected)
    casts, fields = [], []
    for place, field in enumerate(expected):
        got = schema.field(places[place])
        same = same_type(field.type, got)
        fields.append(got if same else field)
        if not same:
            casts.append(Cast(place, field.type, mistyped(field, got, castable)))
    moved = places != tuple(range(len(schema)))
    return CastPlan(schema, pa.schema(fields), places if moved else None, tuple(casts), _required(expected))


def _without_index(schema: pa.Schema, expected: pa.Schema) -> pa.Schema:
    """Without the index of a pandas frame, where the method does not ask for it."""
    asked = set(expected.names)
    kept = [field for field in schema if field.name in asked or not _PANDAS_INDEX.fullmatch(field.name)]
    return schema if len(kept) == len(schema) else pa.schema(kept)
