"""What users write: classes become deployments, their public methods are served.

`@deployment(...)` leaves the class what it was, a plain class that is instantiated and tested without
flightserve, and adds `bind`, which notes the arguments its replicas are made with. `@single_input` and
`@method(...)` leave notes on functions. `App` (`composition`) collects what is bound; `spec_of` turns one of them into
the `DeploymentSpec` that the tiers share.

The annotation of a method's first parameter picks the form it takes; without one it gets a record batch.
Annotations that are strings are looked up among the function's globals, and where that fails (a name that is
imported for type checkers only) they are recognised by their usual spelling.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import hashlib
import inspect
import pickle
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar, overload

import pyarrow as pa

from flightserve.errors import ConfigError
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
F = TypeVar("F")

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
ROUTERS: Final = ("fifo", "deadline")
DOC_CHARACTERS_MAX: Final = 2048
# How deep in an argument's containers other deployments are looked for.
NESTING_MAX: Final = 8

_MARKS: Final = "__flightserve_method__"
_DECLARED: Final = "__flightserve_deployment__"
_OPTIONS: Final = {field.name: field for field in dataclasses.fields(DeploymentOptions)}
# Zero is a choice for these; every other number is a size, a count or a time and must be greater.
_ZERO_ALLOWED: Final = frozenset({"linger_ms", "max_queue_wait_ms", "num_cpus", "num_gpus"})
# How forms are spelled where the name behind an annotation is known to type checkers only.
_SPELLED: Final = {
    "RecordBatch": "record_batch",
    "pa.RecordBatch": "record_batch",
    "pyarrow.RecordBatch": "record_batch",
    "pa.Table": "table",
    "pyarrow.Table": "table",
    "pl.DataFrame": "polars",
    "polars.DataFrame": "polars",
    "pd.DataFrame": "pandas",
    "pandas.DataFrame": "pandas",
}


# ---- classes


class Deployable(Protocol, Generic[P, T_co]):
    """A decorated class as type checkers see it: called as before, and `bind`."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Bound: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """A class, the arguments each of its replicas is made with, its options and the name it is served by."""

    cls: type
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    settings: DeploymentOptions
    name: str

    def options(self, *, name: str | None = None, **changes: Any) -> Bound:
        """The same with other options or another name. Raises ConfigError as `@deployment` does."""
        return dataclasses.replace(
            self,
            settings=make_options(changes, self.settings),
            name=self.name if name is None else check_name(name),
        )

    def callees(self) -> tuple[str, ...]:
        """Names of the deployments that it calls."""
        found: list[str] = []
        for value in (*self.args, *self.kwargs.values()):
            replaced(value, Callee, lambda callee: found.append(callee.name))
        return tuple(dict.fromkeys(found))

    def make(self, remote: Callable[[str], Any] | None = None) -> Any:
        """A new object of the class, as every replica makes its own. `remote` gives what stands for the deployment
        of a name that it calls; raises ConfigError where it calls one and there is no `remote`."""

        def stand_in(callee: Callee) -> Any:
            if remote is None:
                raise ConfigError(f"{self.name} calls {callee.name}, which is only there when both are served")
            return remote(callee.name)

        args = [replaced(value, Callee, stand_in) for value in self.args]
        kwargs = {key: replaced(value, Callee, stand_in) for key, value in self.kwargs.items()}
        # A class may want to know the name it is served by, as an argument that it names itself.
        wanted = getattr(self.cls, "flightserve_named", None)
        return self.cls(*args, **kwargs, **({} if wanted is None else {wanted: self.name}))


@dataclass(frozen=True, slots=True)
class Callee:
    """A deployment of the same app, by its name, among the arguments of one that calls it."""

    name: str


def replaced(value: Any, kind: type, change: Callable[[Any], Any], depth: int = 0) -> Any:
    """The value with every instance of `kind` in it changed; looked for in lists, tuples and dicts' values, down to
    `NESTING_MAX`. Containers without one are handed back as they are."""
    if isinstance(value, kind):
        return change(value)
    if type(value) not in (list, tuple, dict) or depth == NESTING_MAX:
        return value
    inside = list(value.values() if type(value) is dict else value)
    changed = [replaced(each, kind, change, depth + 1) for each in inside]
    if all(new is old for new, old in zip(changed, inside, strict=True)):
        return value
    return dict(zip(value, changed, strict=True)) if type(value) is dict else type(value)(changed)


@overload
def deployment(cls: Callable[P, T], /) -> Deployable[P, T]: ...
@overload
def deployment(*, name: str | None = None, **options: Any) -> Callable[[Callable[P, T]], Deployable[P, T]]: ...
def deployment(cls: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a class a deployment: `@deployment` or `@deployment(replicas=2, ...)`.

    Options are the fields of `DeploymentOptions`; `name` is what it is served by (default: the class's name).
    Raises ConfigError for an unknown option, a wrong type, a size that is not positive, or a router that
    there is not.
    """
    settings = make_options(options, DeploymentOptions())
    if name is not None:
        check_name(name)

    def declare(target: Any) -> Any:
        if not inspect.isclass(target):
            raise ConfigError(f"@deployment decorates classes; {target!r} is not one")
        own = vars(target).get("bind")
        if own is not None and getattr(own, "__func__", None) is not _bind:
            raise ConfigError(f"{target.__name__} has a method `bind`; that name is taken by deployments")
        setattr(target, _DECLARED, (target, settings, name))
        target.bind = classmethod(_bind)  # type: ignore[attr-defined]
        return target

    return declare if cls is None else declare(cls)


