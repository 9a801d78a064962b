"""The types of many requests' values at once: each request's follow from its own (`values.type_of`), and those of most
from the classes and keys in them, which are looked at faster than the values are.
"""

from __future__ import annotations

import datetime
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from flightserve.fabric.conversion.exact import Misfit
from flightserve.fabric.conversion.values import NATURAL, type_of


def cut(values: Any, counts: Sequence[int]) -> list[Any]:
    """So many of the values each, in order."""
    ends = itertools.accumulate(counts, initial=0)
    if isinstance(values, pa.Array):
        return [values.slice(start, stop - start) for start, stop in itertools.pairwise(ends)]
    return [values[start:stop] for start, stop in itertools.pairwise(ends)]


def types_of(values: Sequence[Any], counts: Sequence[int]) -> pa.DataType | list[pa.DataType | Misfit]:
    """The type that so many of the values have each (`type_of`), or a list of them. Whether whole numbers are within 64
    bits is left to be seen where classes alone tell the type."""
    singly = len(values) == len(counts) and 0 not in counts
    if singly:
        found: list[Any] = [NATURAL.get(kind) for kind in map(type, values)]
        if None not in found:
            return found
    shapes = list(map(_shape, values))
    if None not in shapes:
        if len(set(shapes)) == 1 and 0 not in counts:
            return _type_of_shapes((shapes[0],))
        own = zip(shapes) if singly else [tuple(dict.fromkeys(each)) for each in cut(shapes, counts)]
        return [_type_or_misfit(_type_of_shapes, each) for each in own]
    return [_type_or_misfit(type_of, each) for each in cut(values, counts)]


def _type_or_misfit(type_of_them: Callable[[Any], pa.DataType], values: Any) -> pa.DataType | Misfit:
    try:
        return type_of_them(values)
    except Misfit as error:
        return error.bare()


def _shape(value: Any) -> Any:
    """What its type follows from, where that is no more than classes and keys; else None."""
    kind = type(value)
    if kind in NATURAL:
        return kind
    if kind is dict:
        inner = tuple(map(_shape, value.values()))
        return None if None in inner else (dict, tuple(value), inner)
    if kind is list:
        classes = set(map(type, value))
        if len(classes) == 1 and (only := classes.pop()) in NATURAL:
            return (list, (only,))
        inner = tuple(dict.fromkeys(map(_shape, value)))
        return None if None in inner else (list, inner)
    return None


@functools.lru_cache(maxsize=1024)
def _type_of_shapes(shapes: tuple[Any, ...]) -> pa.DataType:
    return type_of(list(map(_example, shapes)))


def _example(shape: Any) -> Any:
    """A value of the shape."""
    if isinstance(shape, type):
        return None if shape is type(None) else datetime.date.min if shape is datetime.date else shape()
    if shape[0] is dict:
        return dict(zip(shape[1], map(_example, shape[2]), strict=True))
    return list(map(_example, shape[1]))
