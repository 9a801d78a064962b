"""Which files are of one table: decided from their columns.

Files of one table differ as its files do over time: their columns stand in another order, one was added, one has no
values yet, whole numbers became wider. So two files are of one table where

- one has all columns of the other, and these are at least half of its own (a column or some were added); or of all
  columns that either has, nine of ten are in both (in a wide table one was renamed);
- and each column that both have is of types that one column can hold without changing a value or what it means:
  whole numbers of any width, with decimals, with floats that can hold them; times of any unit; text however it is
  encoded; lists, maps and structs of such. Text and numbers are not that, nor days and times, nor times with and
  without a zone.

That two files share a key, as customers and their orders do, makes no table of them. A file that could be of two
tables, and is not closer to one, is of neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import pyarrow as pa

# Of all columns that two files have, so many are in both: where one has all of the other's; where neither has.
SHARE_ADDED: Final = 0.5
SHARE_ALIKE: Final = 0.9
_DECIMAL_DIGITS_MAX: Final = 38
# The digits of a whole number of so many bits, with sign and without.
_DIGITS: Final = {(8, True): 3, (16, True): 5, (32, True): 10, (64, True): 19, (8, False): 3, (16, False): 5}
_DIGITS_UNSIGNED: Final = {32: 10, 64: 20}
# Whole numbers of so many bits are exact in floats of so many.
_EXACT_BITS: Final = {16: 8, 32: 16, 64: 32}
_UNITS: Final = ("s", "ms", "us", "ns")

T = TypeVar("T")
# Whether the 64-bit whole numbers in this column of what was joined are such as a double holds.
Small = Callable[[T, str], bool]


@dataclass(slots=True)
class TableGroup(Generic[T]):
    """What is of one table, in the order it came, and the columns of all of it."""

    columns: pa.Schema
    members: list[T] = field(default_factory=list)


def group_by_table(
    found: Iterable[tuple[T, pa.Schema]], small: Small[T], groups_max: int
) -> list[TableGroup[T]] | None:
    """The tables that these are, in the order of their first members; None where there are more than `groups_max`."""
    order: dict[T, int] = {}
    shapes: dict[tuple[object, ...], TableGroup[T]] = {}
    # Many files share one object; each is looked at once.
    seen: dict[int, TableGroup[T]] = {}
    for member, columns in found:
        order[member] = len(order)
        shape = seen.get(id(columns))
        if shape is None:
            key = tuple(sorted((folded(each.name), str(each.type)) for each in columns))
            shape = seen[id(columns)] = shapes.setdefault(key, TableGroup(columns))
        shape.members.append(member)
    groups: list[TableGroup[T]] = []
    # The widest first: what has fewer columns joins it.
    for shape in sorted(shapes.values(), key=lambda shape: -len(shape.columns)):
        home = _home(shape, groups, small)
        if home is None:
            groups.append(shape)
            if len(groups) > groups_max:
                return None
            continue
        group, columns = home
        # A table's columns stand as in its first member.
        first, second = sorted((group, shape), key=lambda each: order[each.members[0]])
        group.columns = _ordered(columns, first.columns, second.columns)
        group.members = sorted([*group.members, *shape.members], key=order.__getitem__)
    return sorted(groups, key=lambda group: order[group.members[0]])


def _home(
    shape: TableGroup[T], groups: Sequence[TableGroup[T]], small: Small[T]
) -> tuple[TableGroup[T], pa.Schema] | None:
    """The group that the shape is of, and the columns of both; None where there is none, or no closest one."""
    shares = [(share(group.columns, shape.columns), group) for group in groups]
    close = sorted(((value, group) for value, group in shares if value), key=lambda each: -each[0])
    homes: list[tuple[float, TableGroup[T], pa.Schema]] = []
    for value, group in close:
        if homes and value < homes[0][0]:
            break
        columns = _joined(group, shape, small)
        if columns is not None:
            homes.append((value, group, columns))
    return homes[0][1:] if len(homes) == 1 else None


def share(one: pa.Schema, other: pa.Schema) -> float:
    """How much of all their columns is in both, by name; 0 where that is too little for one table, or two columns of
    one have one name."""
    names, others = {folded(name) for name in one.names}, {folded(name) for name in other.names}
    if len(names) < len(one.names) or len(others) < len(other.names):
        return 0.0
    value = len(names & others) / max(1, len(names | others))
    least = SHARE_ADDED if names <= others or others <= names else SHARE_ALIKE
    return value if value >= least else 0.0


def folded(name: str) -> str:
    """The name as the engine compares names, by their ASCII."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def _joined(group: TableGroup[T], shape: TableGroup[T], small: Small[T]) -> pa.Schema | None:
    """The columns of both; None where one has types that no column holds both of."""
    fields = {folded(each.name): each for each in group.columns}
    for each in shape.columns:
        name = folded(each.name)
        before = fields.get(name)
        if before is None:
            fields[name] = each
            continue
        kind = common_type(before.type, each.type)
        if kind is None and _whole_and_double(before.type, each.type):
            whole = all(small(member, each.name) for side in (group, shape) for member in side.members)
            kind = pa.float64() if whole else None
        if kind is None:
            return None
        fields[name] = pa.field(before.name, kind)
    return pa.schema(list(fields.values()))