def _bind(cls: type, /, *args: Any, **kwargs: Any) -> Bound:
    """Note the arguments that each replica's object is made with. Raises ConfigError if `__init__` does not
    take them."""
    declared_on, settings, name = getattr(cls, _DECLARED)
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}.bind(): {error}") from error
    except ValueError:  # no signature to be had, as for some classes written in C
        pass
    # A subclass that is not decorated itself is served with its parent's options, by its own name.
    chosen = name if cls is declared_on and name else cls.__name__
    return Bound(cls, args, kwargs, settings, check_name(chosen))


def make_options(changes: Mapping[str, Any], base: DeploymentOptions) -> DeploymentOptions:
    """`base` with `changes`, each of them checked. Raises ConfigError."""
    for key, value in changes.items():
        if key not in _OPTIONS:
            raise ConfigError(f"unknown deployment option {key!r}; there are: name, {', '.join(_OPTIONS)}")
        _check_option(key, value)
    chosen = dataclasses.replace(base, **changes)
    if chosen.default_timeout_ms > chosen.max_timeout_ms:
        raise ConfigError(
            f"default_timeout_ms is {chosen.default_timeout_ms}, more than max_timeout_ms, {chosen.max_timeout_ms}"
        )
    return chosen


def _check_option(key: str, value: Any) -> None:
    if key == "router":
        if value not in ROUTERS:
            raise ConfigError(f"router is {value!r}; it is one of {', '.join(map(repr, ROUTERS))}")
    elif key == "resources":
        if not isinstance(value, dict) or not all(isinstance(k, str) and _is_number(v) for k, v in value.items()):
            raise ConfigError(f"resources is {value!r}; it is a dict of names and amounts")
        for name, amount in value.items():
            _check_amount(f"resources[{name!r}]", amount, zero_allowed=False)
    elif key == "adaptive_limit":
        if not isinstance(value, bool):
            raise ConfigError(f"adaptive_limit is {value!r}; it is True or False")
    else:
        whole = _OPTIONS[key].type == "int"
        if not _is_number(value) or (whole and not isinstance(value, int)):
            raise ConfigError(f"{key} is {value!r}; it is {'a whole number' if whole else 'a number'}")
        _check_amount(key, value, zero_allowed=key in _ZERO_ALLOWED)


