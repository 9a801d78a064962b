"""The decorators: what they leave on classes and functions, and `bind`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar, Unpack

import pyarrow as pa

from flightserve.declare.bound import Bound
from flightserve.declare.decorating import ClassOrNone, FunctionOrNone, itself
from flightserve.declare.hooks import MARKS
from flightserve.declare.options import Options, check_name, make_options
from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F")

# Rows that a method takes: columns by name, rows one by one, or as Arrow has them.
Example: TypeAlias = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table

# Micro-batches of one `async def` method that a replica may run at a time.
CONCURRENT_MAX: Final = 4096
_DECLARED: Final = "__flightserve_deployment__"


# ---- classes


def deployment(
    cls: ClassOrNone = itself,  # type: ignore[assignment]
    /,
    *,
    name: str | None = None,
    **options: Unpack[Options],
) -> ClassOrNone:
    """Make a class a deployment: `@deployment` or `@deployment(replicas=2, ...)`.

    Options are the fields of `DeploymentOptions`; `name` is what it is served by (default: the class's name).
    Raises ConfigError for an unknown option, a wrong type, a size that is not positive, or a router that
    there is not. The class stays the class it is, to type checkers too: what it gets, `Pricing.bind(...)`, they do not
    know (mypy passes over what a class decorator returns); they follow the function, `fs.bind(Pricing, ...)`.
    """
    settings = make_options(options, DeploymentOptions())
    if name is not None:
        check_name(name)

    def declare(target: Any) -> Any:
        if not inspect.isclass(target):
            raise ConfigError(f"@deployment decorates classes; {target!r} is not one")
        own = vars(target).get("bind")
        if own is not None and getattr(own, "__func__", None) is not bind_class:
            raise ConfigError(f"{target.__name__} has a method `bind`; that name is taken by deployments")
        setattr(target, _DECLARED, (target, settings, name))
        target.bind = classmethod(bind_class)  # type: ignore[attr-defined]
        return target

    return declare if cls is itself else declare(cls)  # type: ignore[return-value]


def bind(cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Bound[T]:
    """Note the arguments that each replica's object of the class is made with. Type checkers compare them with those of
    `__init__`. For classes that are decorated and for others, which have the default options.

    What comes back may be an argument of another `bind`: that class gets a `Handle`. Raises ConfigError if `__init__`
    does not take the arguments, or for what is no class."""
    if not inspect.isclass(cls):
        raise ConfigError(f"bind() takes a class and its arguments, as in bind(Pricing, tax=0.08); {cls!r} is no class")
    return bind_class(cls, *args, **kwargs)


def bind_class(cls: type, /, *args: Any, **kwargs: Any) -> Bound[Any]:
    """Note the arguments that each replica's object is made with. Raises ConfigError if `__init__` does not
    take them."""
    declared_on, settings, name = getattr(cls, _DECLARED, (cls, DeploymentOptions(), None))
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}.bind(): {error}") from error
    except ValueError:  # no signature to be had, as for some classes written in C
        pass
    # A subclass that is not decorated itself is served with its parent's options, by its own name.
    chosen = name if cls is declared_on and name else cls.__name__
    return Bound(cls, args, kwargs, settings, check_name(chosen))


# ---- methods


@dataclass(frozen=True, slots=True)
class Marks:
    """What decorators noted on a function."""

    single_input: bool = False
    input: pa.Schema | None = None
    output: pa.Schema | None = None
    row_aligned: bool = True
    idempotent: bool = True
    # None: as the deployment has it.
    strict: bool | None = None
    example: Example | None = None
    delimited: bool = False
    # 0: as many as the replica runs of any.
    max_concurrent: int = 0


def single_input(function: F) -> F:
    """Run the method in a for loop over the rows of the micro-batch, each row a dict of Python values.

    It returns one dict for each row (a column for each key), or one value (a column called `result`).
    """
    return _mark(function, single_input=True)


def method(
    function: FunctionOrNone = itself,  # type: ignore[assignment]
    /,
    *,
    input: pa.Schema | None = None,
    output: pa.Schema | None = None,
    row_aligned: bool = True,
    idempotent: bool = True,
    strict: bool | None = None,
    example: Example | None = None,
    max_concurrent: int | None = None,
    delimited: bool = False,
) -> FunctionOrNone:
    """Say more of a served method.

    `input` and `output` are schemas: requests are checked at the edge, results when the method returns. A
    method with `row_aligned=False` gets one request at a time and may return any number of rows. One with
    `idempotent=False` is never run twice for a request, whatever fails. Columns that are not of the types of `input`
    are cast where every value stays what it is; with `strict=True`, here or for the deployment, they are refused.
    `example` are a few rows that the method takes, as columns (`{"price": [9.5]}`) or one by one (`[{"price": 9.5}]`):
    what `/docs` and `/openapi.json` show. Of an `async def` method one replica runs at most `max_concurrent`
    micro-batches at a time. A `delimited` method gets the rows of many requests at once, and returns, or yields, any
    number of rows for each; the first column of its batches, `rid` of int64, says which row of its input each is for.
    """
    for label, schema in (("input", input), ("output", output)):
        if schema is not None and not isinstance(schema, pa.Schema):
            raise ConfigError(f"@method({label}=...) takes a pyarrow.Schema, not {type(schema).__name__}")
    if input is not None and not input.names:
        # Batches without columns are refused at the edge: nobody could call it.
        raise ConfigError("@method(input=...) has no columns; leave it out to take whatever comes")
    flags = {"row_aligned": row_aligned, "idempotent": idempotent, "strict": strict, "delimited": delimited}
    for label, flag in flags.items():
        if not isinstance(flag, bool) and not (label == "strict" and flag is None):
            raise ConfigError(f"@method({label}=...) takes True or False, not {flag!r}")
    if max_concurrent is not None:
        _check_concurrent(max_concurrent)

    def note(target: Any) -> Any:
        return _mark(target, input=input, output=output, example=example, max_concurrent=max_concurrent or 0, **flags)

    return note if function is itself else note(function)  # type: ignore[return-value]


def _check_concurrent(most: Any) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= CONCURRENT_MAX:
        raise ConfigError(f"@method(max_concurrent=...) takes a whole number from 1 to {CONCURRENT_MAX}, not {most!r}")


def _mark(function: F, **changes: Any) -> F:
    target = plain(function)
    if not callable(target) or inspect.isclass(target):
        raise ConfigError(f"{function!r} is not a method; @single_input and @method decorate methods")
    setattr(target, MARKS, dataclasses.replace(getattr(target, MARKS, Marks()), **changes))
    return function


def plain(function: Any) -> Any:
    """What a static or class method wraps."""
    return function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
