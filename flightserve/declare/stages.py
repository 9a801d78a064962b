"""What a pipeline is written in: stages, chained by `>>`, side by side in `join`, picked by value in `switch`.

    clean.clean >> fs.join(model.predict, explain.why) >> shape.shape

They are values and do nothing: `fs.pipeline` makes a deployment of them (`flightserve.pipelines`). A method of a bound
deployment is the smallest stage. Names that a `Bound` has itself (`name`, `options`, ...) are reached by
`clean["options"]`.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from flightserve.declare.options import describe_value
from flightserve.errors import ConfigError

# Of one pipeline, those of a join or a switch counted each; the stages of a pipeline within are its own.
STAGES_MAX: Final = 256
# Joins and switches within each other.
DEPTH_MAX: Final = 16
# What a column's values may be compared with.
KEY_TYPES: Final = (bool, int, str, bytes, datetime.datetime, datetime.date, decimal.Decimal)


class Chainable:
    """What may stand beside `>>`."""

    __slots__ = ()

    def as_stage(self) -> Stage:
        """It as a stage. Raises ConfigError for what is none by itself."""
        raise NotImplementedError

    def __rshift__(self, following: Chainable, /) -> Stage:
        return chained(self, following)

    def __rrshift__(self, before: object, /) -> Stage:
        return chained(before, self)


class Stage(Chainable):
    """A part of a pipeline: takes rows and answers rows. `a >> b`: the rows that `a` answers go to `b`."""

    __slots__ = ()

    if not TYPE_CHECKING:  # type checkers say themselves that it cannot be called

        def __call__(self, *_: Any, **__: Any) -> NoReturn:
            raise TypeError(
                f"{self.label} is a stage of a pipeline, and runs nothing here: serve it, or try it by "
                "flightserve.testing.LocalService"
            )

    def as_stage(self) -> Stage:
        """Itself."""
        return self

    @property
    def label(self) -> str:
        """What it is called in messages."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """All of it."""
        return self.label

    def within(self) -> tuple[Stage, ...]:
        """The stages that it is made of."""
        return ()

    def changed(self, change: Callable[[Stage], Stage]) -> Stage:
        """The same of other stages."""
        return self

    def __repr__(self) -> str:
        return f"<Stage {self.label}>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StageCall(Stage):
    """A method of a deployment. `deployment` is what was bound; in a replica, which of those that it calls."""

    deployment: Any
    method: str

    @property
    def label(self) -> str:
        return f"{getattr(self.deployment, 'name', self.deployment)}.{self.method}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Chain(Stage):
    """One after another; none of them is a chain."""

    stages: tuple[Stage, ...]

    @property
    def label(self) -> str:
        return " >> ".join(stage.label for stage in self.stages)

    @property
    def text(self) -> str:
        return " >> ".join(stage.text for stage in self.stages)

    def within(self) -> tuple[Stage, ...]:
        return self.stages

    def changed(self, change: Callable[[Stage], Stage]) -> Stage:
        return Chain(tuple(map(change, self.stages)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Join(Stage):
    """Side by side, for the same rows."""

    branches: tuple[Stage, ...]
    combine: Callable[..., Any] | None = None
    # It takes one list of batches, and not each as an argument.
    takes_list: bool = False

    @property
    def label(self) -> str:
        return f"join({', '.join(branch.label for branch in self.branches)})"

    @property
    def text(self) -> str:
        combine = "" if self.combine is None else f", combine={getattr(self.combine, '__name__', '...')}"
        return f"join({', '.join(branch.text for branch in self.branches)}{combine})"

    def within(self) -> tuple[Stage, ...]:
        return self.branches

    def changed(self, change: Callable[[Stage], Stage]) -> Stage:
        return dataclasses.replace(self, branches=tuple(map(change, self.branches)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Switch(Stage):
    """Each row to the case of its value; `keys` and `cases` go together."""

    column: str
    keys: tuple[Any, ...]
    cases: tuple[Stage, ...]
    default: Stage | None = None

    @property
    def label(self) -> str:
        return f"switch({self.column!r})"

    @property
    def text(self) -> str:
        cases = ", ".join(f"{key!r}: {case.text}" for key, case in zip(self.keys, self.cases, strict=True))
        default = "" if self.default is None else f", default={self.default.text}"
        return f"switch({self.column!r}, {{{cases}}}{default})"

    def within(self) -> tuple[Stage, ...]:
        return self.cases if self.default is None else (*self.cases, self.default)

    def changed(self, change: Callable[[Stage], Stage]) -> Stage:
        default = None if self.default is None else change(self.default)
        return dataclasses.replace(self, cases=tuple(map(change, self.cases)), default=default)


def join(*branches: Chainable, combine: Callable[..., Any] | None = None) -> Stage:
    """Run stages side by side on the same rows: `fs.join(model.predict, explain.why)`.

    The answers' columns are put side by side: as many rows from each, and no name twice. `combine` is a function that
    makes something else of them. It takes a record batch for each branch, or one list of all, runs in the pipeline's
    own replicas, and returns what a method may return. Raises ConfigError for fewer than two branches, what is no
    stage, and a `combine` that does not take as many batches."""
    if len(branches) < 2:
        raise ConfigError("join() runs two or more stages side by side, as in join(model.predict, explain.why)")
    stages = tuple(map(stage_of, branches))
    return Join(stages, combine, combine is not None and _takes_list(combine, len(stages)))


def switch(column: str, cases: Mapping[Any, Chainable], *, default: Chainable | None = None) -> Stage:
    """Send each row to the stage of its value in a column: `fs.switch("kind", {"a": fast.run, "b": slow.run})`.

    Each stage answers a row for each that it gets, all with the same columns; the answers are in the rows' order. Nulls
    and values that are no case go to `default`; without one the request is refused with the row. Values are all of one
    type: strings, whole numbers, booleans, bytes, dates, times or decimals. Raises ConfigError otherwise, and for no
    case, or what is no stage."""
    if not isinstance(column, str) or not column:
        raise ConfigError(f"switch() takes the name of a column first, not {describe_value(column)}")
    if not isinstance(cases, Mapping) or not cases:
        raise ConfigError("switch() takes a stage for each value, as in switch('kind', {'a': fast.run, 'b': slow.run})")
    keys = tuple(cases)
    _check_keys(column, keys)
    stages = tuple(map(stage_of, cases.values()))
    return Switch(column, keys, stages, None if default is None else stage_of(default))


def chained(before: object, following: object) -> Stage:
    """One after the other. Raises ConfigError for what is no stage."""
    return Chain(tuple(_links(stage_of(before))) + tuple(_links(stage_of(following))))


def stage_of(value: object) -> Stage:
    """The value as a stage. Raises ConfigError."""
    if isinstance(value, Chainable):
        return value.as_stage()
    if inspect.isroutine(value):
        name = getattr(value, "__qualname__", "the function")
        raise ConfigError(
            f"{name} is a function; a stage is a method of a bound deployment: bind the class, as in "
            "clean = fs.bind(Clean), and name its method, as in clean.clean"
        )
    raise ConfigError(
        f"a stage is a method of a bound deployment, as in fs.bind(Clean).clean; not {describe_value(value)}"
    )


def calls_of(stage: Stage) -> Iterator[StageCall]:
    """Every method in it, in order. Raises ConfigError for more than the bounds allow."""
    for number, call in enumerate(_calls(stage, 0), 1):
        if number > STAGES_MAX:
            raise ConfigError(f"a pipeline has at most {STAGES_MAX} stages; make some of them a pipeline of their own")
        yield call


def _calls(stage: Stage, depth: int) -> Iterator[StageCall]:
    if isinstance(stage, StageCall):
        yield stage
        return
    depth += not isinstance(stage, Chain)
    if depth > DEPTH_MAX:
        raise ConfigError(f"joins and switches are at most {DEPTH_MAX} deep within each other")
    for inner in stage.within():
        yield from _calls(inner, depth)


def _links(stage: Stage) -> tuple[Stage, ...]:
    return stage.stages if isinstance(stage, Chain) else (stage,)


def _check_keys(column: str, keys: tuple[Any, ...]) -> None:
    where = f"switch({column!r})"
    for key in keys:
        if key is None:
            raise ConfigError(f"{where}: null is no case; rows without a value go to default=")
        if type(key) not in KEY_TYPES:
            raise ConfigError(
                f"{where}: the case {str(key)[:80]!r} is {describe_value(key)}; cases are strings, whole numbers, "
                "booleans, bytes, dates, times or decimals"
            )
    kinds = list(dict.fromkeys(type(key).__name__ for key in keys))
    if len(kinds) > 1:
        raise ConfigError(f"{where}: cases are of one type, and these are {' and '.join(kinds)}")


def _takes_list(combine: Any, branches: int) -> bool:
    if not callable(combine) or isinstance(combine, Stage):
        raise ConfigError(f"join(combine=...) takes a function of batches, not {describe_value(combine)}")
    try:
        signature = inspect.signature(combine)
    except (TypeError, ValueError):  # written in C: it will say itself what it takes
        return False
    for takes_list, arguments in ((False, [None] * branches), (True, [None])):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return takes_list
    name = getattr(combine, "__name__", "it")
    raise ConfigError(f"join(combine={name}): {name}{signature} does not take {branches} batches, nor one list of them")