def _check_amount(key: str, value: float, *, zero_allowed: bool) -> None:
    if not (value >= 0 if zero_allowed else value > 0) or value == float("inf"):
        wanted = "finite" if value == float("inf") else "at least 0" if zero_allowed else "greater than 0"
        raise ConfigError(f"{key} is {value}; it must be {wanted}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_name(name: Any) -> str:
    """The name, if a deployment may be called so. Raises ConfigError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{str(name)[:160]!r} cannot name a deployment: a letter or underscore, then at most 127 letters, "
            "digits, underscores, dots and dashes"
        )
    return name


def described(value: Any) -> str:
    """A value that is not what it should be, for messages."""
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__


# ---- methods


@dataclass(frozen=True, slots=True)
class Marks:
    """What decorators noted on a function."""

    single_input: bool = False
    input: pa.Schema | None = None
    output: pa.Schema | None = None
    row_aligned: bool = True
    idempotent: bool = True


def single_input(function: F) -> F:
    """Run the method in a for loop over the rows of the micro-batch, each row a dict of Python values.

    It returns one dict for each row (a column for each key), or one value (a column called `result`).
    """
    return _mark(function, single_input=True)


@overload
def method(function: F, /) -> F: ...
@overload
def method(
    *,
    input: pa.Schema | None = None,
    output: pa.Schema | None = None,
    row_aligned: bool = True,
    idempotent: bool = True,
) -> Callable[[F], F]: ...
def method(
    function: Any = None,
    /,
    *,
    input: pa.Schema | None = None,
    output: pa.Schema | None = None,
    row_aligned: bool = True,
    idempotent: bool = True,
) -> Any:
    """Say more of a served method.

    `input` and `output` are schemas: requests are checked at the edge, results when the method returns. A
    method with `row_aligned=False` gets one request at a time and may return any number of rows. One with
    `idempotent=False` is never run twice for a request, whatever fails.
    """
    for label, schema in (("input", input), ("output", output)):
        if schema is not None and not isinstance(schema, pa.Schema):
            raise ConfigError(f"@method({label}=...) takes a pyarrow.Schema, not {type(schema).__name__}")
    if input is not None and not input.names:
        # Batches without columns are refused at the edge: nobody could call it.
        raise ConfigError("@method(input=...) has no columns; leave it out to take whatever comes")
    for label, flag in (("row_aligned", row_aligned), ("idempotent", idempotent)):
        if not isinstance(flag, bool):
            raise ConfigError(f"@method({label}=...) takes True or False, not {flag!r}")

    def note(target: Any) -> Any:
        return _mark(target, input=input, output=output, row_aligned=row_aligned, idempotent=idempotent)

    return note if function is None else note(function)


def _mark(function: F, **changes: Any) -> F:
    target = _plain(function)
    if not callable(target) or inspect.isclass(target):
        raise ConfigError(f"{function!r} is not a method; @single_input and @method decorate methods")
    setattr(target, _MARKS, dataclasses.replace(getattr(target, _MARKS, Marks()), **changes))
    return function


def _plain(function: Any) -> Any:
    return function.__func__ if isinstance(function, (staticmethod, classmethod)) else function


# ---- specs


def spec_of(bound: Bound, version: str = "") -> DeploymentSpec:
    """The deployment as the tiers know it. `version` changes when what it runs does; by default it is a hash
    of the class's source, arguments, options and methods. Raises ConfigError for a class that cannot be served.

    A class whose methods are not written down in it says itself what it serves, by a class method
    `flightserve_spec(bound, version)`.
    """
    own = getattr(bound.cls, "flightserve_spec", None)
    if own is not None:
        spec: DeploymentSpec = own(bound, version)
        return spec
    methods = tuple(_method_specs(bound.cls))
    if not methods:
        raise ConfigError(f"{bound.cls.__name__} has no public method that takes a batch; there is nothing to serve")
    if not version:
        version = _version(bound, methods)
    return DeploymentSpec(bound.name, version, bound.settings, methods, first_paragraph(vars(bound.cls).get("__doc__")))


def _version(bound: Bound, methods: tuple[MethodSpec, ...]) -> str:
    cls = bound.cls
    # The functions' source, not the class's: finding a class parses the whole file, which CPython 3.11 may fail
    # to do while other threads run.
    functions = [function for value in vars(cls).values() if inspect.isfunction(function := _plain(value))]
    try:
        source = "".join(inspect.getsource(function) for function in functions)
    except (OSError, TypeError):
        source = ""
    try:
        arguments = pickle.dumps((bound.args, dict(bound.kwargs)))
    except Exception:  # an argument that cannot be pickled says nothing about the version
        arguments = b""
    text = repr((cls.__module__, cls.__qualname__, source, bound.settings, methods)).encode()
    return hashlib.blake2b(text + arguments, digest_size=8).hexdigest()


def _method_specs(cls: type) -> Iterator[MethodSpec]:
    """One spec a public method, in the order they were written, parents first."""
    names = dict.fromkeys(name for parent in reversed(cls.__mro__) for name in vars(parent))
    for name in names:
        raw = inspect.getattr_static(cls, name)
        function = _plain(raw)
        if name.startswith("_") or function is _bind or not _is_function(function):
            continue
        spec = _method_spec(cls, name, raw, own=name in vars(cls))
        if spec is not None:
            yield spec


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value) or (hasattr(value, "__wrapped__") and callable(value))


def _method_spec(cls: type, name: str, raw: Any, *, own: bool) -> MethodSpec | None:
    """The spec, or None for a helper: no parameter for a batch, or inherited and not made for one."""
    function = _plain(raw)
    marks: Marks | None = getattr(function, _MARKS, None)
    where = f"{cls.__name__}.{name}"
    try:
        parameter = _batch_parameter(function, skip_first=not isinstance(raw, staticmethod), where=where)
        if parameter is None:
            if marks is not None:
                raise ConfigError(f"{where} takes no argument; a served method takes a batch (or a row)")
            return None
        return _spec_of_function(function, name, where, parameter, marks or Marks())
    except ConfigError:
        if own or marks is not None:
            raise
        return None


def _spec_of_function(function: Any, name: str, where: str, parameter: inspect.Parameter, marks: Marks) -> MethodSpec:
    code = inspect.unwrap(function)
    streaming = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
    if marks.single_input and streaming:
        raise ConfigError(f"{where} is @single_input and a generator; a row gives one result")
    if marks.single_input and not marks.row_aligned:
        raise ConfigError(f"{where} is @single_input and row_aligned=False; a row gives one result")
    return MethodSpec(
        name=name,
        form=_form(function, parameter, where, marks.single_input),
        row_aligned=marks.row_aligned and not streaming,
        idempotent=marks.idempotent,
        streaming=streaming,
        is_async=inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code),
        input_schema=None if marks.input is None else marks.input.serialize().to_pybytes(),
        output_schema=None if marks.output is None else marks.output.serialize().to_pybytes(),
        doc=first_paragraph(getattr(function, "__doc__", None)),
    )


def _batch_parameter(function: Any, *, skip_first: bool, where: str) -> inspect.Parameter | None:
    """The parameter that takes the batch, None when there is none."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return inspect.Parameter("batch", inspect.Parameter.POSITIONAL_ONLY)
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    if skip_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    takers = [p for p in parameters if p.kind in positional]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if len(required) > 1 or (required and (not takers or takers[0].name != required[0])):
        raise ConfigError(
            f"{where} needs the arguments {', '.join(required)}; a served method takes one, the batch (a helper's "
            "name begins with an underscore)"
        )
    return takers[0] if takers else None


def _form(function: Any, parameter: inspect.Parameter, where: str, row: bool) -> str:
    annotation = _resolved(function, parameter.annotation)
    form = _form_of(annotation)
    if row:
        if form in ("record_batch", "table", "polars", "pandas") and annotation is not None:
            raise ConfigError(f"{where} is @single_input, which takes a row as a dict, but is annotated with {form}")
        return "row"
    if form is None:
        raise ConfigError(
            f"{where} is annotated with {_spelling(annotation)}; a method takes pa.RecordBatch, pa.Table, "
            "dict[str, numpy.ndarray], polars.DataFrame or pandas.DataFrame, or a dict with @single_input"
        )
    return form


def _resolved(function: Any, annotation: Any) -> Any:
    """The annotation's value, its text where a name in it is unknown, None where there is none."""
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return None
    if isinstance(annotation, str):
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        try:
            annotation = typing.get_type_hints(_Hint(annotation), globalns=scope, include_extras=False)["it"]
        except Exception:  # whatever evaluating a stranger's expression raises: the text is what is left
            return annotation.strip("'\" ")
    if annotation is Any or annotation is object or isinstance(annotation, TypeVar):
        return None
    return annotation


class _Hint:
    """One annotation, where `typing.get_type_hints` looks for it."""

    def __init__(self, annotation: str) -> None:
        self.__annotations__ = {"it": annotation}


def _form_of(annotation: Any) -> str | None:
    if annotation is None:
        return "record_batch"
    if isinstance(annotation, str):
        compact = annotation.replace(" ", "")
        return "numpy" if compact.lower().startswith(("dict[", "mapping[")) else _SPELLED.get(compact)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _form_of(typing.get_args(annotation)[0])
    if (origin or annotation) in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return "numpy"
    if annotation is pa.RecordBatch:
        return "record_batch"
    if annotation is pa.Table:
        return "table"
    if getattr(annotation, "__name__", "") == "DataFrame":
        package = str(getattr(annotation, "__module__", "")).partition(".")[0]
        return package if package in ("polars", "pandas") else None
    return None


def _spelling(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def first_paragraph(doc: str | None) -> str:
    """A docstring's first paragraph on one line, bounded."""
    if not doc:
        return ""
    return " ".join(inspect.cleandoc(doc).partition("\n\n")[0].split())[:DOC_CHARACTERS_MAX]