def _ordered(columns: pa.Schema, first: pa.Schema, second: pa.Schema) -> pa.Schema:
    types = {folded(each.name): each.type for each in columns}
    spelled: dict[str, str] = {}
    for name in [*first.names, *second.names]:
        spelled.setdefault(folded(name), name)
    return pa.schema([(name, types[key]) for key, name in spelled.items()])


def unify_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of files that are of one table, whatever they are. Raises ArrowInvalid for types that no column holds
    both of."""
    fields: dict[str, pa.Field] = {}
    for each in itertools.chain.from_iterable(dict.fromkeys(schemas)):
        before = fields.setdefault(folded(each.name), each)
        kind = common_type(before.type, each.type)
        if kind is None:
            raise pa.ArrowInvalid(f"column {each.name!r} is {before.type} in one file and {each.type} in another")
        fields[folded(each.name)] = pa.field(before.name, kind)
    return pa.schema(list(fields.values()))


def _whole_and_double(one: pa.DataType, other: pa.DataType) -> bool:
    return any(pa.types.is_integer(a) and pa.types.is_float64(b) for a, b in ((one, other), (other, one)))


# ---- types


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type of a column that has values of both, each as it is; None where there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    one, other = _plain(one), _plain(other)
    if one.equals(other):
        return one
    for decide in (_numbers, _times, _nested):
        kind = decide(one, other)
        if kind is not None:
            return kind
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return kind


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return _whole(one, other)
    if pa.types.is_floating(one) and pa.types.is_floating(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    for a, b in ((one, other), (other, one)):
        if pa.types.is_integer(a) and pa.types.is_floating(b) and a.bit_width <= _EXACT_BITS[b.bit_width]:
            return b
    digits = _digits(one), _digits(other)
    if digits[0] is None or digits[1] is None:
        return None
    scale = max(digits[0][1], digits[1][1])
    precision = max(digits[0][0], digits[1][0]) + scale
    return pa.decimal128(precision, scale) if precision <= _DECIMAL_DIGITS_MAX else None


def _whole(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    signed = [kind for kind in (one, other) if pa.types.is_signed_integer(kind)]
    if len(signed) != 1:
        return max(one, other, key=lambda kind: kind.bit_width)
    (unsigned,) = (kind for kind in (one, other) if not pa.types.is_signed_integer(kind))
    bits = max(signed[0].bit_width, 2 * unsigned.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64(), 128: pa.decimal128(_DECIMAL_DIGITS_MAX, 0)}[bits]


def _digits(kind: pa.DataType) -> tuple[int, int] | None:
    """Digits before and after the point."""
    if pa.types.is_decimal128(kind):
        return kind.precision - kind.scale, kind.scale
    if pa.types.is_integer(kind):
        signed = pa.types.is_signed_integer(kind)
        return _DIGITS.get((kind.bit_width, signed)) or _DIGITS_UNSIGNED[kind.bit_width], 0
    return None


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and (one.tz is None) == (other.tz is None):
        return pa.timestamp(_finer(one, other), one.tz if one.tz == other.tz else "UTC")
    if pa.types.is_duration(one) and pa.types.is_duration(other):
        return pa.duration(_finer(one, other))
    if pa.types.is_time(one) and pa.types.is_time(other):
        unit = _finer(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    if pa.types.is_date(one) and pa.types.is_date(other):
        return pa.date64()
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(other.unit))]


def _is_list(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
        )
    )


def _nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if _is_list(one) and _is_list(other):
        item = common_type(one.value_type, other.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_map(one) and pa.types.is_map(other):
        key, item = common_type(one.key_type, other.key_type), common_type(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _structs(one, other)
    return None


def _structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not share(pa.schema(list(one)), pa.schema(list(other))):
        return None
    fields = {each.name: each.type for each in one}
    for each in other:
        kind = common_type(fields.get(each.name, pa.null()), each.type)
        if kind is None:
            return None
        fields[each.name] = kind
    return pa.struct(list(fields.items()))
