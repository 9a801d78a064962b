"""What the features of an estimator are: their names, types and a value of each, as far as the estimator tells.

A fitted estimator knows the names of its features (`feature_names_in_`) or how many they are, and no types. Numbers are
float64 to it. What else a feature may be is told by the first step that looks at it: an encoder knows the categories
that it was fitted with, what counts words takes texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from flightserve.errors import ConfigError

# Steps in steps that are looked into.
DEPTH_MAX = 16


class Feature(NamedTuple):
    """One column that an estimator takes, and a value that it knows."""

    name: str
    type: pa.DataType
    example: Any = 0.0


def features_of(model: Any, given: Mapping[str, pa.DataType] | None) -> list[Feature]:
    """Those of the estimator, in its order; `given` types go before those that were found. Raises ConfigError where
    nobody knows them."""
    names = getattr(model, "feature_names_in_", None)
    if names is None and hasattr(model, "n_features_in_"):
        names = [f"x{number}" for number in range(model.n_features_in_)]
    if names is None:
        if not given:
            raise ConfigError(
                f"{type(model).__name__} does not tell its features; give them, as in features={{'text': 'string'}}"
            )
        return [Feature(name, kind, _example(kind)) for name, kind in given.items()]
    found = dict(_found(model, [str(name) for name in names]))
    if unknown := [name for name in given or {} if name not in found]:
        raise ConfigError(f"features names {unknown[0]!r}; the model's are {', '.join([*found][:20])}")
    return [_given(each, given[each.name]) if given and each.name in given else each for each in found.values()]


def picks_by_name(model: Any, depth: int = 0) -> bool:
    """Whether a step takes columns by their names, which a matrix has not."""
    if depth > DEPTH_MAX:
        return False
    if hasattr(model, "transformers_"):
        return any(_are_names(columns) for _, _, columns in model.transformers_)
    return any(picks_by_name(step, depth + 1) for step in _steps(model))


def _found(model: Any, names: Sequence[str]) -> Iterator[tuple[str, Feature]]:
    """By name. Columns that are dropped are not among them."""
    kinds = _kinds(model, range(len(names)), names, 0)
    for number, name in enumerate(names):
        if number in kinds:
            yield name, Feature(name, *kinds[number])


def _kinds(model: Any, places: Sequence[int], names: Sequence[str], depth: int) -> dict[int, tuple[pa.DataType, Any]]:
    """Type and example by the feature's place, of what this step takes at these places."""
    numbers = dict.fromkeys(places, (pa.float64(), 0.0))
    if depth > DEPTH_MAX:
        return numbers
    if hasattr(model, "transformers_"):
        found: dict[int, tuple[pa.DataType, Any]] = {}
        for _, step, columns in model.transformers_:
            if isinstance(step, str) and step == "drop":
                continue
            taken = [places[each] for each in _places(columns, [names[place] for place in places])]
            for place, kind in _kinds(step, taken, names, depth + 1).items():
                if place not in found or found[place][0] == pa.float64():
                    found[place] = kind
        return found
    if hasattr(model, "build_analyzer"):
        return dict.fromkeys(places, (pa.string(), "text"))
    categories = getattr(model, "categories_", None)
    if categories is not None and len(categories) == len(places):
        return {place: _of_values(each) for place, each in zip(places, categories, strict=True)}
    statistics = getattr(model, "statistics_", None)
    if statistics is not None and len(statistics) == len(places) and np.asarray(statistics).dtype == object:
        return {place: _of_values([each]) for place, each in zip(places, statistics, strict=True)}
    for step in _steps(model):
        return _kinds(step, places, names, depth + 1)
    return numbers


def _steps(model: Any) -> Iterator[Any]:
    """What looks at the rows in the estimator's place: the first step of a pipeline that does anything, the best one
    that a search found, the branches of a union."""
    best = getattr(model, "best_estimator_", None)
    if best is not None:
        yield best
        return
    for _, step, *_ in getattr(model, "steps", None) or getattr(model, "transformer_list", None) or ():
        if not isinstance(step, str) and step is not None:
            yield step


def _places(columns: Any, names: Sequence[str]) -> list[int]:
    """Columns as a column transformer names them: by name, place, slice or mask."""
    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            start = names.index(columns.start) if columns.start else 0
            return list(range(start, names.index(columns.stop) + 1 if columns.stop else len(names)))
        return list(range(len(names)))[columns]
    each = [columns] if isinstance(columns, str | int) else list(columns)
    if each and all(isinstance(one, bool | np.bool_) for one in each):
        return [place for place, taken in enumerate(each) if taken]
    return [names.index(one) if isinstance(one, str) else int(one) % max(1, len(names)) for one in each]


def _are_names(columns: Any) -> bool:
    if isinstance(columns, slice):
        return isinstance(columns.start, str) or isinstance(columns.stop, str)
    return isinstance(columns, str) or (isinstance(columns, Iterable) and any(isinstance(one, str) for one in columns))


def _of_values(values: Any) -> tuple[pa.DataType, Any]:
    """Type and example of what an encoder knows: texts, numbers or truths."""
    known = [each for each in (values.tolist() if hasattr(values, "tolist") else values) if not _is_missing(each)]
    example = known[0] if known else 0.0
    kinds = {str: pa.string(), bool: pa.bool_(), int: pa.int64()}
    return kinds.get(type(example), pa.float64()), example


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _given(feature: Feature, kind: pa.DataType) -> Feature:
    try:
        pa.scalar(feature.example, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return Feature(feature.name, kind, _example(kind))
    return Feature(feature.name, kind, feature.example)


def _example(kind: pa.DataType) -> Any:
    for value in (0.0, "text", 0, False):
        try:
            return pa.scalar(value, kind).as_py()
        except (pa.ArrowException, TypeError, ValueError):
            continue
    return None
